package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/session"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/seat"
)

// helpers are the helpers that run in login sessions (agent/session), by session. Each asks again and again, and is answered when there
// is something to show: a helper that has died or hangs is known by its silence.
type helpers struct {
	now    func() time.Time
	logins func() []seat.Login

	mu   sync.Mutex
	by   map[string]*helper
	next uint64               // number of a notice
	came func()               // a helper has come that can show notices
	mute map[string]time.Time // since when a session is told nothing
	// rules are what the parts of helpers are given, and given names them all; hear are told that a part may say something else.
	rules map[string]json.RawMessage
	// Until something was given, helpers keep what the agent before this one gave them.
	given  string
	giving bool
	hear   map[string]func()
	answer map[string]answerer
}

// answerer answers what a part of a helper asks.
type answerer = func(ctx context.Context, d platform.Desk, contentType string, body io.Reader) (any, error)

func newHelpers(now func() time.Time, logins func() []seat.Login, came func()) *helpers {
	return &helpers{now: now, logins: logins, came: came, by: map[string]*helper{}, mute: map[string]time.Time{}, rules: map[string]json.RawMessage{}, hear: map[string]func(){},
		answer: map[string]answerer{}}
}

// helper is one of them.
type helper struct {
	uid   uint32
	state session.State
	at    time.Time // when its last question came, or was answered
	asks  bool      // it waits for an answer now
	came  time.Time // when it was last seen to come
	wake  chan struct{}
	// list waits for its next question; given was in the last answer, and comes again unless the next question names it.
	list, given []pending
	failed      uint64 // how many notices it could not show
	said        session.Said
	hung        *time.Timer // runs from an answer to the next question
}

// pending is a notice on its way.
type pending struct {
	session.Notice
	at time.Time
}

const (
	// turnLast is how long a helper waits for an answer if there is nothing to show.
	turnLast = 30 * time.Second
	// turnRest is how long a helper may take from one answer to its next question: it shows what it was given meanwhile.
	turnRest = 15 * time.Second
	// noticeGood is how long a notice is worth showing.
	noticeGood = time.Minute
	// cameRest is how often a helper may come, and be told of what lasts.
	cameRest = 10 * time.Second
	// Bounds: of sessions, of notices that wait for one helper, and of the texts that a helper sends.
	maxHelpers = 256
	maxNotices = 16
	maxSaid    = 128
)

// alive reports whether it has been heard of lately. The caller holds the lock.
func (h *helper) alive(now time.Time) bool {
	since := now.Sub(h.at)
	return h.asks || since >= 0 && since < turnRest
}

// turn is one question of a session's helper, and its answer.
func (hs *helpers) turn(ctx context.Context, uid uint32, id string, t session.Turn) (session.Answer, error) {
	h, came, err := hs.asked(uid, id, &t)
	if err != nil {
		return session.Answer{}, err
	}
	if came {
		hs.came()
	}
	hs.mu.Lock()
	wait := len(h.list) == 0 && (t.Given == hs.given || !hs.giving)
	hs.mu.Unlock()
	if wait {
		timer := time.NewTimer(turnLast)
		select {
		case <-ctx.Done():
		case <-h.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := hs.now()
	h.at, h.asks = now, false
	if h.said.Run != "" {
		h.hung.Reset(turnRest)
	}
	if ctx.Err() != nil {
		h.at = time.Time{} // it has hung up
		h.hung.Reset(0)
		return session.Answer{}, ctx.Err()
	}
	h.given, h.list = h.list, nil
	var a session.Answer
	for _, p := range h.given {
		a.Notices = append(a.Notices, p.Notice)
	}
	if a.Given = t.Given; hs.giving && t.Given != hs.given {
		a.Given, a.Rules = hs.given, maps.Clone(hs.rules)
	}
	return a, nil
}

// errCrowded says that there are too many sessions.
var errCrowded = &localapi.Error{Status: http.StatusServiceUnavailable, Message: "too many sessions have a helper"}

// asked notes a question. It reports whether the helper can be told something now and could not before.
func (hs *helpers) asked(uid uint32, id string, t *session.Turn) (h *helper, came bool, err error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := hs.now()
	if h = hs.by[id]; h == nil || h.uid != uid {
		if len(hs.by) >= maxHelpers {
			maps.DeleteFunc(hs.by, func(_ string, h *helper) bool { return !h.alive(now) })
		}
		if len(hs.by) >= maxHelpers {
			return nil, false, errCrowded
		}
		h = &helper{uid: uid, wake: make(chan struct{}, 1), hung: time.AfterFunc(time.Hour, hs.stirred)}
		h.hung.Stop()
		hs.by[id] = h
	}
	h.hung.Stop()
	hs.says(h, &t.Said)
	if t.State.Shows && !(h.state.Shows && h.alive(now)) && (now.Sub(h.came) >= cameRest || now.Before(h.came)) {
		h.came, came = now, true
	}
	// What it was given and does not name was lost on the way, or with the helper before it.
	var again []pending
	for _, p := range h.given {
		switch {
		case slices.Contains(t.Shown, p.ID):
		case slices.Contains(t.Failed, p.ID):
			h.failed++
		default:
			again = append(again, p)
		}
	}
	h.given, h.list = nil, slices.DeleteFunc(append(again, h.list...), func(p pending) bool { return now.Sub(p.at) >= noticeGood || now.Before(p.at) })
	h.state = bounded(t.State)
	h.at, h.asks = now, true
	return h, came, nil
}

// hears notes what the parts of a helper say between two turns.
func (hs *helpers) hears(uid uint32, id string, s *session.Said) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.by[id]
	if h == nil || h.uid != uid || !h.alive(hs.now()) || s.Run == "" || h.said.Run != s.Run {
		return errNotHelper
	}
	hs.says(h, s)
	return nil
}

var errNotHelper = &localapi.Error{Status: http.StatusConflict, Message: "this is not the helper of the session"}

// Answer implements platform.Desks.
func (hs *helpers) Answer(part string, f answerer) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.answer[part] = f
}

