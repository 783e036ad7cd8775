package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	enforceusb "github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/sync/protocol"
)

// granted is what an assignment says about exceptions, on this machine's clock, beside those that
// came by code. The server's clock gives their length; how this one stands does not matter. One that
// is known keeps its first start and never ends later than it did; one whose time was up here stays so.
func (a *Agent) granted(as *protocol.Assignment) []identity.Exception {
	now := a.o.Now()
	var out []identity.Exception
	for _, x := range a.state.Exceptions {
		if x.Offline {
			out = append(out, x)
		}
	}
	for _, x := range as.Exceptions {
		length := min(x.Until.Sub(as.IssuedAt), protocol.MaxException)
		if x.Seconds > 0 && x.Seconds < int64(protocol.MaxException/time.Second) {
			length = min(length, time.Duration(x.Seconds)*time.Second)
		}
		if _, over := a.state.Ended[x.ID]; over || length <= 0 || len(out) >= maxExceptions {
			continue
		}
		e := identity.Exception{ID: x.ID, USB: x.USB, Reason: x.Reason, Since: now.UTC(), Until: now.Add(length).UTC()}
		for _, known := range a.state.Exceptions {
			if known.ID == x.ID && !known.Offline {
				e.Since = known.Since
				if known.Until.Before(e.Until) {
					e.Until = known.Until
				}
			}
		}
		out = append(out, e)
	}
	return out
}

// keepEnded is how long it is remembered that an exception is over: none lasts longer.
const keepEnded = protocol.MaxException + 24*time.Hour

// maxEnded bounds how many are remembered; the oldest go first.
const maxEnded = 1000

// ended adds to what is remembered of exceptions that are over.
func ended(was map[string]time.Time, over []identity.Exception, now time.Time) map[string]time.Time {
	out := maps.Clone(was)
	if out == nil {
		out = map[string]time.Time{}
	}
	maps.DeleteFunc(out, func(_ string, at time.Time) bool { return now.Sub(at) > keepEnded })
	for _, x := range over {
		if !x.Offline {
			out[x.ID] = now.UTC()
		}
	}
	for len(out) > maxEnded {
		oldest := ""
		for id, at := range out {
			if oldest == "" || at.Before(out[oldest]) {
				oldest = id
			}
		}
		delete(out, oldest)
	}
	return out
}

// maxExceptions bounds what one device may have at a time.
const maxExceptions = 200

func sameExceptions(a, b []identity.Exception) bool {
	return slices.EqualFunc(a, b, func(x, y identity.Exception) bool { return x.ID == y.ID && x.USB == y.USB })
}

// served are those that came with an assignment, for telling the server that they are here.
func served(list []identity.Exception) []protocol.Exception {
	var out []protocol.Exception
	for _, x := range list {
		if !x.Offline {
			out = append(out, protocol.Exception{ID: x.ID})
		}
	}
	return out
}

// current are the exceptions that hold now. Called with the lock held.
func (a *Agent) current() []identity.Exception {
	now := a.o.Now()
	return slices.DeleteFunc(slices.Clone(a.state.Exceptions), func(x identity.Exception) bool { return a.left(x, now) <= 0 })
}

// left is how long an exception still holds: the least of what the clock says, what it was given for,
// and what is left since this run of the agent first met it, which no change of the clock alters. A
// clock that is set back and a restart together give it its length once more, and no longer.
func (a *Agent) left(x identity.Exception, now time.Time) time.Duration {
	l := min(x.Until.Sub(now), x.Until.Sub(x.Since))
	if at, ok := a.deadlines[x.ID]; ok {
		return min(l, at.Sub(now)) // both have a monotonic reading
	}
	if a.deadlines == nil {
		a.deadlines = map[string]time.Time{}
	}
	a.deadlines[x.ID] = now.Add(l)
	return l
}

