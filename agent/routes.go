package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os/user"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/session"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/platform"
)

type caller = localapi.Caller

var noPolicy = &localapi.Error{Status: http.StatusConflict, Message: "no policy is in force"}

// routes is the local API. The table shows who may do what.
func (a *Agent) routes() []localapi.Route {
	return []localapi.Route{
		{Method: "GET", Path: "/v1/status", Access: localapi.Read, Handle: a.getStatus},
		{Method: "GET", Path: "/v1/events", Access: localapi.Read, Heavy: true, List: a.getEvents},
		{Method: "GET", Path: "/v1/events/follow", Access: localapi.Read, Stream: a.followEvents},
		{Method: "POST", Path: "/v1/explain", Access: localapi.Read, Heavy: true, Handle: a.postExplain},
		{Method: "GET", Path: "/v1/doctor", Access: localapi.Read, Heavy: true, Handle: a.getDoctor},
		{Method: "GET", Path: "/v1/session", Access: localapi.Session, Handle: a.getSession},
		{Method: "POST", Path: session.Path, Access: localapi.Session, Alone: true, Handle: a.postSession},
		{Method: "PUT", Path: session.Path, Access: localapi.Session, Handle: a.putSession},
		{Method: "POST", Path: session.Path + "/{part}", Access: localapi.Session, Upload: a.askSession, MaxUpload: platform.MaxQuestion},
		{Method: "GET", Path: "/v1/policy", Access: localapi.Root, Handle: a.getPolicy},
		{Method: "GET", Path: "/v1/policies", Access: localapi.Root, Heavy: true, Handle: a.getPolicies},
		{Method: "GET", Path: "/v1/inventory/{name}", Access: localapi.Root, Heavy: true, Handle: a.getInventory},
		{Method: "GET", Path: "/v1/lists", Access: localapi.Root, Handle: a.getLists},
		{Method: "GET", Path: "/v1/ledger", Access: localapi.Root, Heavy: true, Handle: a.getLedger},
		{Method: "POST", Path: "/v1/check-in", Access: localapi.User, Handle: a.postCheckIn},
		{Method: "POST", Path: "/v1/portal", Access: localapi.User, Heavy: true, Handle: a.postPortal},
		{Method: "POST", Path: "/v1/enroll", Access: localapi.Root, Handle: a.postEnroll},
		{Method: "POST", Path: "/v1/unenroll", Access: localapi.Root, Handle: a.postUnenroll},
		{Method: "POST", Path: "/v1/exceptions", Access: localapi.User, Handle: a.postException},
		{Method: "POST", Path: "/v1/hold", Access: localapi.Root, Handle: a.postHold},
		{Method: "DELETE", Path: "/v1/hold", Access: localapi.Root, Handle: a.deleteHold},
	}
}

// lookWait is how long an answer waits for a look at the machine; after that it uses the previous one. Requests cannot
// make the agent look more often than every lookRest.
const (
	lookWait = 1500 * time.Millisecond
	lookRest = 2 * time.Second
)

// getStatus answers "warder status"; it looks at the machine first, unless a look has just been made.
func (a *Agent) getStatus(ctx context.Context, c caller, r *http.Request, _ []byte) (any, error) {
	if r.URL.Query().Get("look") == "1" {
		ctx, cancel := context.WithTimeout(ctx, lookWait)
		defer cancel()
		_ = a.call(ctx, func() {
			if ctx.Err() == nil && a.o.Now().Sub(a.clocks.looked) > lookRest {
				a.look()
			}
		})
	}
	return a.status(a.viewOf(c)), nil
}

// view is what a caller may see: root sees everything, users at the machine see what is plugged into it, other users
// only see the state of the machine.
type view struct {
	root, seated bool
	uid          string
}

func (a *Agent) viewOf(c caller) view { return view{c.Root, a.seated(c), c.UID} }

