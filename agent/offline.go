package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/usb"
)

// OfflineAction is what can be done while no agent runs.
type OfflineAction int

const (
	OfflineRevert   OfflineAction = iota // give back, once
	OfflineHold                          // give back, and hold the policy
	OfflineUnenroll                      // give back, and forget
)

// Offline gives the machine back while no agent runs: the plan of nothing, through the same planner
// and ledger.
func Offline(ctx context.Context, p paths.Paths, what OfflineAction, h HoldRequest) error {
	a, err := New(Options{Paths: p})
	if err != nil {
		return err
	}
	defer a.Close()
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	switch what {
	case OfflineRevert:
	case OfflineHold:
		if a.state.Device == nil {
			return errNotEnrolled
		}
		hold, err := newHold(orRoot(h.Who), h.Reason, time.Duration(h.Seconds)*time.Second, a.o.Now())
		if err != nil {
			return err
		}
		st := a.state
		st.Hold = hold
		if err := a.save(st); err != nil {
			return err
		}
	case OfflineUnenroll:
		if a.state.Device == nil && a.ident == "" {
			return errNotEnrolled
		}
	}
	r := a.loop.Run(ctx, nil, func(context.Context) { a.guard.Load(usb.Ruling{Judge: nothing{}}) })
	if err := failures(r); err != nil {
		return err
	}
	if what == OfflineUnenroll {
		return a.ids.Erase()
	}
	return nil
}

func orRoot(who string) string {
	if who == "" {
		return "root"
	}
	return who
}

func failures(r reconcile.Result) error {
	errs := r.Problems
	for k, why := range r.Failed {
		errs = append(errs, fmt.Errorf("%s %s", k, why))
	}
	for _, c := range r.Plan.Conflict {
		fmt.Fprintf(os.Stderr, "left alone: %s reads %s, which is neither ours nor what was there before (%s)\n", c.Key, c.From, c.To)
	}
	return errors.Join(errs...)
}

// EnrollOffline enrols while no agent runs.
func EnrollOffline(ctx context.Context, p paths.Paths, e Enrolment) error {
	ids := identity.New(p.State, p.Run)
	st, err := ids.Load()
	if err == nil && st.Device != nil {
		return fmt.Errorf("this machine is enrolled with %s already; unenroll it first", st.Device.Server)
	}
	if err != nil && !errors.Is(err, identity.ErrDamaged) {
		return err
	}
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return err
	}
	st, err = Enroll(ctx, e, "", MachineID())
	if err != nil {
		return err
	}
	return ids.Save(st)
}

// ExplainOffline explains by the stored policy while no agent runs. It needs the right to read it.
func ExplainOffline(p paths.Paths, in ExplainRequest) (Explanation, error) {
	a := &Agent{o: Options{Paths: p}, ids: identity.New(p.State, p.Run), problems: map[string]string{}}
	a.o.defaults()
	a.load()
	a.ctx = context.Background()
	if a.doc == nil {
		if a.ident != "" {
			return Explanation{}, errors.New(a.ident)
		}
		return Explanation{}, errors.New("the agent is dead, and no policy can be read (try as root)")
	}
	a.ports = &usb.Ports{Root: a.o.SysRoot, DevRoot: "/dev"}
	a.machine = a.observe(a.ctx)
	x, err := a.explain(caller{Root: true}, in, &a.machine)
	if err != nil {
		return Explanation{}, err
	}
	return x.(Explanation), nil
}
