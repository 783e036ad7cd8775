package cloudsync

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

// Clients observes, refuses and stops sync clients.
type Clients struct {
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

// Capability is the control of sync clients.
func Capability(h platform.Host) platform.Capability {
	c := &Clients{proc: h.Proc, run: h.Run, off: h.Sysfs != "/sys", gate: h.Gate, log: h.Log, held: bpf.Hold(&bpf.CloudSync, h.Run, check)}
	g := newGuard(c)
	c.doorman = &doorman{log: h.Log, hand: g.atTheDoor, outdated: g.again, died: func() {
		if f := c.touched.Load(); f != nil {
			(*f)()
		}
	}}
	return platform.Capability{
		Name: name, Claims: claims(), Probe: c.probe,
		Observers: []platform.Observer{c}, Backends: []platform.Backend{c}, Guards: []platform.Guard{g}, Now: c.now,
	}
}

// probe says why this machine cannot keep them from starting, if it cannot.
func (c *Clients) probe(ctx context.Context) []platform.Claim {
	if c.off {
		return []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Unsupported, Limit: "sync clients are not refused: this machine is simulated"}}
	}
	err := bpf.CloudSync.Takes(ctx, c.run)
	c.cannot.Store(err != nil)
	c.falls.Store(err != nil)
	if err == nil {
		return nil
	}
	return []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Partial, Limit: cannotLimit + ": " + err.Error()}}
}

// now says whether a client runs, by its name for people.
func (c *Clients) now(section, subject string) string {
	if section != setting.Section() || !slices.ContainsFunc(fact.Clients, func(x fact.Client) bool { return x.Name == subject }) {
		return ""
	}
	list, err := c.present()
	if err != nil {
		return ""
	}
	for _, x := range list {
		if client, _ := fact.ClientOf(x.Client); client.Name == subject {
			return fmt.Sprintf("it runs (program %s, %d process(es))", enforce.Plain(x.Program), x.Processes)
		}
	}
	return "it does not run"
}

// Observe lists the clients that run.
func (c *Clients) Observe(_ context.Context, out *fact.Machine) error {
	all, err := c.present()
	if err != nil {
		out.Clients = fact.Unread[[]fact.Syncing](err.Error())
		return err
	}
	out.Clients = fact.Is(all)
	return nil
}

// present sums up the processes of each client.
func (c *Clients) present() ([]fact.Syncing, error) {
	list, err := c.running()
	if err != nil {
		return nil, err
	}
	all := []fact.Syncing{}
	at := map[string]int{}
	for _, p := range list {
		i, is := at[p.client.ID]
		if !is {
			i = len(all)
			at[p.client.ID] = i
			all = append(all, fact.Syncing{Client: p.client.ID, Program: p.program})
		}
		all[i].Processes++
	}
	return all, nil
}
