package clipboard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Capability keeps the clipboards of this machine's desktops.
func Capability(h platform.Host) platform.Capability {
	c := platform.Capability{Name: Name, Claims: claims()}
	if h.Desks == nil {
		return c
	}
	g := newGuard(h.Desks)
	c.Observers, c.Guards, c.Now = []platform.Observer{g}, []platform.Guard{g}, g.now
	c.Uses = []platform.Port{platform.Borrow(platform.PortLook, func(f platform.LookInto) { g.look = f })}
	return c
}

// Guard gives the helpers their rules, and hears what they say.
type Guard struct {
	platform.Listener
	desks platform.Desks
	heard chan struct{}
	users string // where each user's directory of sockets is
	look  platform.LookInto
	pace  pace
	lates map[string]int // by session, since this agent was started

	mu    sync.Mutex
	rules ruler
	last  []fact.Session // as they were looked at last
	seen  map[string]uint64
	told  bpf.Hourly
}

func newGuard(d platform.Desks) *Guard {
	g := &Guard{desks: d, heard: make(chan struct{}, 1), users: "/run/user", seen: map[string]uint64{}, lates: map[string]int{}}
	d.Hear(Name, func() {
		select {
		case g.heard <- struct{}{}:
		default:
		}
	})
	d.Answer(Name, g.lookInto)
	return g
}

// ruler is what the section's rules say.
type ruler interface {
	// ForClipboard are the rules for helpers; nil: nothing is refused, and nothing is looked into.
	ForClipboard() json.RawMessage
	// CanKeepClipboard reports whether programs are kept apart.
	CanKeepClipboard() bool
	Paste(*fact.Paste) enforce.Verdict
	PasteReason(enforce.Verdict, *fact.Paste) (reason, nearest string)
	// ClipboardAlone says that only other users are kept apart.
	ClipboardAlone() bool
}

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return settingSharing.Section() }

// Load gives the rules to the helpers. What they make of them is heard.
func (g *Guard) Load(r platform.Rules) error {
	x, _ := r.(ruler)
	var rules json.RawMessage
	if x != nil {
		rules = x.ForClipboard()
	}
	g.mu.Lock()
	g.rules = x
	g.mu.Unlock()
	g.desks.Give(Name, rules)
	return nil
}

const (
	// silent is how often the sessions are looked at while nothing is heard: one without a helper says nothing.
	silent = 10 * time.Second
	// rest is how long nothing is looked at after something was heard, whatever a helper says meanwhile.
	rest = 500 * time.Millisecond
)

