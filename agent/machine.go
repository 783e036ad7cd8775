package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
)

// machine is everything that is observed, enforced and guarded here. It drives the capabilities of this system and the
// sections of the policy through their doors, and imports none of them.
type machine struct {
	boot     string
	now      func() time.Time
	log      *slog.Logger
	sections []section.Section
	list     []platform.Capability
	loop     *reconcile.Loop
	gate     gate
	stirred  atomic.Bool // since the last look a guard has decided something or asked for a look

	mu      sync.Mutex
	can     map[string]fact.Capability      // by setting, as probed
	touched map[enforce.Key]enforce.Program // by whom, since the last look
	written bool                            // something was changed, known or not
	state   standing

	way func() fact.Network // the way to the server, which no policy may cut off; nil: unknown
}

// standing is the state of the machine at the last look. Its parts are never changed afterwards.
type standing struct {
	look     int // counts
	snapshot fact.Machine
	guarded  fact.Machine  // what the guards' rules were made of: the snapshot before this state
	compiled *section.Case // without a policy, of an empty document
	governed bool
	asked    *policy.Document // the policy that was asked for; nil: none
	loaded   bool             // every guard has taken its rules
	findings []enforce.Finding
	result   reconcile.Result
	blind    map[string]string
	written  bool // another program had written something that might have changed this state
}

// newMachine makes a machine of this system's capabilities; with early, of those that take part in the early start.
func newMachine(o *Options, l reconcile.Memory, desks platform.Desks, early *platform.Notes) (*machine, error) {
	m := &machine{boot: o.Boot, now: o.Now, log: o.Log, sections: o.Sections, can: map[string]fact.Capability{}}
	h := platform.Host{Sysfs: o.SysRoot, Proc: o.ProcRoot, Inputs: o.Inputs, Run: o.Paths.Run, Quarantine: o.Paths.Quarantine(),
		Network: o.Network || o.SysRoot == "/sys", Desks: desks, Gate: m.gate.pass, Log: o.Log, Early: early}
	var backends []platform.Backend
	for _, f := range o.Capabilities {
		c := f(h)
		if early != nil && !c.Early {
			continue
		}
		m.list = append(m.list, c)
		backends = append(backends, c.Backends...)
	}
	if err := platform.Join(m.list); err != nil {
		return nil, err
	}
	m.loop = reconcile.New(l, o.Now, backends...)
	m.gate.rests = m.loop.Rests
	m.probe(context.Background())
	return m, nil
}

// probe finds out what this machine can do now.
func (m *machine) probe(ctx context.Context) {
	var probed []platform.Capability
	for _, c := range m.list {
		var now []platform.Claim
		if c.Probe != nil {
			now = c.Probe(ctx)
		}
		c.Claims = platform.Lower(c.Claims, now, runtime.GOOS)
		probed = append(probed, c)
	}
	can := map[string]fact.Capability{}
	for _, s := range m.sections {
		for _, set := range s.Settings {
			c := platform.ClaimOf(probed, set.Name, runtime.GOOS)
			can[string(set.Name)] = fact.Capability{Level: c.Level, Limit: c.Limit}
		}
	}
	m.mu.Lock()
	m.can = can
	m.mu.Unlock()
}

// supports reports whether anything of a setting is carried out or observed here.
func (m *machine) supports(s enforce.Setting) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.can[string(s)].Level != fact.Unsupported
}

// start ends what an earlier run left, and sets who receives the guards' decisions.
func (m *machine) start(hand func(platform.Decision), look func(soon bool)) {
	for _, g := range m.guards() {
		g.Listen(func(d platform.Decision) {
			if d.New || d.Changed { // but not of what was only judged again because new rules were loaded
				m.stirred.Store(true)
			}
			hand(d)
		}, func(soon bool) { m.stirred.Store(true); look(soon) })
	}
	for _, c := range m.list {
		if c.Start != nil {
			c.Start()
		}
	}
}

// stop ends the work in the background, and leaves everything as it is.
func (m *machine) stop() {
	for _, g := range m.guards() {
		g.Stop()
	}
}

// guards returns the guards of all capabilities.
func (m *machine) guards() (out []platform.Guard) {
	for _, c := range m.list {
		out = append(out, c.Guards...)
	}
	return out
}

// observe takes a snapshot.
func (m *machine) observe(ctx context.Context) fact.Machine {
	m.mu.Lock()
	out := fact.Machine{Boot: m.boot, Capable: m.can}
	m.mu.Unlock()
	if m.way != nil {
		out.Network = fact.Is(m.way())
	}
	for _, c := range m.list {
		for _, o := range c.Observers {
			if err := o.Observe(ctx, &out); err != nil {
				m.log.Warn("cannot observe", "capability", c.Name, "error", err)
			}
		}
	}
	return out
}

