package agent

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// In a hotel or a train, a portal answers instead of every server until its terms are accepted, and a policy about names may
// keep it out of reach. A user may open the way to it: for a few minutes, a few times a day, and only while the policy server
// cannot be reached. What the policy blocks stays refused.
const (
	portalFor  = 5 * time.Minute
	portalMost = 3
	portalDay  = 24 * time.Hour
	portalTry  = 15 * time.Second // between two check-ins while it is open
)

// portal is the window for a portal. Only the loop changes it.
type portal struct {
	until atomic.Pointer[time.Time] // nil: closed
	timer *time.Timer
	by    string // whose uid
}

// PortalStatus is a window that is open.
type PortalStatus struct {
	Until time.Time `json:"until"`
	Used  int       `json:"used"` // in the last 24 hours, with this one
	Most  int       `json:"most"`
}

// open says until when the window is open; the zero time if it is closed.
func (p *portal) open() time.Time {
	if t := p.until.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// used are the times of the last day at which a window was opened. Those after now count, too: the clock was changed.
func used(list []time.Time, now time.Time) (out []time.Time) {
	for _, t := range list {
		if now.Sub(t).Abs() < portalDay {
			out = append(out, t)
		}
	}
	return out
}

// postPortal opens the window. It asks first whether there can be a portal at all.
func (a *Agent) postPortal(ctx context.Context, c caller, _ *http.Request, _ []byte) (any, error) {
	conflict := func(format string, args ...any) (any, error) {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: fmt.Sprintf(format, args...)}
	}
	st, doc, _ := a.custody.view()
	switch {
	case st.Device == nil:
		return nil, refused(http.StatusConflict, ErrNotEnrolled)
	case doc == nil:
		return nil, noPolicy
	case st.Hold != nil:
		return conflict("the policy is suspended: it is in the way of no portal")
	}
	if rules := a.machine.opened(a.with(&st, doc)).Rules("network"); rules == nil || !rules.CanDeny() {
		return conflict("the policy refuses no names: it is in the way of no portal")
	}
	if a.portal.open().IsZero() {
		server, proxy := a.server()
		if a.o.Reach(ctx, server, proxy, true) == nil {
			return conflict("the policy server can be reached, so there is no portal in the way")
		}
	}
	var out PortalStatus
	var err error
	if e := a.call(ctx, func() { out, err = a.openPortal(c.UID) }); e != nil {
		return nil, e
	}
	return out, err
}

// openPortal opens the window, if it may be opened once more. That it was is stored before.
func (a *Agent) openPortal(by string) (PortalStatus, error) {
	now := a.o.Now()
	st := a.custody.state
	st.Portals = used(st.Portals, now)
	if until := a.portal.open(); !until.IsZero() {
		return PortalStatus{until.UTC(), len(st.Portals), portalMost}, nil
	}
	if n := len(st.Portals); n >= portalMost {
		return PortalStatus{}, &localapi.Error{Status: http.StatusTooManyRequests, Message: fmt.Sprintf(
			"the way to a portal was opened %d times in the last 24 hours; the next time is possible in %s", n,
			roughly(max(portalDay-now.Sub(st.Portals[0]), time.Minute)))}
	}
	st.Portals = append(st.Portals, now.UTC())
	if err := a.custody.save(st); err != nil {
		return PortalStatus{}, fmt.Errorf("that it was opened cannot be stored, so it stays closed: %w", err)
	}
	until := now.Add(portalFor)
	a.portal.until.Store(&until)
	a.portal.by = by
	a.portal.timer.Reset(portalFor)
	a.look()
	a.journal.record(enforce.Event{At: now.UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "portal", Subject: "uid " + by,
		Reason: fmt.Sprintf("names that are not blocked can be reached for %d minutes (%d of %d in a day)", int(portalFor.Minutes()),
			len(st.Portals), portalMost)})
	a.contact.soon(portalTry)
	return PortalStatus{until.UTC(), len(st.Portals), portalMost}, nil
}

// closePortal ends the window.
func (a *Agent) closePortal(why string) {
	if a.portal.open().IsZero() {
		return
	}
	a.portal.until.Store(nil)
	a.portal.timer.Stop()
	a.look()
	a.journal.record(enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "portal_ended",
		Subject: "uid " + a.portal.by, Reason: why})
}

// ajar is a document with the window, if it is open.
func (p *portal) ajar(d *policy.Document) *policy.Document {
	if until := p.open(); !until.IsZero() {
		return d.Ajar(until)
	}
	return d
}
