package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/link"
)

// Resolver answers questions about names.
type Resolver struct {
	Log      *slog.Logger
	Fill     platform.Fill
	Admit    platform.Admit
	Admitted platform.Admitted
	Left     platform.Left
	Asked    platform.Asked
	Forget   platform.Forget

	hand  func(platform.Decision)
	now   atomic.Pointer[standing] // nil: no rules yet, nothing is answered
	cache cache
	room  chan struct{} // one for each question on its way to a server
	zones zones         // and where they go
	// foreign has one for each question on its way to a server that is not the machine's own, and large for each long answer
	// that is being read.
	foreign, large chan struct{}
	told           refusals

	load sync.Mutex // one Load at a time
	// changing is held for writing while other rules come into force, and for reading while an address is admitted by those
	// in force: an answer that was on its way admits nothing by old rules.
	changing sync.RWMutex
	sockets  *sockets
	lists    atomic.Pointer[string] // for which an earlier run made the table, until there are rules
	watch    *observer

	asking  sync.Mutex
	heard   time.Time // when domains were read
	domains []string

	mu     sync.Mutex
	looked time.Time // when known was read
	known  []netip.AddrPort
	stats  map[netip.AddrPort]*ServerState
	tally  map[string]int
	// admitted remembers which names an address was admitted for, longer than the firewall does: open connections go on.
	admitted map[netip.Addr]*admission
	order    []netip.Addr

	counts struct{ refused, cached atomic.Int64 }
}

// standing is what is in force.
type standing struct {
	rules rules
	judge enforce.Judge[fact.Destination]
	reach fact.Reach
	acts  bool // something is refused
	// portal is until when a captive portal can be reached, and gateways are addresses at which it may be.
	portal   time.Time
	gateways []netip.Addr
}

// admission is what is known of an admitted address.
type admission struct {
	names []string // the last one is first in the firewall's comment
	until time.Time
}

// New makes a resolver that does nothing yet.
func New(log *slog.Logger) *Resolver {
	return &Resolver{Log: log, room: make(chan struct{}, maxAsked), foreign: make(chan struct{}, maxAsked/4),
		large: make(chan struct{}, 2), stats: map[netip.AddrPort]*ServerState{}, tally: map[string]int{},
		admitted: map[netip.Addr]*admission{}}
}

// Section names the section whose rules it uses.
func (r *Resolver) Section() string { return "network" }

// Listen sets who is told.
func (r *Resolver) Listen(hand func(platform.Decision), _ func(bool)) { r.hand = hand }

// Start listens at once if an earlier run's table still redirects questions here, and remembers what that run admitted.
// Nothing is answered until there are rules.
func (r *Resolver) Start() {
	list, lists, err := r.Left()
	if err != nil || lists == "" {
		return
	}
	r.remember(list)
	r.lists.Store(&lists)
	r.load.Lock()
	defer r.load.Unlock()
	if r.sockets, err = r.listen(); err != nil {
		r.Log.Warn("the resolver does not run", "error", err)
		r.sockets = nil
	}
}

// left are the lists that an earlier run's table was made for.
func (r *Resolver) left() string {
	if s := r.lists.Load(); s != nil {
		return *s
	}
	return ""
}

// Load replaces the rules.
func (r *Resolver) Load(in platform.Rules) error {
	r.load.Lock()
	defer r.load.Unlock()
	var s *standing
	if in != nil {
		n, ok := in.(rules)
		if !ok {
			return platform.Unsupported{Feature: "judging names", Need: "rules that judge names"}
		}
		if n.Looked() {
			s = &standing{rules: n, judge: n.Names(), acts: n.Judged()}
		}
	}
	if s == nil || !s.acts {
		if s != nil {
			s.reach = s.rules.Reach(enforce.Monitor)
		}
		r.replace(nil)
		if r.sockets != nil {
			r.sockets.close()
			r.sockets = nil
		}
		r.cache.clear()
		return r.observe(s)
	}
	if err := r.observe(nil); err != nil {
		return err
	}
	s.reach = s.rules.Reach(enforce.Enforce)
	if s.portal = s.rules.Portal(); !s.portal.IsZero() {
		s.gateways = link.Gateways()
		for _, server := range link.Servers() {
			s.gateways = append(s.gateways, server.Addr())
		}
	}
	if r.sockets == nil {
		var err error
		if r.sockets, err = r.listen(); err != nil {
			r.replace(nil)
			return err
		}
	}
	// Not before, and not while sockets are closed: that waits for questions, and they may wait for this.
	r.changing.Lock()
	defer r.changing.Unlock()
	r.now.Store(s)
	r.cache.clear()
	if err := r.Fill(s.reach, func(a netip.Addr) bool { return r.keeps(s, a) },
		func() []platform.Admission { return r.stillAdmitted(s) }); err != nil {
		return fmt.Errorf("the firewall: %w", err)
	}
	if err := r.Admit(s.opened()); err != nil {
		return fmt.Errorf("the firewall: %w", err)
	}
	go forgetCached() // what the system's own resolver has cached was not judged
	return nil
}

