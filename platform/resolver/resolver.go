// Package resolver judges every name that is looked up on this machine. The firewall redirects each question to it, whoever
// it was meant for: so nothing of the machine's own configuration of name servers is touched. It refuses what the policy
// refuses, and passes everything else on to the server that was asked, as one that our own rules let through. What allowed
// names resolve to is admitted to the firewall before the answer goes out. Below enforce mode it only listens to the questions
// on the wire. It owns no policy: rules come through the door of a guard. Source of the formats: RFC 1035, RFC 6891 (EDNS),
// RFC 8914 (extended errors).
package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// rules are what the resolver needs of the rules of the section "network".
type rules interface {
	platform.Rules
	// Names judges names and addresses.
	Names() enforce.Judge[fact.Destination]
	// Named reports whether a name is allowed because the policy names it, and not only because nothing is against it.
	Named(*fact.Destination) bool
	// Essential reports whether a name can be reached whatever the lists say.
	Essential(*fact.Destination) bool
	// Above reports whether a name stands above one that is allowed, and no entry blocks it.
	Above(*fact.Destination) bool
	// Portal is until when the way to a captive portal is open; zero if it is not.
	Portal() time.Time
	// Looked reports whether names have to be looked at in any mode.
	Looked() bool
	// Judged reports whether the lists refuse anything.
	Judged() bool
	// Reach is what the firewall has to know of the settings in that mode and above.
	Reach(enforce.Mode) fact.Reach
}

// Refusal is a name that was refused, or that a mode below enforce let pass.
type Refusal struct {
	Name   string    `json:"name"`
	Reason string    `json:"reason"`
	Would  bool      `json:"would,omitempty"` // it was let pass
	Count  int       `json:"count"`
	Last   time.Time `json:"last"`
}

// maxRefusals bounds how many names are remembered; the one that was refused longest ago goes first.
const maxRefusals = 200

// refusals remembers what was refused, for people, and limits what is told as events.
type refusals struct {
	mu   sync.Mutex
	list map[string]*Refusal
	kept bucket
	told bucket
}

// bucket limits how often something may happen: up to most at once, and then one in each time.
type bucket struct {
	tokens float64
	filled time.Time
}

func (b *bucket) take(most float64, each time.Duration, now time.Time) bool {
	if b.filled.IsZero() {
		b.tokens, b.filled = most, now
	}
	b.tokens = min(most, b.tokens+max(0, now.Sub(b.filled).Seconds())/each.Seconds())
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// A program can ask for a new name every moment. Names are remembered up to fifty in a second, and told as events up to a
// hundred at once and one in ten seconds. The same name may be an event again after an hour.
const (
	keptEach = 20 * time.Millisecond
	burst    = 100
	toldEach = 10 * time.Second
	again    = time.Hour
)

// enough reports whether nothing more has to be done about a refusal: it was counted, or it is one too many. It does not
// keep the name.
func (r *refusals) enough(name string, would bool, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.list[name]
	if x == nil || x.Would != would {
		return !r.kept.take(maxRefusals, keptEach, now)
	}
	if now.Sub(x.Last) > again {
		return false
	}
	x.Count, x.Last = x.Count+1, now
	return true
}

// add remembers a refusal that is not enough yet, and reports whether it should be an event.
func (r *refusals) add(name string, would bool, reason string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = map[string]*Refusal{}
	}
	if x := r.list[name]; x != nil && x.Would == would {
		x.Count, x.Last = x.Count+1, now
		return r.told.take(burst, toldEach, now)
	}
	if len(r.list) >= maxRefusals {
		oldest := ""
		for n, x := range r.list {
			if oldest == "" || x.Last.Before(r.list[oldest].Last) {
				oldest = n
			}
		}
		delete(r.list, oldest)
	}
	r.list[name] = &Refusal{Name: name, Would: would, Reason: reason, Count: 1, Last: now}
	return r.told.take(burst, toldEach, now)
}

// of says when a name was refused last; "" if it was not.
func (r *refusals) of(name string, now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.list[name]
	switch {
	case x == nil:
		return ""
	case x.Would:
		return fmt.Sprintf("looked up %d times, the last %s ago", x.Count, now.Sub(x.Last).Round(time.Second))
	}
	return fmt.Sprintf("refused %d times, the last %s ago", x.Count, now.Sub(x.Last).Round(time.Second))
}

// all lists what is remembered, newest first.
func (r *refusals) all() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Refusal, 0, len(r.list))
	for _, x := range r.list {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Refusal) int { return b.Last.Compare(a.Last) })
	return out
}

// State is what "warder network" shows.
type State struct {
	// Mode is "enforce" if names are judged and refused, "observe" if questions are only listened to, "off" otherwise.
	Mode      string         `json:"mode"`
	Listening []string       `json:"listening"` // where questions are redirected to
	Servers   []ServerState  `json:"servers"`   // the servers that were asked lately, and what became of it
	Domains   []string       `json:"domains"`   // names below these may have private addresses
	Reach     string         `json:"reach"`     // what the firewall was told
	Refused   []Refusal      `json:"refused"`   // newest first
	Cached    int            `json:"cached"`
	Counts    map[string]int `json:"counts"`
	Admitted  []Admitted     `json:"admitted"` // what allowed names resolved to, and for how long it can be reached
}

// Admitted is an address that can be reached because an allowed name resolved to it.
type Admitted struct {
	Address netip.Addr `json:"address"`
	Name    string     `json:"name"`
	Seconds int        `json:"seconds"`
}

// ServerState is one server that names were asked of.
type ServerState struct {
	Server  string    `json:"server"`
	Asked   int       `json:"asked"`
	Failed  int       `json:"failed"`
	Last    time.Time `json:"last"`
	Problem string    `json:"problem,omitempty"` // of the last failure, if nothing has worked since
}