// Run hears what the helpers say until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	tick := time.NewTicker(silent)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.heard:
		case <-tick.C:
		}
		g.mu.Lock()
		about := g.rules != nil && g.rules.ForClipboard() != nil
		last := g.last
		g.mu.Unlock()
		if !about {
			continue
		}
		now := g.sessions(true)
		if !slices.Equal(now, last) {
			g.Look(true)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// Observe reads what the helpers have said.
func (g *Guard) Observe(_ context.Context, m *fact.Machine) error {
	list := g.sessions(false)
	g.mu.Lock()
	g.last = list
	g.mu.Unlock()
	m.Sessions = fact.Is(list)
	return nil
}

// now says what is so in each session, for people.
func (g *Guard) now(section, subject string) string {
	g.mu.Lock()
	about := g.rules != nil && g.rules.CanKeepClipboard()
	g.mu.Unlock()
	if section != g.Section() || subject != fact.ClipboardWord || !about {
		return ""
	}
	var words []string
	for _, x := range g.sessions(false) {
		if len(words) == maxNow {
			words = append(words, "…")
			break
		}
		words = append(words, x.Said())
	}
	if len(words) == 0 {
		return fact.NoDesktop
	}
	return strings.Join(words, "; ")
}

// Why a helper's word does not count.
const (
	whyNoHelper = "its helper (warder session) does not run"
	whyNoRules  = "its helper does not have the rules yet"
	whyOther    = "its helper takes it for another kind of session"
)

// maxLate bounds what a helper says that was late.
const maxLate = 1 << 20

// maxNow bounds the sessions that an answer names.
const maxNow = 8

// sessions is what is so in each session. With tell, pastes that were refused since the last time are told.
func (g *Guard) sessions(tell bool) (out []fact.Session) {
	there := map[string]bool{}
	g.mu.Lock()
	alone := g.rules != nil && g.rules.ClipboardAlone()
	g.mu.Unlock()
	looks := g.judge() != nil
	for _, d := range g.desks.List(Name) {
		x := fact.Session{ID: d.ID, Type: d.Type}
		there[d.ID] = true
		switch {
		case d.Type != "x11" && !alone: // whatever its helper says
			x.Never, x.Why = true, waylandWhy
		case d.Type != "x11" && !private(fmt.Sprintf("%s/%d", g.users, d.UID), d.UID):
			x.Why = whys[whyOpen]
		case !d.Helper:
			x.Why = whyNoHelper
		case d.Said == nil || !d.Taken:
			x.Why = whyNoRules
		default:
			s, err := read(d.Said)
			if err != nil {
				x.Why = err.Error()
				break
			}
			if s.Type == "" {
				s.Type = "x11"
			}
			if x.Clipboard, x.Why = s.Kept && s.Why == "", s.Why; s.Type != d.Type {
				x.Clipboard, x.Why = false, whyOther
			}
			if tell {
				g.refused(&d, s.Refused)
			}
		}
		switch {
		case !looks:
		case d.Type == "x11" && !x.Clipboard:
			x.LookedWhy = x.Why
		default:
			g.looked(&x, &d)
		}
		out = append(out, x)
	}
	if tell {
		g.mu.Lock()
		for id := range g.seen {
			if !there[id] {
				delete(g.seen, id)
			}
		}
		for id := range g.lates {
			if !there[id] {
				delete(g.lates, id)
			}
		}
		g.mu.Unlock()
	}
	return out
}

// looked says whether what is copied in a session is looked into, as its helper says.
func (g *Guard) looked(x *fact.Session, d *platform.Desk) {
	if !d.Helper || d.Said == nil || !d.Taken {
		if x.LookedWhy = whyNoRules; !d.Helper {
			x.LookedWhy = whyNoHelper
		}
		return
	}
	s, err := read(d.Said)
	switch {
	case err != nil:
		x.LookedWhy = err.Error()
		return
	case cmp.Or(s.Type, "x11") != d.Type:
		x.LookedWhy = whyOther
		return
	}
	if s.NoLook == whyControl && d.Type != "x11" {
		x.LookedNever, x.LookedWhy = true, whys[whyControl]
		return
	}
	g.mu.Lock()
	x.LookedLate = min(max(s.Late, 0), maxLate) + g.lates[d.ID]
	g.mu.Unlock()
	switch {
	case !s.Looks:
		x.LookedWhy = s.NoLook
	case s.Blind:
		x.LookedWhy = "the agent has not answered its helper"
	default:
		x.Looked = true
	}
}

// refused tells of the refused pastes that are new: a helper that is started anew counts from the beginning.
func (g *Guard) refused(d *platform.Desk, list []Refusal) {
	g.mu.Lock()
	rules, seen := g.rules, g.seen[d.ID]
	newest := uint64(0)
	for _, r := range list {
		newest = max(newest, r.N)
	}
	if newest < seen {
		seen = 0
	}
	g.seen[d.ID] = newest
	g.mu.Unlock()
	if rules == nil {
		return
	}
	for _, r := range list {
		p := &fact.Paste{From: r.From, To: r.To}
		v := rules.Paste(p)
		if r.N <= seen || v.Allow { // told before; or allowed by now, or not in words of ours
			continue
		}
		who, what := strconv.FormatUint(uint64(d.UID), 10), fmt.Sprintf("%s %s %s %s %s", d.ID, r.From, r.To, r.Copied, r.PastedIn)
		g.mu.Lock()
		news := g.told.News(who, what)
		if news {
			g.told.Told(who, what)
		}
		g.mu.Unlock()
		if !news {
			continue
		}
		note := "what was copied"
		if r.Copied != "" {
			note += " in " + r.Copied
		}
		if note += " was not pasted"; r.PastedIn != "" {
			note += " in " + r.PastedIn
		}
		g.Hand(platform.Decision{Section: g.Section(), Key: enforce.Key{Kind: Name, ID: fmt.Sprintf("%s %d", d.ID, time.Now().UnixNano())}, Subject: "clipboard of session " + d.ID,
			Verdict: v, Fact: p, Done: enforce.Reading{State: enforce.Present, Value: "kept", How: "the session's helper"}, New: true, Note: note,
			Reason: func() (string, string) { return rules.PasteReason(v, p) }})
	}
}

// Work lists nothing: the helpers do all of it.
func (g *Guard) Work() []platform.Work { return nil }

// Stop has nothing to end: the helpers keep their rules for a while without the agent.
func (g *Guard) Stop() {}
