package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/sync/protocol"
)

// exceptions let single subjects of any section pass for a time. They are stored with the identity; this keeps track of
// how long each one lasts.
type exceptions struct {
	now func() time.Time

	// timer fires when the next exception ends; redeemed says when each user last tried a code. Both are for the loop
	// alone.
	timer    *time.Timer
	redeemed map[string]time.Time

	mu        sync.Mutex
	deadlines map[string]time.Time // with their monotonic reading
}

// granted computes the new list from an assignment's exceptions, on this machine's clock, together with those redeemed
// by code. The server gives their length, so a wrong local clock does not matter. A known exception keeps its first
// start and never ends later than before; one that has ended here stays ended.
func granted(st *identity.State, as *protocol.Assignment, now time.Time) []identity.Exception {
	var out []identity.Exception
	for _, x := range st.Exceptions {
		if x.Offline {
			out = append(out, x)
		}
	}
	for _, x := range as.Exceptions {
		length := min(x.Until.Sub(as.IssuedAt), protocol.MaxException)
		if x.Seconds > 0 && x.Seconds < int64(protocol.MaxException/time.Second) {
			length = min(length, time.Duration(x.Seconds)*time.Second)
		}
		if _, over := st.Ended[x.ID]; over || length <= 0 || len(out) >= maxExceptions || !sound(&x) {
			continue
		}
		e := identity.Exception{ID: x.ID, Section: x.Section, Subject: x.Subject, Reason: x.Reason, Since: now.UTC(),
			Until: now.Add(length).UTC()}
		for _, known := range st.Exceptions {
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

// sectionName is the pattern of a section's name, including sections that only a newer server knows.
var sectionName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// sound refuses an exception that no section could mean, or that does not fit.
func sound(x *protocol.Exception) bool {
	x.Reason = clip(enforce.Plain(x.Reason), maxReason)
	return sectionName.MatchString(x.Section) && len(x.Subject) <= 1024 && len(x.ID) <= 128 &&
		enforce.Plain(x.ID+x.Subject) == x.ID+x.Subject
}

// keepEnded is how long an ended exception is remembered. No exception lasts longer.
const keepEnded = protocol.MaxException + 24*time.Hour

// maxEnded bounds how many are remembered; the oldest go first.
const maxEnded = 1000

// ended adds to the ended exceptions that are remembered.
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
	return slices.EqualFunc(a, b, func(x, y identity.Exception) bool { return x.ID == y.ID && x.Name() == y.Name() })
}

// served are the exceptions that came with an assignment. The server is told that they have arrived.
func served(list []identity.Exception) []protocol.Exception {
	var out []protocol.Exception
	for _, x := range list {
		if !x.Offline {
			out = append(out, protocol.Exception{ID: x.ID})
		}
	}
	return out
}

// left is how long an exception still lasts. It is the least of three: its end by the clock, its length, and what
// remains since this run of the agent first saw it, by the monotonic clock. Setting the clock back and restarting the
// agent together can give an exception its full length once more, and no longer.
func (e *exceptions) left(x identity.Exception, now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := min(x.Until.Sub(now), x.Until.Sub(x.Since))
	if at, ok := e.deadlines[x.ID]; ok {
		return min(l, at.Sub(now)) // both have a monotonic reading
	}
	if e.deadlines == nil {
		e.deadlines = map[string]time.Time{}
	}
	e.deadlines[x.ID] = now.Add(l)
	return l
}

// forget drops what is remembered of an exception's monotonic start.
func (e *exceptions) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.deadlines, id)
}

// current returns the exceptions of a list that have not ended.
func (e *exceptions) current(list []identity.Exception) []identity.Exception {
	now := e.now()
	return slices.DeleteFunc(slices.Clone(list), func(x identity.Exception) bool { return e.left(x, now) <= 0 })
}

// arm sets the timer for the next exception that ends.
func (e *exceptions) arm(list []identity.Exception) {
	e.timer.Stop()
	now, next := e.now(), time.Duration(-1)
	for _, x := range list {
		if l := max(e.left(x, now), time.Millisecond); next < 0 || l < next {
			next = l
		}
	}
	if next >= 0 {
		e.timer.Reset(next)
	}
}

// over splits a list into the exceptions that have ended and the others.
func (e *exceptions) over(list []identity.Exception, now time.Time) (over, rest []identity.Exception) {
	for _, x := range list {
		if e.left(x, now) <= time.Second { // timers are coarse; ending another one a second later would be another write
			over = append(over, x)
		} else {
			rest = append(rest, x)
		}
	}
	return over, rest
}

// governing is the policy in force with its exceptions; nil without a policy.
func (a *Agent) governing() *policy.Document {
	st, doc, _ := a.custody.view()
	return a.with(&st, doc)
}

// with is a policy with the exceptions that are current. If it may not change the network, it only watches what would.
func (a *Agent) with(st *identity.State, doc *policy.Document) *policy.Document {
	if doc == nil {
		return nil
	}
	if a.custody.withoutNetwork() {
		doc = doc.Capped(func(s enforce.Setting) enforce.Mode {
			if a.machine.networked(s) {
				return enforce.Monitor
			}
			return enforce.Enforce
		}).WithNetworkFree()
	}
	return excepted(a.o.Sections, a.portal.with(doc, a.o.Now()), a.exceptions.current(st.Exceptions))
}

// excepted is a policy with the given exceptions.
func excepted(sections []section.Section, doc *policy.Document, list []identity.Exception) *policy.Document {
	by := map[string][]string{}
	for _, x := range list {
		s, known := section.Find(sections, x.Section)
		if !known || s.Except == nil {
			continue // a section of a newer server
		}
		if name, err := s.Except.Parse(x.Subject); err == nil {
			by[x.Section] = append(by[x.Section], name)
		}
	}
	if len(by) == 0 {
		return doc
	}
	return doc.Excepted(by)
}