// ask answers what a part of a session's helper asks. run is the helper's own name.
func (hs *helpers) ask(ctx context.Context, uid uint32, id, run, part, contentType string, body io.Reader) (any, error) {
	hs.mu.Lock()
	h, f := hs.by[id], hs.answer[part]
	ours := h != nil && h.uid == uid && h.alive(hs.now()) && run != "" && h.said.Run == clip(run, maxSaid)
	hs.mu.Unlock()
	switch {
	case !ours:
		return nil, errNotHelper
	case f == nil:
		return nil, &localapi.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("nothing of a session is called %q", enforce.Plain(clip(part, maxSaid)))}
	}
	for _, d := range hs.List(part) {
		if d.ID == id && d.UID == uid {
			v, err := f(ctx, d, contentType, body)
			if errors.Is(err, platform.ErrQuestion) {
				err = &localapi.Error{Status: http.StatusBadRequest, Message: err.Error()}
			}
			return v, err
		}
	}
	return nil, errNotHelper
}

// says notes what the parts of a helper say, as far as somebody wants to hear it. The caller holds the lock.
func (hs *helpers) says(h *helper, s *session.Said) {
	s.Run = clip(s.Run, maxSaid)
	if s.Run == "" && h.said.Run == "" || s.Run == h.said.Run && s.Seq <= h.said.Seq {
		return
	}
	before := h.said
	h.said = session.Said{Run: s.Run, Seq: s.Seq, Given: clip(s.Given, maxSaid), Parts: map[string]json.RawMessage{}}
	for name, told := range hs.hear {
		if said := s.Parts[name]; len(said) <= session.MaxPart {
			h.said.Parts[name] = said
		}
		if !bytes.Equal(before.Parts[name], h.said.Parts[name]) || before.Given != h.said.Given || before.Run != h.said.Run {
			told()
		}
	}
}

// stirred says to all who listen that a helper has died or hangs.
func (hs *helpers) stirred() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, told := range hs.hear {
		told()
	}
}

// Give implements platform.Desks.
func (hs *helpers) Give(part string, rules json.RawMessage) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.giving && bytes.Equal(hs.rules[part], rules) {
		return
	}
	hs.giving = true
	if hs.rules[part] = rules; rules == nil {
		delete(hs.rules, part)
	}
	hs.given = ""
	if len(hs.rules) > 0 {
		b, err := json.Marshal(hs.rules) // in the order of their names
		sum := sha256.Sum256(b)
		if hs.given = hex.EncodeToString(sum[:12]); err != nil {
			hs.given = "" // they are no JSON: a mistake in the capability, and nothing is given
		}
	}
	for _, h := range hs.by {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// Hear implements platform.Desks.
func (hs *helpers) Hear(part string, told func()) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.hear[part] = told
}

