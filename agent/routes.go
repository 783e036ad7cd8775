package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/user"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	enforceusb "github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/platform/usb"
)

type caller = localapi.Caller

// routes is the local API: who may do what is readable here.
func (a *Agent) routes() []localapi.Route {
	return []localapi.Route{
		{Method: "GET", Path: "/v1/status", Access: localapi.Read, Handle: a.getStatus},
		{Method: "GET", Path: "/v1/events", Access: localapi.Read, Heavy: true, List: a.getEvents},
		{Method: "GET", Path: "/v1/events/follow", Access: localapi.Read, Stream: a.followEvents},
		{Method: "POST", Path: "/v1/explain/usb", Access: localapi.Read, Heavy: true, Handle: a.explainUSB},
		{Method: "GET", Path: "/v1/policy", Access: localapi.Root, Handle: a.getPolicy},
		{Method: "GET", Path: "/v1/policies", Access: localapi.Root, Heavy: true, Handle: a.getPolicies},
		{Method: "GET", Path: "/v1/usb", Access: localapi.Root, Heavy: true, Handle: a.getUSB},
		{Method: "GET", Path: "/v1/ledger", Access: localapi.Root, Heavy: true, Handle: a.getLedger},
		{Method: "POST", Path: "/v1/check-in", Access: localapi.User, Handle: a.postCheckIn},
		{Method: "POST", Path: "/v1/enroll", Access: localapi.Root, Handle: a.postEnroll},
		{Method: "POST", Path: "/v1/unenroll", Access: localapi.Root, Handle: a.postUnenroll},
		{Method: "POST", Path: "/v1/exceptions", Access: localapi.User, Handle: a.postException},
		{Method: "POST", Path: "/v1/hold", Access: localapi.Root, Handle: a.postHold},
		{Method: "DELETE", Path: "/v1/hold", Access: localapi.Root, Handle: a.deleteHold},
	}
}

func (a *Agent) getStatus(_ context.Context, c caller, _ *http.Request, _ []byte) (any, error) {
	return a.status(a.viewOf(c)), nil
}

// view is what somebody may see: root everything; who sits at the machine what is plugged into it; other
// users how the machine stands.
type view struct{ root, seated bool }

func (a *Agent) viewOf(c caller) view { return view{c.Root, a.seated(c)} }

// seated reports whether a caller is one of the users who sit at the machine now.
func (a *Agent) seated(c caller) bool {
	uid, err := strconv.ParseUint(c.UID, 10, 32)
	return err == nil && slices.Contains(a.o.Seat(), uint32(uid))
}

// visible: what monitor mode saw is for root alone, and what was plugged in for those who sat at the
// machine then.
func visible(c caller, e *enforce.Event) bool {
	if c.Root {
		return true
	}
	uid, err := strconv.ParseUint(c.UID, 10, 32)
	return e.Mode != enforce.Monitor && (!e.Personal() || err == nil && slices.Contains(e.Users, uint32(uid)))
}

// maxEvents is how many events one request may ask for.
const maxEvents = 10_000

func (a *Agent) getEvents(ctx context.Context, c caller, q *http.Request, send func(any) error) error {
	n, err := strconv.Atoi(q.URL.Query().Get("last"))
	if err != nil || n < 1 || n > maxEvents {
		n = 50
	}
	return a.store.Newest(ctx, n, func(e *enforce.Event) error {
		if !visible(c, e) {
			return nil
		}
		return send(e)
	})
}

func (a *Agent) followEvents(ctx context.Context, c caller, _ *http.Request, send func(any) error) error {
	events := make(chan enforce.Event, 256)
	a.mu.Lock()
	a.follow[events] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.follow, events)
		a.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.ctx.Done():
			return nil
		case e := <-events:
			if !visible(c, &e) {
				continue
			}
			if err := send(e); err != nil {
				return err
			}
		}
	}
}

// ExplainRequest names a device: by its ids, with classes where they are known, or by its port.
type ExplainRequest struct {
	Vendor  uint16  `json:"vendor"`
	Product uint16  `json:"product"`
	Serial  string  `json:"serial,omitempty"`
	Classes []uint8 `json:"classes,omitempty"`
	Port    string  `json:"port,omitempty"`
}

// Explanation is the answer, with what the machine holds where the device is plugged in.
type Explanation struct {
	enforceusb.Answer
	Device     string `json:"device"`
	Authorized string `json:"authorized,omitempty"` // as read back now
	Policy     string `json:"policy"`
}

func (a *Agent) explainUSB(ctx context.Context, c caller, _ *http.Request, body []byte) (any, error) {
	var in ExplainRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadRequest, Message: "the request cannot be read: " + err.Error()}
	}
	var m fact.Machine
	if in.Port != "" {
		if !c.Root && !a.seated(c) {
			return nil, &localapi.Error{Status: http.StatusForbidden, Message: "what is plugged in is shown to root and to who sits at the machine; name a device, e.g. 0951:1666"}
		}
		_ = a.ports.Observe(ctx, &m)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.doc == nil {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: "no policy is in force"}
	}
	return a.explain(c, in, &m)
}

