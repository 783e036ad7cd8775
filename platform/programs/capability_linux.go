package programs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Control observes, refuses and stops the programs of one group.
type Control struct {
	*group
	proc, run string
	off       bool // this is not the real machine
	gate      enforce.Gate
	log       *slog.Logger
	held      *bpf.Held
	last      atomic.Pointer[contents] // what the programs were told
	poke      atomic.Pointer[func()]   // has the guard look at what runs
	cannot    atomic.Bool              // the programs are not here: what runs is stopped more often
	falls     atomic.Bool              // and cannot be: the doorman does what it can instead
	touched   atomic.Pointer[func()]   // has the planner look
	doorman   *doorman
}

// Clients is the control of programs that synchronise files with a cloud.
func Clients(h platform.Host) platform.Capability { return capability(&clients, h) }

// Tools is the control of programs that take pictures of the screen.
func Tools(h platform.Host) platform.Capability { return capability(&tools, h) }

func capability(of *group, h platform.Host) platform.Capability {
	c := &Control{group: of, proc: h.Proc, run: h.Run, off: h.Sysfs != "/sys", gate: h.Gate, log: h.Log, held: bpf.Hold(of.set, h.Run, of.check)}
	g := newGuard(c)
	c.doorman = &doorman{what: of.what, log: h.Log, hand: g.atTheDoor, outdated: g.again, died: func() {
		if f := c.touched.Load(); f != nil {
			(*f)()
		}
	}}
	return platform.Capability{
		Name: of.name, Claims: of.claims(), Probe: c.probe,
		Observers: []platform.Observer{c}, Backends: []platform.Backend{c}, Guards: []platform.Guard{g}, Now: c.now,
	}
}

// probe says why this machine cannot keep them from starting, if it cannot.
func (c *Control) probe(ctx context.Context) []platform.Claim {
	if c.off {
		return []platform.Claim{{Setting: c.setting, OS: "linux", Level: fact.Unsupported, Limit: c.what + " are not refused: this machine is simulated"}}
	}
	err := c.set.Takes(ctx, c.run)
	c.cannot.Store(err != nil)
	c.falls.Store(err != nil)
	if err == nil {
		return nil
	}
	return []platform.Claim{{Setting: c.setting, OS: "linux", Level: fact.Partial, Limit: c.without + ": " + err.Error()}}
}

// now says whether one runs, by its name for people.
func (c *Control) now(section, subject string) string {
	if section != c.setting.Section() || !slices.ContainsFunc(c.apps, func(x fact.App) bool { return x.Name == subject }) {
		return ""
	}
	list, err := c.present()
	if err != nil {
		return ""
	}
	for _, x := range list {
		if app, ok := c.apps.ByID(x.App); ok && app.Name == subject {
			return fmt.Sprintf("it runs (program %s, %d process(es))", enforce.Plain(x.Program), x.Processes)
		}
	}
	return "it does not run"
}

// Observe lists those that run.
func (c *Control) Observe(_ context.Context, out *fact.Machine) error {
	all, err := c.present()
	if err != nil {
		*c.at(out) = fact.Unread[[]fact.Running](err.Error())
		return err
	}
	*c.at(out) = fact.Is(all)
	return nil
}

// present sums up the processes of each.
func (c *Control) present() ([]fact.Running, error) {
	list, err := c.running()
	if err != nil {
		return nil, err
	}
	all := []fact.Running{}
	at := map[string]int{}
	for _, p := range list {
		i, is := at[p.app.ID]
		if !is {
			i = len(all)
			at[p.app.ID] = i
			all = append(all, fact.Running{App: p.app.ID, Program: p.program})
		}
		all[i].Processes++
	}
	return all, nil
}