// replace puts other rules in force.
func (r *Resolver) replace(s *standing) {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.now.Store(s)
}

// refuses reports whether an address is one that the policy blocks.
func (s *standing) refuses(a netip.Addr) bool {
	return slices.ContainsFunc(s.reach.Refuse, func(x fact.Range) bool { return x.Has(a) })
}

// opened admits the addresses at which a captive portal may be, while the way to it is open.
func (s *standing) opened() (out []platform.Admission) {
	left := time.Until(s.portal)
	if !s.reach.Only || left < time.Second {
		return nil
	}
	for _, a := range s.gateways {
		out = append(out, platform.Admission{Name: "portal", Address: a.WithZone(""), For: left})
	}
	return out
}

// observe starts or stops listening to the questions on the wire.
func (r *Resolver) observe(s *standing) error {
	if s == nil {
		if r.watch != nil {
			r.watch.close()
			r.watch = nil
		}
		return nil
	}
	if r.watch != nil {
		r.watch.rules.Store(s)
		return nil
	}
	w, err := r.eavesdrop(s)
	if err != nil {
		return fmt.Errorf("names cannot be observed: %w", err)
	}
	r.watch = w
	return nil
}

// Run waits: the loops run while there are rules.
func (r *Resolver) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Work lists nothing.
func (r *Resolver) Work() []platform.Work { return nil }

// Stop closes the sockets. The firewall stays as it is.
func (r *Resolver) Stop() {
	r.load.Lock()
	defer r.load.Unlock()
	_ = r.observe(nil)
	if r.sockets != nil {
		r.sockets.close()
		r.sockets = nil
	}
}

// maxAdmitted bounds how many addresses are remembered: as many as the firewall's two sets have. The oldest go first.
const maxAdmitted = 32768

// remember keeps which names addresses were admitted for.
func (r *Resolver) remember(list []platform.Admission) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, a := range list {
		x := r.admitted[a.Address]
		if x == nil {
			x = &admission{}
			r.admitted[a.Address] = x
			r.order = append(r.order, a.Address)
			if len(r.order) > maxAdmitted {
				delete(r.admitted, r.order[0])
				r.order = r.order[1:]
			}
		}
		if until := now.Add(a.For); until.After(x.until) {
			x.until = until
		}
		if !slices.Contains(x.names, a.Name) && len(x.names) < 16 {
			x.names = append(x.names, a.Name)
		}
	}
}

// stillAdmitted lists what was resolved lately, under a name that the rules allow.
func (r *Resolver) stillAdmitted(s *standing) (out []platform.Admission) {
	now := time.Now()
	out = s.opened()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range slices.Backward(r.order) {
		x := r.admitted[a]
		if left := x.until.Sub(now); left > time.Second {
			if i := slices.IndexFunc(x.names, func(n string) bool { return s.judge.Judge(&fact.Destination{Name: n}).Allow }); i >= 0 {
				out = append(out, platform.Admission{Name: x.names[i], Address: a, For: left})
			}
		}
	}
	return out
}

// keeps reports whether an open connection to an address may go on: a name that is still allowed had it.
func (r *Resolver) keeps(s *standing, a netip.Addr) bool {
	if s.judge.Judge(&fact.Destination{Address: a}).Allow || slices.Contains(s.gateways, a) && !s.refuses(a) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.admitted[a.Unmap()]; x != nil {
		return slices.ContainsFunc(x.names, func(n string) bool { return s.judge.Judge(&fact.Destination{Name: n}).Allow })
	}
	return false
}

// verdict judges the name of a question. A reverse name is judged as the address that it asks about.
func (r *Resolver) verdict(s *standing, d *fact.Destination) enforce.Verdict {
	if !strings.HasSuffix(d.Name, ".arpa") {
		return s.judge.Judge(d)
	}
	if a, ok := reversed(d.Name); ok {
		if isPrivate(a) {
			return enforce.Verdict{Allow: true}
		}
		r.mu.Lock()
		known := r.admitted[a] != nil
		r.mu.Unlock()
		if known {
			return enforce.Verdict{Allow: true}
		}
		return s.judge.Judge(&fact.Destination{Address: a})
	}
	return s.judge.Judge(d)
}

// refuse answers a question whose name is refused; nil if it is not.
func (r *Resolver) refuse(out, p []byte, q *question, s *standing) []byte {
	name := q.text()
	q.dest = fact.Destination{Name: name}
	v := r.verdict(s, &q.dest)
	if v.Allow && !v.WouldDeny || q.signs() && s.rules.Above(&q.dest) {
		return nil
	}
	if !v.Allow {
		r.counts.refused.Add(1)
	}
	if now := time.Now(); !r.told.enough(name, v.Allow, now) {
		d := fact.Destination{Name: string(q.name)}
		r.refused(s, d, v, d.Name)
	}
	if v.Allow {
		return nil
	}
	return q.reply(out, p, rcodeNoName, edeBlocked, s.words(&v))
}