// explain answers; m is what is plugged in, where a port is asked about. Called with the lock held.
func (a *Agent) explain(c caller, in ExplainRequest, m *fact.Machine) (any, error) {
	rules := a.rules
	if rules == nil {
		rules = enforceusb.Compile(a.excepted(), &a.machine)
	}
	if !c.Root {
		rules = rules.Enforced() // what monitor mode would do is not for everybody
	}
	out := Explanation{Policy: fmt.Sprintf("%s, version %d", a.doc.Name, a.doc.Version)}
	u := &fact.USB{Vendor: in.Vendor, Product: in.Product, Serial: in.Serial}
	switch {
	case in.Port != "":
		found := false
		for i := range m.USB.V {
			if m.USB.V[i].Path == in.Port {
				u, found = &m.USB.V[i], true
			}
		}
		if !found {
			return nil, &localapi.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("nothing is plugged in at port %q", in.Port)}
		}
		out.Answer, out.Authorized = rules.Ask(u), "no"
		if u.Authorized.V {
			out.Authorized = "yes"
		}
	case len(in.Classes) > 0:
		for _, class := range in.Classes {
			u.Interfaces = append(u.Interfaces, fact.Interface{Class: class})
		}
		out.Answer = rules.Ask(u)
	default:
		out.Answer = rules.AskUnknown(u)
	}
	out.Device = usb.Subject(u)
	if in.Port == "" {
		out.Device = "usb " + u.ID()
	}
	if a.state.Hold != nil {
		out.Reason = "the policy is held (" + a.state.Hold.Reason + "), so everything is allowed now; under it: " + out.Reason
	}
	return out, nil
}

func (a *Agent) getPolicy(context.Context, caller, *http.Request, []byte) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.issued == nil {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: "no policy is in force"}
	}
	return a.issued, nil
}

func (a *Agent) getPolicies(context.Context, caller, *http.Request, []byte) (any, error) {
	return a.store.Policies()
}

func (a *Agent) getUSB(context.Context, caller, *http.Request, []byte) (any, error) {
	return usb.Inventory()
}

// LedgerRow is one resource that we hold.
type LedgerRow struct {
	Key      string            `json:"key"`
	Baseline string            `json:"baseline"` // before we ever touched it
	Last     string            `json:"last"`     // what we wrote
	Next     string            `json:"next"`     // what we are about to write; "unknown" when nothing
	Now      string            `json:"now"`      // read now
	By       []enforce.Setting `json:"by"`
}

func (a *Agent) getLedger(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	rows, err := a.ledger.Rows()
	if err != nil {
		return nil, err
	}
	seen, err := a.loop.List(ctx)
	out := []LedgerRow{}
	for k, r := range rows {
		out = append(out, LedgerRow{k.String(), r.Baseline.String(), r.Last.String(), r.Next.String(), seen.At(k).String(), r.By})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out, err
}

// userPause is how often a user who is not root may have the server called.
const userPause = 10 * time.Second

// postCheckIn checks in now and waits for the answer to have been dealt with.
func (a *Agent) postCheckIn(ctx context.Context, c caller, _ *http.Request, _ []byte) (any, error) {
	before := a.o.Now()
	enrolled, paused := true, ""
	if err := a.call(ctx, func() {
		enrolled = a.source != nil
		a.mu.Lock()
		tried := a.contact.LastTry
		a.mu.Unlock()
		switch left := a.notYet.Sub(before); {
		case c.Root:
			a.notYet = time.Time{}
		case before.Sub(tried) < userPause && !before.Before(tried):
			paused = "checked in a moment ago; try again in " + userPause.String()
			return
		case left > 0:
			paused = "the server asked to be left alone for " + left.Round(time.Second).String() + " more; root may ask all the same"
			return
		}
		a.exchange()
	}); err != nil {
		return nil, err
	}
	if paused != "" {
		return nil, &localapi.Error{Status: http.StatusTooManyRequests, Message: paused}
	}
	if !enrolled {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: errNotEnrolled.Error()}
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		done := false
		// It may wait for the pause between two, or for the end of one that was under way. Where that has
		// failed, there is no other one soon.
		if err := a.call(ctx, func() {
			a.mu.Lock()
			failed := a.contact.Error != "" && !a.ended.Before(before)
			a.mu.Unlock()
			done = a.source == nil || !a.busy && (failed || !a.begun.Before(before))
		}); err != nil {
			return nil, err
		}
		if done {
			break
		}
	}
	s := a.status(a.viewOf(c))
	if s.CheckIn.Last.Before(before.UTC()) && s.CheckIn.Error != "" {
		return nil, &localapi.Error{Status: http.StatusBadGateway, Message: s.CheckIn.Error}
	}
	return s, nil
}

func (a *Agent) postEnroll(ctx context.Context, _ caller, _ *http.Request, body []byte) (any, error) {
	var e Enrolment
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	if err := a.enroll(ctx, e); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadGateway, Message: err.Error()}
	}
	return a.status(everything), nil
}

func (a *Agent) postUnenroll(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	if err := a.unenroll(ctx); err != nil {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: err.Error()}
	}
	return a.status(everything), nil
}

// HoldRequest is "warder revert".
type HoldRequest struct {
	Reason  string `json:"reason"`
	Seconds int64  `json:"seconds,omitempty"` // 0: until lifted
	Who     string `json:"who,omitempty"`     // whom sudo was called by
}

func (a *Agent) postHold(ctx context.Context, c caller, _ *http.Request, body []byte) (any, error) {
	var h HoldRequest
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	who := c.UID
	if u, err := user.LookupId(c.UID); err == nil {
		who = u.Username
	}
	if h.Who != "" && len(h.Who) <= 64 {
		who = h.Who + " as " + who
	}
	var err error
	if cerr := a.call(ctx, func() { err = a.hold(who, h.Reason, time.Duration(h.Seconds)*time.Second) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: err.Error()}
	}
	return a.status(everything), nil
}

func (a *Agent) deleteHold(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	if err := a.call(ctx, func() { a.lift("lifted by hand") }); err != nil {
		return nil, err
	}
	return a.status(everything), nil
}