// List implements platform.Desks.
func (hs *helpers) List(part string) (out []platform.Desk) {
	list := hs.logins()
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := hs.now()
	for _, l := range list {
		d := platform.Desk{ID: l.ID, UID: l.UID, Type: l.Type}
		if h := hs.by[l.ID]; h != nil && h.uid == l.UID && h.alive(now) {
			d.Helper, d.Taken, d.Said = true, h.said.Given == hs.given, h.said.Parts[part]
		}
		out = append(out, d)
	}
	return out
}

// bounded bounds what a helper says.
func bounded(s session.State) session.State {
	for _, p := range []*string{&s.Version, &s.Type, &s.Desktop, &s.Why} {
		*p = clip(enforce.Plain(*p), maxSaid)
	}
	if s.Lock != seat.Locked && s.Lock != seat.Unlocked {
		s.Lock = ""
	}
	return s
}

// tell hands a notice to helpers of users, and returns the sessions of which it was: those on the screen now, whose helper waits for one
// and can show it.
func (hs *helpers) tell(n session.Notice, users []uint32) (told []notify.Told) {
	var front []string
	for _, l := range hs.logins() {
		if l.Active && slices.Contains(users, l.UID) {
			front = append(front, l.ID)
		}
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.next++
	n.ID = hs.next
	now := hs.now()
	for _, id := range front {
		h := hs.by[id]
		if h == nil || !slices.Contains(users, h.uid) || !h.alive(now) || !h.state.Shows || len(h.list) >= maxNotices {
			continue
		}
		h.list = append(h.list, pending{n, now})
		select {
		case h.wake <- struct{}{}:
		default:
		}
		told = append(told, notify.Told{UID: h.uid, Where: "user " + strconv.FormatUint(uint64(h.uid), 10) + " in session " + id})
	}
	return told
}

// SessionStatus is one graphical session, and its helper.
type SessionStatus struct {
	ID      string `json:"id"`
	User    string `json:"user"`
	UID     uint32 `json:"uid"`
	Type    string `json:"type"` // x11 or wayland
	Active  bool   `json:"active"`
	Helper  bool   `json:"helper"` // its helper runs
	Shows   bool   `json:"shows_notices"`
	Desktop string `json:"desktop,omitempty"`
	Lock    string `json:"screen_lock,omitempty"` // locked or unlocked, as the helper says
	Version string `json:"helper_version,omitempty"`
	Failed  uint64 `json:"notices_not_shown,omitempty"`
	Why     string `json:"why,omitempty"` // why its user is not told anything
}

// sessions are the graphical sessions that there are: all of them, or those of a user.
func (hs *helpers) sessions(all bool, uid uint32) (out []SessionStatus) {
	list := hs.logins()
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := hs.now()
	for _, l := range list {
		if !all && l.UID != uid {
			continue
		}
		s := SessionStatus{ID: l.ID, User: enforce.Plain(l.User), UID: l.UID, Type: l.Type, Active: l.Active}
		h := hs.by[l.ID]
		switch {
		case h == nil || h.uid != l.UID || !h.alive(now):
			s.Why = noHelper
		default:
			s.Helper, s.Shows, s.Desktop, s.Version, s.Why, s.Failed, s.Lock = true, h.state.Shows, h.state.Desktop, h.state.Version, h.state.Why, h.failed, h.state.Lock
			if !s.Shows && s.Why == "" {
				s.Why = "nothing shows notices in this session"
			}
		}
		out = append(out, s)
	}
	return out
}

// untold names a graphical session whose user cannot be told anything, and has not been for a while; "" if there is none.
func (hs *helpers) untold() string {
	list := hs.sessions(true, 0)
	hs.mu.Lock()
	defer hs.mu.Unlock()
	was, now := hs.mute, hs.now()
	hs.mute = map[string]time.Time{}
	out := ""
	for _, s := range list {
		if s.Shows {
			continue
		}
		since, is := was[s.ID]
		if !is || now.Before(since) {
			since = now
		}
		hs.mute[s.ID] = since
		if out == "" && now.Sub(since) >= muteFor {
			// Everybody reads this: neither the user nor what a helper says.
			if out = "session " + s.ID + ": nothing shows notices there"; !s.Helper {
				out = "session " + s.ID + ": " + noHelper
			}
		}
	}
	return out
}

const noHelper = "its helper (warder session) does not run"

// muteFor is how long a session may take to start its helper, or start it anew.
const muteFor = 2 * time.Minute