// words is the text of an extended error. It is the same for all names of one setting, so that it costs nothing.
func (s *standing) words(v *enforce.Verdict) string {
	switch v.Rule.Setting {
	case "network.allowed_domains":
		return "refused by this organization's policy: network.allowed_domains"
	case "network.allowed_lists":
		return "refused by this organization's policy: network.allowed_lists"
	case "network.blocked_lists":
		return "refused by this organization's policy: network.blocked_lists"
	}
	return "refused by this organization's policy: network.blocked_domains"
}

// refused remembers a refusal, and makes an event of it if it is one worth telling. asked is the name that was asked for,
// which is not always the one that is refused.
func (r *Resolver) refused(s *standing, d fact.Destination, v enforce.Verdict, asked string) {
	why, _ := s.judge.Reason(v, &d)
	if !r.told.add(d.Name, v.Allow, why, time.Now()) || r.hand == nil {
		return
	}
	out := platform.Decision{Section: "network", Key: enforce.Key{Kind: "name", ID: d.Name}, Subject: d.Name, Verdict: v,
		Fact: &fact.Destination{Name: d.Name}, Reason: func() (string, string) { return s.judge.Reason(v, &d) },
		Done: enforce.Reading{State: enforce.Present, Value: "refused", How: "the resolver's answer"}}
	if v.Allow {
		out.Done = enforce.Reading{State: enforce.Present, Value: "answered", How: "the question, as it was seen"}
	}
	if asked != d.Name {
		out.Note = "it stands in the answer for " + asked
	}
	r.hand(out)
}

// first is the server that a question goes to first; invalid if that has to be looked up.
func (r *Resolver) first(s *standing, from *net.UDPAddr) netip.AddrPort {
	var asked netip.AddrPort
	if !from.IP.IsLoopback() {
		var ok bool
		if asked, ok = r.meant(from.AddrPort(), false); ok && !s.reach.Only {
			if !s.judge.Judge(&fact.Destination{Address: asked.Addr()}).Allow {
				return netip.AddrPort{} // it may not be reached, by its answers either
			}
			return asked
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.known) == 0 || time.Since(r.looked) > lookAgain:
		return netip.AddrPort{}
	case slices.Contains(r.known, asked):
		return asked
	}
	return r.known[0]
}

// asked notes what became of asking a server.
func (r *Resolver) asked(server netip.AddrPort, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.stats[server]
	if x == nil {
		if len(r.stats) >= 64 {
			clear(r.stats)
		}
		x = &ServerState{Server: server.String()}
		r.stats[server] = x
	}
	x.Asked++
	x.Last, x.Problem = time.Now(), ""
	if err != nil {
		x.Failed++
		x.Problem = err.Error()
	}
}

// count counts what goes wrong.
func (r *Resolver) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally[what]++
}

// present says which answer let an address be reached and when that ends, or when a name was refused last.
func (r *Resolver) present(section, subject string) string {
	if section != r.Section() {
		return ""
	}
	if ap, err := netip.ParseAddrPort(subject); err == nil {
		subject = ap.Addr().String()
	}
	addr, err := netip.ParseAddr(subject)
	if err != nil {
		return r.told.of(subject, time.Now())
	}
	list, err := r.Admitted()
	if err != nil {
		return ""
	}
	for _, a := range list {
		if a.Address == addr.Unmap() {
			return fmt.Sprintf("can be reached, because %s resolved to it, for another %s", enforce.Plain(a.Name), a.For.Round(time.Second))
		}
	}
	if s := r.now.Load(); s != nil && s.reach.Only {
		return "no allowed name has resolved to it lately"
	}
	return ""
}

// State is what support staff are shown.
func (r *Resolver) State() State {
	out := State{Mode: "off", Listening: []string{}, Servers: []ServerState{}, Domains: []string{}, Refused: r.told.all(),
		Cached: r.cache.len(), Counts: map[string]int{}, Admitted: []Admitted{}}
	r.load.Lock()
	if r.sockets != nil {
		out.Listening = append(out.Listening, r.sockets.at...)
	}
	if r.watch != nil {
		out.Mode = "observe"
	}
	r.load.Unlock()
	if s := r.now.Load(); s != nil {
		out.Mode, out.Reach = "enforce", s.reach.String()
		out.Domains = append(out.Domains, r.own()...)
	}
	r.mu.Lock()
	for _, x := range r.stats {
		out.Servers = append(out.Servers, *x)
	}
	for k, n := range r.tally {
		out.Counts[k] = n
	}
	r.mu.Unlock()
	out.Counts["refused"], out.Counts["cached"] = int(r.counts.refused.Load()), int(r.counts.cached.Load())
	slices.SortFunc(out.Servers, func(a, b ServerState) int { return b.Last.Compare(a.Last) })
	if list, err := r.Admitted(); err == nil {
		for _, a := range list {
			out.Admitted = append(out.Admitted, Admitted{a.Address, a.Name, int(a.For / time.Second)})
		}
		slices.SortFunc(out.Admitted, func(a, b Admitted) int { return a.Address.Compare(b.Address) })
	}
	return out
}