// excepted is the policy in force with its exceptions; nil without a policy. Called with the lock
// held.
func (a *Agent) excepted() *policy.Document {
	if a.doc == nil {
		return nil
	}
	var list []policy.USBEntry
	for _, x := range a.current() {
		if e, err := policy.ParseUSBEntry(x.USB); err == nil && !e.AnyProduct {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return a.doc
	}
	return a.doc.Excepted(list)
}

// armExceptions sets the timer for the next one that ends.
func (a *Agent) armExceptions() {
	a.excepts.Stop()
	now := a.o.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	next := time.Duration(-1)
	for _, x := range a.state.Exceptions {
		if l := max(a.left(x, now), time.Millisecond); next < 0 || l < next {
			next = l
		}
	}
	if next >= 0 {
		a.excepts.Reset(next)
	}
}

// endExceptions takes back what is over.
func (a *Agent) endExceptions() {
	now := a.o.Now()
	st := a.state
	var over []identity.Exception
	st.Exceptions = nil
	a.mu.Lock()
	for _, x := range a.state.Exceptions {
		if a.left(x, now) <= time.Second { // timers are coarse; one a second later would be another write
			over = append(over, x)
			continue
		}
		st.Exceptions = append(st.Exceptions, x)
	}
	a.mu.Unlock()
	if len(over) > 0 {
		st.Ended = ended(st.Ended, over, now)
		if a.save(st) != nil {
			a.excepts.Reset(blindRetry)
			return
		}
		a.reconcile()
	}
	for _, x := range over {
		a.mu.Lock()
		delete(a.deadlines, x.ID)
		a.mu.Unlock()
		a.record(enforce.Event{At: now.UTC(), Setting: "usb.exception", Mode: enforce.Enforce, Kind: "exception_ended", Subject: "usb " + x.USB, Reason: "its time is up"})
	}
	a.armExceptions()
}

// pinned names the policy keys that this device trusts. Called with the lock held.
func (a *Agent) pinned() string {
	if a.state.Device == nil {
		return ""
	}
	keys, err := protocol.ParseKeys(a.state.Device.PolicyKeys)
	if err != nil {
		return ""
	}
	return protocol.KeysDigest(keys)
}

// ExceptionRequest is "warder exception": a code, and the stick where it is not plugged in.
type ExceptionRequest struct {
	Code string `json:"code"`
	USB  string `json:"usb,omitempty"`
}

// codePause is how often one user may try a code: 72 bits are not guessed at any pace, and what one
// user tries keeps nobody else waiting.
const codePause = 2 * time.Second

// paused reports whether a user has tried a moment ago, and notes that they try now.
func (a *Agent) paused(uid string, now time.Time) bool {
	maps.DeleteFunc(a.redeemed, func(_ string, at time.Time) bool { return now.Sub(at) >= codePause || now.Before(at) })
	if _, ok := a.redeemed[uid]; ok {
		return true
	}
	if a.redeemed == nil {
		a.redeemed = map[string]time.Time{}
	}
	a.redeemed[uid] = now
	return false
}

func (a *Agent) postException(ctx context.Context, c caller, _ *http.Request, body []byte) (any, error) {
	var in ExceptionRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	var x identity.Exception
	var err error
	if cerr := a.call(ctx, func() { x, err = a.redeem(c.UID, in) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, &localapi.Error{Status: http.StatusConflict, Message: err.Error()}
	}
	return x, nil
}

// redeem takes an offline code: it is tried on the stick that is named, or on what is plugged in and
// refused.
func (a *Agent) redeem(uid string, in ExceptionRequest) (identity.Exception, error) {
	var none identity.Exception
	now := a.o.Now()
	if a.state.Device == nil || a.doc == nil {
		return none, errors.New("no policy is in force")
	}
	if len(a.state.Device.CodeSecret) == 0 {
		return none, errors.New("this machine was enrolled with a server that gives no codes; enrol it anew")
	}
	if a.paused(uid, now) {
		return none, errors.New("you tried a code a moment ago; try again in " + codePause.String())
	}
	code, err := protocol.ParseCode(in.Code)
	if err != nil {
		return none, err
	}
	if at, used := a.state.Redeemed[code.ID]; used {
		return none, fmt.Errorf("the code was used at %s; ask for another one", at.Local().Format(time.DateTime))
	}
	if len(a.state.Exceptions) >= maxExceptions {
		return none, fmt.Errorf("%d exceptions hold already", maxExceptions)
	}
	server := now
	if a.client != nil {
		server = now.Add(a.client.Offset())
	}
	err = protocol.ErrCodeWrong
	for _, usb := range a.candidates(in.USB) {
		if err = code.Verify(a.state.Device.CodeSecret, a.state.Device.DeviceID, usb, server); errors.Is(err, protocol.ErrCodeWrong) {
			continue
		}
		if err != nil {
			return none, err
		}
		x := identity.Exception{ID: code.ID, USB: usb, Reason: "by code", Since: now.UTC(), Until: now.Add(code.Length).UTC(), Offline: true}
		return x, a.except(x)
	}
	if in.USB == "" {
		err = fmt.Errorf("%w; is it plugged in? name it with --usb, e.g. --usb 0951:1666:SERIAL", err)
	}
	return none, err
}

// candidates are the names that a code may have been made for.
func (a *Agent) candidates(named string) (out []string) {
	add := func(u *fact.USB) {
		if u.Serial != "" {
			out = append(out, policy.USBEntry{Vendor: u.Vendor, Product: u.Product, Serial: u.Serial}.String())
		}
		out = append(out, u.ID())
	}
	if named != "" {
		e, err := policy.ParseUSBEntry(named)
		if err != nil || e.AnyProduct {
			return nil
		}
		add(&fact.USB{Vendor: e.Vendor, Product: e.Product, Serial: e.Serial})
		return out
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	rules := a.rules
	if rules == nil {
		rules = enforceusb.Compile(a.excepted(), &a.machine)
	}
	for i := range a.machine.USB.V {
		if u := &a.machine.USB.V[i]; !u.Root && !rules.Judge(u).Allow {
			add(u)
		}
	}
	return out
}

// except puts an exception in force.
func (a *Agent) except(x identity.Exception) error {
	st := a.state
	st.Exceptions = append(slices.Clone(st.Exceptions), x)
	st.Redeemed = maps.Clone(st.Redeemed)
	maps.DeleteFunc(st.Redeemed, func(_ string, at time.Time) bool { return x.Since.Sub(at) > 4*protocol.CodeLife })
	if st.Redeemed == nil {
		st.Redeemed = map[string]time.Time{}
	}
	st.Redeemed[x.ID] = x.Since
	if err := a.save(st); err != nil {
		return err
	}
	a.armExceptions()
	a.reconcile()
	a.record(enforce.Event{At: x.Since, Setting: "usb.exception", Mode: enforce.Enforce, Kind: "exception", Subject: "usb " + x.USB,
		Reason: fmt.Sprintf("%s, until %s", x.ID, x.Until.Format(time.RFC3339))})
	return nil
}