// apply applies a policy and returns the resulting state. nil means no policy, or a suspended one: the empty plan.
// before is called with the plan before it is carried out. The caller calls put with the result when it is complete.
func (m *machine) apply(ctx context.Context, doc *policy.Document, before func(reconcile.Plan, bool)) standing {
	stirred := m.stirred.Swap(false)
	by, written := m.touches() // set before the snapshot: whatever is written from here on asks for another look
	snapshot := m.observe(ctx)
	asked := doc
	if asked == nil {
		asked = &policy.Document{} // changes nothing in the plan
	}
	c := section.Open(m.sections, asked, &snapshot)
	out := section.Decide(m.sections, c)
	if out.Ask && m.ask(ctx, &snapshot) {
		c = section.Open(m.sections, asked, &snapshot)
		out = section.Decide(m.sections, c)
	}
	loaded := c
	if doc == nil {
		loaded = nil
	}
	last := m.last()
	leave := m.kindsOf(out.Blind)
	for _, kind := range out.Unsure {
		leave[kind] = true
	}
	ask := reconcile.Ask{Wants: out.Wants, Blind: leave, Before: before, By: by,
		Still: !stirred && !written && last.asked == doc && last.loaded && reflect.DeepEqual(last.guarded, snapshot) &&
			reflect.DeepEqual(last.blind, out.Blind)}
	var unloaded []error
	still := ask.Still
	r := m.loop.Run(ctx, ask, func(context.Context) {
		unloaded, still = m.load(loaded, out.Blind), false
		m.mu.Lock() // who sees that a guard lets something pass, and asks why, is answered by what it goes by
		m.state.compiled, m.state.governed = c, doc != nil
		m.mu.Unlock()
	})
	r.Problems = append(r.Problems, unloaded...)
	m.name(r.Drifted)
	after := snapshot
	if !still {
		after = m.observe(ctx)
	}
	blind := maps.Clone(out.Blind)
	if !reflect.DeepEqual(snapshot, after) {
		// Decide again on the machine as it is now: what violated the policy may be gone. What could not be read a
		// moment ago was not enforced, and is looked at again.
		c = section.Open(m.sections, asked, &after)
		out = section.Decide(m.sections, c)
		maps.Copy(blind, out.Blind)
	}
	s := standing{asked: doc, loaded: len(unloaded) == 0, snapshot: after, guarded: snapshot, compiled: c, result: r, blind: blind,
		written: written, governed: doc != nil,
		findings: append(m.loop.Prove(out.Findings, out.Wants, r), reconcile.Conflicts(r)...)}
	return s
}

// ask obtains further facts that a decision depends on. It reports whether anything new is known.
func (m *machine) ask(ctx context.Context, snapshot *fact.Machine) (learnt bool) {
	for _, c := range m.list {
		if c.Ask != nil && c.Ask(ctx, snapshot) {
			learnt = true
		}
	}
	return learnt
}

// put makes a standing the current one.
func (m *machine) put(s standing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.look = m.state.look + 1
	m.state = s
}

