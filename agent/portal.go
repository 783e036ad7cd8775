package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/sync/checkin"
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

// open says until when the window is open; the zero time if it is closed. It is by the wall clock, which does not stand still
// while the machine sleeps.
func (p *portal) open(now time.Time) time.Time {
	if t := p.until.Load(); t != nil && now.Round(0).Before(*t) {
		return *t
	}
	return time.Time{}
}

// countPortals forgets the windows that are older than a day by the server's clock. Only a check-in that got through does that:
// whoever controls the network can move this machine's clock.
func (a *Agent) countPortals() {
	st, now := a.custody.state, a.contact.serverNow()
	var kept []time.Time
	for _, t := range st.Portals {
		if t.After(now) {
			t = now.UTC() // the clock was ahead then
		}
		if now.Sub(t) < portalDay {
			kept = append(kept, t)
		}
	}
	if !slices.EqualFunc(kept, st.Portals, time.Time.Equal) {
		st.Portals = kept
		_ = a.custody.save(st) // custody reports what cannot be stored
	}
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
		return conflict("the policy is suspended, so it blocks no sign-in page")
	}
	if rules := a.machine.opened(a.with(&st, doc)).Rules("network"); rules == nil || !rules.CanDeny() {
		return conflict("the policy refuses no names, so it blocks no sign-in page")
	}
	if a.portal.open(a.o.Now()).IsZero() {
		var client *checkin.Client
		if err := a.call(ctx, func() { client = a.contact.client }); err != nil {
			return nil, err
		}
		if client == nil {
			return conflict("this machine cannot ask for its policy server: see warder doctor")
		}
		switch err := client.Reached(ctx, link.Absolute(link.Past())); {
		case err == nil:
			return conflict("the policy server can be reached, so no sign-in page is in the way")
		case exhausted(err):
			return conflict("this machine cannot ask for the policy server now: %s", err)
		}
	}
	var out PortalStatus
	var err error
	if e := a.call(ctx, func() { out, err = a.openPortal(c.UID) }); e != nil {
		return nil, e
	}
	return out, err
}

// exhausted reports whether a connection failed for want of something on this machine, such as ports: any user can bring that
// about, and it says nothing about the network.
func exhausted(err error) bool {
	for _, no := range []error{syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EPERM, syscall.EACCES, context.Canceled} {
		if errors.Is(err, no) {
			return true
		}
	}
	return link.Crowded() // then connections fail with a time-out
}

// openPortal opens the window, if it may be opened once more. That it was is stored before.
func (a *Agent) openPortal(by string) (PortalStatus, error) {
	now := a.o.Now()
	st := a.custody.state
	if until := a.portal.open(now); !until.IsZero() {
		return PortalStatus{until.UTC(), len(st.Portals), portalMost}, nil
	}
	if n := len(st.Portals); n >= portalMost {
		return PortalStatus{}, &localapi.Error{Status: http.StatusTooManyRequests, Message: fmt.Sprintf(
			"it was opened %d times in a day; it can be opened again 24 hours after the first time, once the policy server was reached", n)}
	}
	st.Portals = append(slices.Clone(st.Portals), now.UTC())
	if err := a.custody.save(st); err != nil {
		return PortalStatus{}, fmt.Errorf("it stays closed, because it cannot be recorded that it was opened: %w", err)
	}
	until := now.Add(portalFor).Round(0)
	a.portal.until.Store(&until)
	a.portal.by = by
	a.portal.timer.Reset(portalFor)
	a.look()
	a.journal.record(enforce.Event{At: now.UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "portal", Subject: "uid " + by,
		Reason: fmt.Sprintf("names that are not blocked can be reached for %d minutes (%d of %d in a day)", int(portalFor.Minutes()),
			len(st.Portals), portalMost)})
	a.contact.soon(checkin.Pause)
	return PortalStatus{until.UTC(), len(st.Portals), portalMost}, nil
}

// closePortal ends the window.
func (a *Agent) closePortal(why string) {
	if a.portal.until.Load() == nil {
		return
	}
	a.portal.until.Store(nil)
	a.portal.timer.Stop()
	a.look()
	a.journal.record(enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "portal_ended",
		Subject: "uid " + a.portal.by, Reason: why})
}

// with is a document with the window, if it is open.
func (p *portal) with(d *policy.Document, now time.Time) *policy.Document {
	if until := p.open(now); !until.IsZero() {
		return d.WithPortal(until)
	}
	return d
}