// exceptionEvent is an event about an exception. It belongs to the exception's section.
func exceptionEvent(x identity.Exception, at time.Time, kind enforce.EventKind, reason string) enforce.Event {
	return enforce.Event{At: at.UTC(), Setting: enforce.Setting(x.Section + ".exception"), Mode: enforce.Enforce, Kind: kind,
		Subject: x.Name(), Reason: reason}
}

// endExceptions takes back exceptions that have ended.
func (a *Agent) endExceptions() {
	now := a.o.Now()
	st := a.custody.state
	over, rest := a.exceptions.over(st.Exceptions, now)
	if len(over) > 0 {
		st.Exceptions, st.Ended = rest, ended(st.Ended, over, now)
		if a.custody.save(st) != nil {
			a.exceptions.timer.Reset(blindRetry)
			return
		}
		a.look()
	}
	for _, x := range over {
		a.exceptions.forget(x.ID)
		a.journal.record(exceptionEvent(x, now, "exception_ended", "its time is up"))
	}
	a.exceptions.arm(a.custody.state.Exceptions)
}

// ExceptionRequest is the request of "warder exception": a code, and the subject when it cannot be found on the
// machine.
type ExceptionRequest struct {
	Code    string `json:"code"`
	Section string `json:"section,omitempty"`
	Subject string `json:"subject,omitempty"`
}

// codePause is how often one user may try a code. The codes have 72 bits, so no pace allows guessing; the pause is per
// user so that nobody can block the others.
const codePause = 2 * time.Second

// paused reports whether a user tried a code just before, and records this attempt.
func (e *exceptions) paused(uid string, now time.Time) bool {
	maps.DeleteFunc(e.redeemed, func(_ string, at time.Time) bool { return now.Sub(at) >= codePause || now.Before(at) })
	if _, ok := e.redeemed[uid]; ok {
		return true
	}
	if e.redeemed == nil {
		e.redeemed = map[string]time.Time{}
	}
	e.redeemed[uid] = now
	return false
}

// postException redeems an exception code.
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
		return nil, refused(http.StatusConflict, err)
	}
	return x, nil
}

// redeem tries an offline code on the given subject, or on everything that is plugged in and refused.
func (a *Agent) redeem(uid string, in ExceptionRequest) (identity.Exception, error) {
	var none identity.Exception
	now, st := a.o.Now(), a.custody.state
	if st.Device == nil {
		return none, ErrNotEnrolled
	}
	if a.custody.doc == nil {
		return none, errors.New("no policy is in force")
	}
	if len(st.Device.CodeSecret) == 0 {
		return none, errors.New("this machine's server gave it no secret for codes; enroll it again")
	}
	code, err := protocol.ParseCode(in.Code)
	if err != nil {
		return none, err // not a code at all: this is no attempt
	}
	if a.exceptions.paused(uid, now) {
		return none, errors.New("you tried a code a moment ago; try again in " + codePause.String())
	}
	if at, used := st.Redeemed[code.ID]; used {
		return none, fmt.Errorf("the code was used at %s; ask for another one", at.Local().Format(time.DateTime))
	}
	if len(st.Exceptions) >= maxExceptions {
		return none, fmt.Errorf("%d exceptions are in force already, which is the most there can be", maxExceptions)
	}
	err = protocol.ErrCodeWrong
	for _, c := range a.candidates(in) {
		if err = code.Verify(st.Device.CodeSecret, st.Device.DeviceID, protocol.CodeSubject(c.Section, c.Subject),
			a.contact.serverNow()); errors.Is(err, protocol.ErrCodeWrong) {
			continue
		}
		if err != nil {
			return none, err
		}
		c.ID, c.Reason, c.Since, c.Until, c.Offline = code.ID, "by code", now.UTC(), now.Add(code.Length).UTC(), true
		return c, a.except(c)
	}
	if in.Subject == "" {
		err = fmt.Errorf("%w; is it there? name it, e.g. --usb 0951:1666:SERIAL or --network docs.example.com", err)
	}
	return none, err
}

// candidates are the subjects that a code may have been made for.
func (a *Agent) candidates(in ExceptionRequest) (out []identity.Exception) {
	var current *section.Case
	for _, s := range a.o.Sections {
		if s.Except == nil || in.Section != "" && in.Section != s.Name {
			continue
		}
		list := []string{in.Subject}
		if in.Subject == "" {
			if current == nil {
				current = a.machine.opened(a.governing())
			}
			list = s.Except.Refused(current)
		}
		for _, subject := range list {
			for _, name := range s.Except.Names(subject) {
				out = append(out, identity.Exception{Section: s.Name, Subject: name})
			}
		}
	}
	return out
}

// except puts an exception in force.
func (a *Agent) except(x identity.Exception) error {
	st := a.custody.state
	st.Exceptions = append(slices.Clone(st.Exceptions), x)
	st.Redeemed = maps.Clone(st.Redeemed)
	maps.DeleteFunc(st.Redeemed, func(_ string, at time.Time) bool { return x.Since.Sub(at) > 4*protocol.CodeLife })
	if st.Redeemed == nil {
		st.Redeemed = map[string]time.Time{}
	}
	st.Redeemed[x.ID] = x.Since
	if err := a.custody.save(st); err != nil {
		return err
	}
	a.exceptions.arm(st.Exceptions)
	a.look()
	a.journal.record(exceptionEvent(x, x.Since, "exception", fmt.Sprintf("%s, until %s", x.ID, x.Until.Format(time.RFC3339))))
	return nil
}