// seated reports whether a caller is one of the users at the machine now.
func (a *Agent) seated(c caller) bool {
	uid, err := strconv.ParseUint(c.UID, 10, 32)
	return err == nil && slices.Contains(a.o.Seat(), uint32(uid))
}

// visible reports whether a caller may see an event. Events of monitor mode are for root alone; events about devices
// also for those who were at the machine then.
func visible(c caller, e *enforce.Event) bool {
	if c.Root {
		return true
	}
	uid, err := strconv.ParseUint(c.UID, 10, 32)
	return e.Mode != enforce.Monitor && (!e.Personal() || err == nil && slices.Contains(e.Users, uint32(uid)))
}

// MaxEvents is how many events one request may ask for.
const MaxEvents = 10_000

// getEvents sends the newest events that the caller may see.
func (a *Agent) getEvents(ctx context.Context, c caller, q *http.Request, send func(any) error) error {
	n, err := strconv.Atoi(q.URL.Query().Get("last"))
	if err != nil || n < 1 || n > MaxEvents {
		n = 50
	}
	return a.store.Newest(ctx, n, func(e *enforce.Event) error {
		if !visible(c, e) {
			return nil
		}
		return send(e)
	})
}

// followEvents sends events as they come, until the caller leaves.
func (a *Agent) followEvents(ctx context.Context, c caller, _ *http.Request, send func(any) error) error {
	events, leave := a.journal.followed()
	defer leave()
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

// getPolicy sends the policy in force as it was received.
func (a *Agent) getPolicy(context.Context, caller, *http.Request, []byte) (any, error) {
	_, _, issued := a.custody.view()
	if issued == nil {
		return nil, noPolicy
	}
	return issued, nil
}

func (a *Agent) getPolicies(context.Context, caller, *http.Request, []byte) (any, error) {
	return a.store.Policies()
}

// getInventory sends what a capability lists, such as all USB devices.
func (a *Agent) getInventory(ctx context.Context, _ caller, q *http.Request, _ []byte) (any, error) {
	v, known, err := a.machine.inventory(ctx, q.PathValue("name"))
	if !known {
		return nil, &localapi.Error{Status: http.StatusNotFound,
			Message: fmt.Sprintf("no capability %q has an inventory", q.PathValue("name"))}
	}
	return v, err
}

// getSession says who the agent thinks a caller is. A session's helper asks it first.
func (a *Agent) getSession(_ context.Context, c caller, _ *http.Request, _ []byte) (any, error) {
	return c, nil
}

// postSession answers the helper of a session once there is something to show, or after a while.
func (a *Agent) postSession(ctx context.Context, c caller, _ *http.Request, body []byte) (any, error) {
	var t session.Turn
	uid, err := fromSession(c, body, &t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := a.whileUp(ctx)
	defer cancel()
	answer, err := a.helpers.turn(ctx, uid, c.Session, t)
	answer.Version = a.o.Version
	return answer, err
}

// putSession notes what a session's helper says while it waits for an answer.
func (a *Agent) putSession(_ context.Context, c caller, _ *http.Request, body []byte) (any, error) {
	var s session.Said
	uid, err := fromSession(c, body, &s)
	if err != nil {
		return nil, err
	}
	return nil, a.helpers.hears(uid, c.Session, &s)
}

// askSession answers what a part of a session's helper asks.
func (a *Agent) askSession(ctx context.Context, c caller, q *http.Request, body io.Reader) (any, error) {
	uid, err := fromSession(c, nil, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := a.whileUp(ctx)
	defer cancel()
	return a.helpers.ask(ctx, uid, c.Session, q.Header.Get(session.RunHeader), q.PathValue("part"), q.Header.Get("Content-Type"), body)
}

// fromSession reads what a session's helper says, if it is JSON, and whose it is.
func fromSession(c caller, body []byte, to any) (uid uint32, err error) {
	if to != nil {
		if err := json.Unmarshal(body, to); err != nil {
			return 0, &localapi.Error{Status: http.StatusBadRequest, Message: "the request cannot be read: " + err.Error()}
		}
	}
	n, err := strconv.ParseUint(c.UID, 10, 32)
	if err != nil {
		return 0, &localapi.Error{Status: http.StatusForbidden, Message: "this is for a program of a login session"}
	}
	return uint32(n), nil
}

// whileUp ends with a request, or with the agent.
func (a *Agent) whileUp(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// Doctor is what "warder doctor" shows.
type Doctor struct {
	Checks []Check `json:"checks"`
}

// getDoctor asks for everything that can be wrong, including the connection to the server.
func (a *Agent) getDoctor(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	list := a.health.all()
	if !slices.ContainsFunc(list, func(p Problem) bool { return p.Code == serverAway }) {
		if why := a.way(ctx); why != "" {
			list = append(list, Problem{Warning: declared(serverAway), Detail: why})
		}
	}
	return Doctor{checkup(list)}, nil
}

// wayPause is how often the connection to the server is tested, however many callers ask.
const wayPause = 30 * time.Second

// way says why the server cannot be reached; "" if it can.
func (a *Agent) way(ctx context.Context) string {
	server, proxy := a.server()
	now := a.o.Now()
	a.mu.Lock()
	last := a.lastWay
	if since := now.Sub(last.at); server == "" || last.server == server && since >= 0 && since < wayPause {
		a.mu.Unlock()
		return last.why
	}
	a.lastWay.at, a.lastWay.server = now, server // other callers get the previous answer until this one is there
	a.mu.Unlock()
	why := ""
	if err := a.o.Reach(ctx, server, proxy, false); err != nil {
		why = secret.Scrub(err.Error())
	}
	a.mu.Lock()
	a.lastWay.why = why
	a.mu.Unlock()
	return why
}

// server is this device's server, and the proxy on the way to it.
func (a *Agent) server() (url, proxy string) {
	d, conf := a.custody.device(), a.settings()
	if d == nil {
		return "", ""
	}
	url = d.Server
	if conf.Server != "" {
		url = conf.Server
	}
	return url, conf.Proxy.Reveal()
}

// network is the way to the server as a fact, hosts only, and, while a policy asks for a VPN, the addresses of what must be
// reachable beside it. It may be called concurrently with the loop.
func (a *Agent) network() (out fact.Network) {
	server, proxy := a.server()
	u, err := url.Parse(server)
	if err != nil || server == "" {
		return out
	}
	out.Server, out.ServerPort = u.Hostname(), urlPort(u)
	if through := proxyOf(server, proxy); through != nil {
		out.Proxy, out.ProxyPort = through.Hostname(), urlPort(through)
	}
	st, doc, _ := a.custody.view()
	if a.endpoints == nil || doc == nil || !a.machine.supports("network.vpn") {
		return out
	}
	if !doc.Network.AsksForVPN() {
		a.endpoints.clear()
		return out
	}
	out.Configured = a.endpoints.configured(a.machine.last().snapshot.Tunnels.V.Configured)
	way := out.Server
	if out.Proxy != "" {
		way = out.Proxy // it looks the server up
	}
	around := doc.Network.Around()
	for _, e := range out.Configured {
		host, _ := policy.SplitEndpoint(e)
		around = append(around, host)
	}
	var sought []string
	if a.seeks() {
		sought = around
	}
	out.Found = a.endpoints.of(append([]string{way, out.Server}, around...), sought)
	_, err = netip.ParseAddr(way)
	// What has governed the network before is not taken back because a name cannot be looked up.
	out.Ready = err == nil || len(out.Found[way]) > 0 || st.Policy != nil && st.Policy.Confirmed && st.Policy.Network
	return out
}

// urlPort is the port of an address: its own, or its scheme's.
func urlPort(u *url.URL) uint16 {
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		return uint16(n)
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

// LedgerRow is one resource that we have changed.
type LedgerRow struct {
	Key      string            `json:"key"`
	Baseline string            `json:"baseline"` // before we first changed it
	Last     string            `json:"last"`     // what we wrote
	Next     string            `json:"next"`     // what we are about to write; "unknown" means nothing
	Now      string            `json:"now"`      // what is read now
	By       []enforce.Setting `json:"by"`
}

func (a *Agent) getLedger(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	return a.ledgerRows(ctx)
}

// ledgerRows returns the ledger, with what each resource reads now.
func (a *Agent) ledgerRows(ctx context.Context) ([]LedgerRow, error) {
	rows, err := a.ledger.Rows()
	if err != nil {
		return nil, err
	}
	seen, err := a.machine.loop.List(ctx)
	out := []LedgerRow{}
	for k, r := range rows {
		out = append(out, LedgerRow{k.String(), r.Baseline.String(), r.Last.String(), r.Next.String(), seen.At(k).String(), r.By})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out, err
}

// userPause is how often a user who is not root may cause a check-in.
const userPause = 10 * time.Second

// postCheckIn checks in now, and waits until the answer has been processed.
func (a *Agent) postCheckIn(ctx context.Context, c caller, _ *http.Request, _ []byte) (any, error) {
	before := a.o.Now()
	enrolled, paused := true, ""
	if err := a.call(ctx, func() {
		enrolled = a.contact.source != nil
		tried := a.contact.shown().LastTry
		switch left := a.contact.notYet.Sub(before); {
		case c.Root:
			a.contact.notYet = time.Time{}
		case before.Sub(tried) < userPause && !before.Before(tried):
			paused = "checked in a moment ago; try again in " + userPause.String()
			return
		case left > 0:
			paused = "the server asked to be left alone for " + left.Round(time.Second).String() + " more; root may ask all the same"
			return
		}
		a.look() // the caller wants the current state reported
		a.checkIn()
	}); err != nil {
		return nil, err
	}
	if paused != "" {
		return nil, &localapi.Error{Status: http.StatusTooManyRequests, Message: paused}
	}
	if !enrolled {
		return nil, refused(http.StatusConflict, ErrNotEnrolled)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		done := false
		// It may wait for the pause between two exchanges, or for one under way to end. If that one failed, the next is
		// not soon.
		if err := a.call(ctx, func() {
			t := a.contact
			failed := t.shown().Error != "" && !t.ended.Before(before)
			done = t.source == nil || !t.busy && (failed || !t.begun.Before(before))
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

// postEnroll enrolls this machine.
func (a *Agent) postEnroll(ctx context.Context, _ caller, _ *http.Request, body []byte) (any, error) {
	var e Enrollment
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	if err := a.enroll(ctx, e); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadGateway, Message: err.Error()}
	}
	return a.status(everything), nil
}

// postUnenroll gives the machine back and forgets the enrollment.
func (a *Agent) postUnenroll(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	if err := a.unenroll(ctx); err != nil {
		return nil, refused(http.StatusConflict, err)
	}
	return a.status(everything), nil
}

// HoldRequest is the request of "warder revert".
type HoldRequest struct {
	Reason  string `json:"reason"`
	Seconds int64  `json:"seconds,omitempty"` // 0: until lifted
	Who     string `json:"who,omitempty"`     // who called sudo
}

// postHold suspends the policy.
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
		return nil, refused(http.StatusConflict, err)
	}
	return a.status(everything), nil
}

// deleteHold lifts a hold.
func (a *Agent) deleteHold(ctx context.Context, _ caller, _ *http.Request, _ []byte) (any, error) {
	var err error
	if cerr := a.call(ctx, func() { err = a.lift("lifted by hand") }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, refused(http.StatusConflict, err)
	}
	return a.status(everything), nil
}

// refused answers a request that cannot be done now, with a code if commands need to tell it apart.
func refused(status int, err error) *localapi.Error {
	e := &localapi.Error{Status: status, Message: err.Error()}
	switch {
	case errors.Is(err, ErrNotEnrolled):
		e.Code = localapi.CodeNotEnrolled
	case errors.Is(err, errNoHold):
		e.Code = localapi.CodeNoHold
	}
	return e
}
