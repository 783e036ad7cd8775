// Package agent is the daemon. It joins the decisions (enforce), the back ends (platform) and the wire (sync), and owns
// the one loop in which a policy is taken, applied, proved and reported. It never changes the machine itself: that is
// done by agent/reconcile, through this system's capabilities. Policies come from a Source, usually the check-in
// client; questions from people on the machine come through agent/localapi.
package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/resume"
	"github.com/warderd/warder/platform/tick"
)

// Run runs the daemon until ctx ends. It then gives the machine back, unless the service manager asked to keep the
// policy in force (a restart or an upgrade).
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := localapi.Listen(a.o.Paths.Socket())
	if err != nil {
		return err
	}
	a.custody.ids.Sweep()
	a.custody.mend()
	a.remembered()
	if err := a.takeOver(); err != nil {
		return err
	}
	a.machine.start(a.journal.put, a.asked)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.ctx = ctx
	_ = os.Remove(filepath.Join(a.o.Paths.Run, KeepFile)) // forget an upgrade that never finished

	p := &parts{ctx: ctx, a: a, failed: make(chan error, 1)}
	p.start("journal", false, a.journal.run)
	p.start("guard", true, a.machine.guard)
	a.connect()
	a.armHold()
	a.exceptions.arm(a.custody.state.Exceptions)
	a.look()
	p.start("watch", false, func(ctx context.Context) error { return a.machine.watch(ctx, a.drifted, a.deaf) })
	p.start("local API", true, func(ctx context.Context) error {
		return localapi.Serve(ctx, listener, a.routes(), a.answering, a.o.Log)
	})
	p.start("resume", false, func(ctx context.Context) error { return resume.Watch(ctx, func() { a.do(a.resumed) }) })
	p.start("link", false, func(ctx context.Context) error { return link.Watch(ctx, func() { a.do(a.linked) }) })
	p.start("config", false, a.watchConfig)
	a.keepLists()
	a.fetchLists()
	a.firstCheckIn()
	if a.o.Ready != nil {
		a.o.Ready()
	}
	p.start("tick", false, func(ctx context.Context) error { return tick.Every(ctx, a.o.Watch, func() { a.do(a.ticked) }) })
	err = a.serve(ctx, p.failed)
	end := a.ending(err)
	cancel()
	a.machine.stop()
	p.running.Wait()
	a.background.Wait()
	a.contact.sockets.Wait()
	a.contact.close()
	a.journal.drain() // events recorded while the parts were ending
	_ = os.Remove(a.o.Paths.Socket())
	end()
	a.custody.ids.Wait()
	a.flatten("stopped")
	return err
}

// serve runs the loop until ctx ends, or until a part fails that the agent cannot do without.
func (a *Agent) serve(ctx context.Context, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case f := <-a.wake:
			f()
		case <-a.looks:
			a.clocks.lookIn(settleDelay, a.o.Now())
		case <-a.rests:
			if a.clocks.due.IsZero() {
				a.clocks.lookIn(restDelay, a.o.Now())
			}
		case known := <-a.drifts:
			if now := a.o.Now(); a.clocks.driftIn(known, now) > 0 {
				a.clocks.driftLook(a.clocks.driftIn(known, now), now)
			} else {
				a.look()
			}
		case <-a.contact.timer.C:
			a.checkInDue()
		case <-a.clocks.look.C:
			a.look()
		case <-a.clocks.hold.C:
			if err := a.lift("its time is up"); err != nil && !errors.Is(err, errNoHold) {
				a.clocks.hold.Reset(blindRetry) // the hold's end could not be stored; try again
			}
		case <-a.exceptions.timer.C:
			a.endExceptions()
		case <-a.clocks.enroll.C:
			a.background.Go(func() { a.dropped(ctx) })
		case <-a.portal.timer.C:
			a.closePortal("its time is up")
		case <-a.shelf.timer.C:
			a.fetchLists()
		case <-a.clocks.home.C:
			a.goHome()
		case <-a.clocks.idle.C:
			a.relax()
		}
	}
}

// parts are the goroutines that run beside the loop.
type parts struct {
	ctx     context.Context
	a       *Agent
	running sync.WaitGroup
	failed  chan error
}

// start runs a part. If a vital part ends, the agent ends with it.
func (p *parts) start(name string, vital bool, f func(context.Context) error) {
	p.running.Go(func() {
		err := f(p.ctx)
		if err == nil || p.ctx.Err() != nil {
			return
		}
		p.a.o.Log.Error("stopped", "part", name, "error", err)
		p.a.health.of(partStopped, name, name+": "+err.Error())
		if vital {
			select {
			case p.failed <- err:
			default:
			}
		}
	})
}

// ticked runs once per watchdog tick. It tells the service manager that the loop is alive, checks the local API's
// socket, and looks at the machine if the last look is too old, so that changes which nobody announced are found.
func (a *Agent) ticked() {
	if a.o.Now().Sub(a.clocks.looked)+a.o.Watch > backstop { // by the next tick the evidence would be too old
		defer a.round()
	}
	if a.o.Alive != nil {
		a.o.Alive()
	}
	if a.contact.socket != nil {
		a.contact.socket.Check()
	}
	// The loop reached a tick, so this start is healthy: earlier crashes no longer count.
	_ = os.Remove(filepath.Join(a.o.Paths.Run, "ends"))
}
