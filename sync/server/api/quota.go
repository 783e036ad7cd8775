package api

import (
	"encoding/json"
	"time"

	"golang.org/x/time/rate"
)

// quota bounds what one device may make this node write: it is somebody else's machine, and whoever owns it can send
// what they like. A device that works as it should comes nowhere near: a report with news a second is what an agent
// sends at most, and eight megabytes are ten thousand events a day.
type quota struct {
	reports, bytes *rate.Limiter
	said           time.Time
}

// say reports whether it is to be told again.
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

// events counts the events of a report, and reports whether they may be kept.
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
