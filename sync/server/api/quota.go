package api

import (
	"encoding/json"
	"time"

	"golang.org/x/time/rate"
)

// quota bounds what one device may make this node write: whoever controls a device can send anything. A device that
// works as it should stays far below: an agent sends at most one report with news a second, and eight megabytes are ten
// thousand events a day.
type quota struct {
	reports, bytes *rate.Limiter
	said           time.Time
}

// say reports whether to log this again.
func (q *quota) say() bool {
	if time.Since(q.said) < time.Hour {
		return false
	}
	q.said = time.Now()
	return true
}

const (
	reportsASecond = 1
	reportsAtOnce  = 60
	eventsADay     = 8 << 20 // bytes
	eventsAtOnce   = 64 << 20
)

// report counts a report with news, and reports whether it may be written.
func (q *quota) report() bool {
	if q.reports == nil {
		q.reports = rate.NewLimiter(reportsASecond, reportsAtOnce)
	}
	return q.reports.Allow()
}

// events counts the events of a report, and reports whether they may be stored.
func (q *quota) events(list []json.RawMessage) bool {
	n := 0
	for _, e := range list {
		n += len(e)
	}
	if n == 0 {
		return true
	}
	if q.bytes == nil {
		q.bytes = rate.NewLimiter(rate.Limit(float64(eventsADay)/(24*time.Hour).Seconds()), eventsAtOnce)
	}
	return q.bytes.AllowN(time.Now(), n)
}
