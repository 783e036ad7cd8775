package agent

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// The size of a report's body. Proxies between device and server may have limits of their own; nginx's default of 1 MiB
// is the most common.
const (
	batchMost  = 768 << 10
	batchLeast = 2 << 10 // and at least one event in any case
	// batchRetry is how long a learnt limit lasts before a larger report is tried again, because the proxy may have
	// been reconfigured. It doubles up to batchRetryMost while the larger report is refused.
	batchRetry     = 10 * time.Minute
	batchRetryMost = 6 * time.Hour
)

// batch is how much a report may contain.
type batch struct {
	limit   int       // in bytes; 0 means batchMost
	without part      // parts that do not get through even alone, and are left out
	since   time.Time // applies to both
	retry   time.Duration
	more    bool // something was left for the next report
}

// part is a set of parts of a report.
type part uint8

const (
	theFacts part = 1 << iota
	theFindings
	theEvents
)

// refused handles an answer of 413. It reports whether a smaller report is worth sending.
func (b *batch) refused(r *protocol.Report, now time.Time) bool {
	things := len(r.Events)
	for _, is := range []bool{r.Device != nil, r.Findings != nil} {
		if is {
			things++
		}
	}
	most := b.most(now)
	if b.limit == batchMost && b.without == 0 { // the first refusal since the larger size was tried again
		b.retry = min(max(2*b.retry, batchRetry), batchRetryMost)
	}
	switch {
	case things == 1 && size(r) < batchLeast:
		return false // an empty report was refused: size was not the cause
	case things > 1 && most > batchLeast:
		b.limit = max(min(size(r), most)/2, batchLeast)
	case things == 0:
		return false
	case r.Device != nil:
		b.without |= theFacts
	case r.Findings != nil:
		b.without |= theFindings
	default:
		b.without |= theEvents
	}
	b.since = now
	return true
}

// most is how many bytes a report may have now. A limit that is old enough is forgotten, to try a larger report again.
func (b *batch) most(now time.Time) int {
	if b.limit == 0 || now.Sub(b.since) > max(b.retry, batchRetry) {
		b.limit, b.without = batchMost, 0
	}
	return b.limit
}

// fit removes from a report what does not fit into one body. has is what the server already has; want is what it will
// have after this report.
func (b *batch) fit(r *protocol.Report, has sent, want *sent, now time.Time) {
	left := b.most(now)
	r.Agent.Cut = b.cut()      // the facts usually carry this message, and they may be what is left out
	left -= min(4<<10, left/4) // the next report is for the rest
	facts := func() { r.Device, r.DeviceDigest, want.facts = nil, has.facts, has.facts }
	findings := func() {
		r.Findings, r.FindingsDigest, want.findings, want.whole = nil, has.findings, has.findings, has.whole
	}
	if b.more = false; b.without&theFacts != 0 && r.Device != nil {
		facts()
	}
	if b.without&theFindings != 0 && r.Findings != nil {
		findings()
	}
	if r.Findings != nil {
		left -= size(r.Findings)
	}
	if r.Device != nil {
		if n := size(r.Device); n > left && r.Findings != nil {
			facts() // the facts are the larger part, and the server can do without them longer
			b.more = true
		} else {
			left -= n
		}
	}
	if b.without&theEvents != 0 {
		r.Events = nil
	}
	for i := range r.Events {
		// One event always goes, but not together with a part that is already too large.
		if left -= size(&r.Events[i]) + 1; left < 0 && (i > 0 || r.Device != nil || r.Findings != nil) {
			r.Events, b.more = r.Events[:i], true
			break
		}
	}
}

// cut says what is left out; "" means nothing.
func (b *batch) cut() string {
	var what []string
	for p, name := range map[part]string{theFacts: "the facts of this machine", theFindings: "the findings", theEvents: "the events"} {
		if b.without&p != 0 {
			what = append(what, name)
		}
	}
	if len(what) == 0 {
		return ""
	}
	slices.Sort(what)
	return "the server, or something on the way to it, takes only smaller reports; not reported: " + strings.Join(what, ", ")
}

func size(v any) int { b, _ := json.Marshal(v); return len(b) }

// tooLarge reports whether an error is an answer of 413, from the server or from a proxy in front of it.
func tooLarge(err error) bool {
	var s *checkin.StatusError
	return errors.As(err, &s) && s.Code == http.StatusRequestEntityTooLarge
}