// load gives each guard its rules. A guard whose section cannot read its facts keeps its old rules: unknown never acts.
func (m *machine) load(c *section.Case, blind map[string]string) (errs []error) {
	for _, g := range m.guards() {
		if _, is := blind[g.Section()]; is {
			continue
		}
		var rules platform.Rules
		if c != nil {
			if r := c.Rules(g.Section()); r != nil {
				rules = r
			}
		}
		if err := g.Load(rules); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// early lists the kinds of resources that the early start enforces, and what it has to be told.
func (m *machine) early() (kinds map[string]bool, notes platform.Notes) {
	kinds, notes = map[string]bool{}, platform.Notes{}
	for _, c := range m.list {
		if !c.Early {
			continue
		}
		for _, b := range c.Backends {
			for _, k := range b.Kinds() {
				kinds[k.Name] = true
			}
		}
		if c.Note != nil {
			notes[c.Name] = c.Note()
		}
	}
	return kinds, notes
}

// networked reports whether what a setting asks for can cut this machine off from its server.
func (m *machine) networked(s enforce.Setting) bool {
	return slices.ContainsFunc(m.list, func(c platform.Capability) bool {
		return slices.ContainsFunc(c.Claims, func(x platform.Claim) bool { return x.Setting == s }) && len(networkKinds(c)) > 0
	})
}

// closes reports whether a plan adds something that can cut this machine off, and does not only give back.
func (m *machine) closes(p reconcile.Plan) bool {
	return slices.ContainsFunc(p.Apply, func(change enforce.Change) bool {
		return !change.Baseline && slices.ContainsFunc(m.list, func(c platform.Capability) bool {
			return slices.Contains(networkKinds(c), change.Key.Kind)
		})
	})
}

// networkKinds are a capability's kinds that can cut this machine off from its server.
func networkKinds(c platform.Capability) (out []string) {
	for _, b := range c.Backends {
		for _, k := range b.Kinds() {
			if k.Network {
				out = append(out, k.Name)
			}
		}
	}
	return out
}

// kindsOf lists the kinds of resources that capabilities enforce for sections.
func (m *machine) kindsOf(sections map[string]string) map[string]bool {
	out := map[string]bool{}
	for _, c := range m.list {
		if !slices.ContainsFunc(c.Claims, func(x platform.Claim) bool { _, is := sections[x.Setting.Section()]; return is }) {
			continue
		}
		for _, b := range c.Backends {
			for _, k := range b.Kinds() {
				out[k.Name] = true
			}
		}
	}
	return out
}

// watch reports changes by other programs until ctx ends, and back ends that cannot be watched.
func (m *machine) watch(ctx context.Context, changed func(known bool), unwatched func(capability, why string)) error {
	var all sync.WaitGroup
	for _, c := range m.list {
		part := func(watch func() error) {
			all.Go(func() {
				for wait := watchAgain; ; wait = min(2*wait, backstop) {
					err := watch()
					if err == nil || ctx.Err() != nil {
						return
					}
					unwatched(c.Name, err.Error())
					if errors.As(err, &platform.Unwatched{}) {
						return // it cannot be watched on this system
					}
					select {
					case <-ctx.Done():
						return
					case <-time.After(wait):
						unwatched(c.Name, "")
					}
				}
			})
		}
		for _, b := range c.Backends {
			part(func() error {
				return b.Watch(ctx, func(t platform.Touch) { m.touch(t); changed(t.Key != enforce.Key{}) })
			})
		}
		for _, o := range c.Observers {
			if w, ok := o.(platform.Watched); ok {
				part(func() error { return w.Watch(ctx, func() { m.touch(platform.Touch{}); changed(false) }) })
			}
		}
	}
	all.Wait()
	return nil
}

// watchAgain is the pause before a watch that ended is started again; it doubles.
const watchAgain = 10 * time.Second

// guard runs every guard until ctx ends.
func (m *machine) guard(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	guards := m.guards()
	errs := make([]error, len(guards))
	for i, g := range guards {
		all.Go(func() {
			if errs[i] = g.Run(ctx); errs[i] != nil {
				cancel() // a guard that cannot run is a reason to restart
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil || len(guards) > 0 {
		return err
	}
	<-ctx.Done()
	return nil
}

// last is the state at the last look.
func (m *machine) last() standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// opened is the policy as the guards were given it, for questions. While nothing is in force it allows everything.
func (m *machine) opened(doc *policy.Document) *section.Case {
	s := m.last()
	if s.governed {
		return s.compiled
	}
	return m.fresh(doc)
}

// fresh compiles a policy for the last snapshot, for a question.
func (m *machine) fresh(doc *policy.Document) *section.Case {
	snapshot := m.last().snapshot
	return section.Open(m.sections, doc, &snapshot)
}

// inventory lists what a capability has.
func (m *machine) inventory(ctx context.Context, name string) (any, bool, error) {
	for _, c := range m.list {
		if c.Name == name && c.Inventory != nil {
			v, err := c.Inventory(ctx)
			return v, true, err
		}
	}
	return nil, false, nil
}

// present says what the machine's present state of a subject is, as each capability knows it.
func (m *machine) present(section, subject string) string {
	var list []string
	for _, c := range m.list {
		if c.Now == nil {
			continue
		}
		if s := c.Now(section, subject); s != "" {
			list = append(list, s)
		}
	}
	return strings.Join(list, "; ")
}

// work lists the work in the background.
func (m *machine) work() (out []platform.Work) {
	for _, g := range m.guards() {
		out = append(out, g.Work()...)
	}
	return out
}

// counts returns figures by section.
func (m *machine) counts() map[string]SectionStatus {
	s := m.last()
	out := map[string]SectionStatus{}
	for _, sec := range m.sections {
		if sec.Count == nil {
			continue
		}
		x := SectionStatus{Problem: s.blind[sec.Name], Counts: []section.Count{}}
		for _, p := range sec.Needs {
			if why, unread := s.snapshot.Unread(p); unread && x.Problem == "" {
				x.Problem = why
			}
		}
		if x.Problem == "" && s.compiled != nil { // before the first look there is nothing to count
			x.Counts = sec.Count(s.compiled)
		}
		out[sec.Name] = x
	}
	return out
}

// notGivenBack names what the last run could not restore.
func (s standing) notGivenBack() error { return failures(s.result) }

// failures joins the errors of a run.
func failures(r reconcile.Result) error {
	var errs []error
	for _, k := range slices.SortedFunc(maps.Keys(r.Failed),
		func(a, b enforce.Key) int { return strings.Compare(a.String(), b.String()) }) {
		errs = append(errs, fmt.Errorf("%s %s", k, r.Failed[k]))
	}
	return errors.Join(append(errs, r.Problems...)...)
}
