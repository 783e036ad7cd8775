package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/platform/host"
	"github.com/warderd/warder/platform/paths"
)

// OfflineAction is what can be done while no agent runs.
type OfflineAction int

const (
	OfflineRevert   OfflineAction = iota // give back, once
	OfflineHold                          // give back, and suspend the policy
	OfflineUnenroll                      // give back, and forget the enrollment
)

// Offline gives the machine back while no agent runs. It applies the empty plan through the same planner and ledger.
// left says, for each resource that was left alone, why.
func Offline(ctx context.Context, p paths.Paths, what OfflineAction, h HoldRequest) (left []string, err error) {
	if untouched(p) {
		if what == OfflineRevert {
			return nil, nil
		}
		return nil, ErrNotEnrolled
	}
	a, err := New(Options{Paths: p})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	unlock, err := a.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer a.custody.ids.Wait()
	if err := a.offline(what, h); err != nil {
		return nil, err
	}
	if err := a.endEarly(); err != nil {
		left = append(left, err.Error())
	}
	s := a.machine.letGo(ctx, a.o.Linger)
	for _, c := range s.result.Plan.Conflict {
		left = append(left, fmt.Sprintf("%s reads %s, which is neither ours nor what was there before (%s)", c.Key, c.From, c.To))
	}
	if err := s.notGivenBack(); err != nil {
		return left, err
	}
	if what == OfflineUnenroll {
		return left, a.custody.erase()
	}
	return left, nil
}

// untouched reports whether no agent has ever stored anything here. Then there is nothing to give back, and a failing
// command must not leave a database behind.
func untouched(p paths.Paths) bool {
	for _, dir := range []string{p.State, p.Run} {
		if list, err := os.ReadDir(dir); len(list) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}

// offline is what has to be stored before the machine is given back.
func (a *Agent) offline(what OfflineAction, h HoldRequest) error {
	st := a.custody.state
	switch what {
	case OfflineHold:
		if st.Device == nil {
			return ErrNotEnrolled
		}
		who := h.Who
		if who == "" {
			who = "root"
		}
		hold, err := newHold(who, h.Reason, time.Duration(h.Seconds)*time.Second, a.o.Now())
		if err != nil {
			return err
		}
		st.Hold = hold
		return errors.Join(a.custody.save(st), a.unnoteEarly())
	case OfflineUnenroll:
		if _, err := a.custody.ids.Load(); st.Device == nil && err == nil {
			return ErrNotEnrolled
		}
		return a.unnoteEarly()
	}
	return nil
}

// EnrollOffline enrolls while no agent runs.
func EnrollOffline(ctx context.Context, p paths.Paths, e Enrollment) error {
	ids := identity.New(p.State, p.Run)
	st, err := ids.Load()
	if err == nil && st.Device != nil {
		return fmt.Errorf("this machine is enrolled with %s already; unenroll it first", st.Device.Server)
	}
	if err != nil && !errors.Is(err, identity.ErrDamaged) {
		return err
	}
	conf, err := config.LoadKept(p.ConfigFile(), p.Kept)
	if err != nil {
		return fmt.Errorf("the configuration cannot be used: %w", err)
	}
	st, err = Enroll(ctx, e, conf.Proxy, host.Machine())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return err
	}
	defer ids.Wait()
	return ids.Save(st)
}

// ExplainOffline explains by the stored policy while no agent runs. It needs permission to read that file.
func ExplainOffline(ctx context.Context, p paths.Paths, in ExplainRequest) (Explanation, error) {
	o := Options{Paths: p}
	o.defaults()
	a := &Agent{o: o, health: newHealth(o.Now), exceptions: &exceptions{now: o.Now}, shelf: newShelf(p.Lists(), o.Sections)}
	a.custody = &custody{ids: identity.New(p.State, p.Run), health: a.health, now: o.Now, shelf: a.shelf}
	a.custody.load(o.Boot)
	if a.custody.doc == nil {
		st, err := a.custody.ids.Load()
		switch {
		case errors.Is(err, fs.ErrPermission):
			return Explanation{}, errors.New("no agent runs, and only root can read the policy that it stored")
		case err != nil:
			return Explanation{}, err
		case st.Device == nil:
			return Explanation{}, ErrNotEnrolled
		}
		return Explanation{}, errors.New("no agent runs, and no policy is stored yet")
	}
	var err error
	if a.machine, err = newMachine(&a.o, nil, nil, nil); err != nil {
		return Explanation{}, err
	}
	a.config, _ = config.LoadKept(p.ConfigFile(), p.Kept) // without it the enrollment names the server
	a.machine.way = a.network
	a.machine.put(standing{snapshot: a.machine.observe(ctx)})
	return a.explain(ctx, caller{Root: true}, in)
}
