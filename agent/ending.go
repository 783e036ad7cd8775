package agent

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/platform/service"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// ending is asked at once when the loop has ended, and gives what is to be done once all parts have. A restart and
// an upgrade keep what is in force: nothing may be plugged in between. So does a shutdown: what the kernel holds it
// forgets, and the rest is wanted again after the boot; of that the server is told before anything else, because the
// network goes, too. A stop gives back, and whatever is not known to be something else is one.
func (a *Agent) ending(err error) func() {
	if err != nil {
		return func() {}
	}
	word := a.lastWord()
	keeps := func(why string) func() {
		a.o.Log.Info(why + ": the policy stays in force")
		return func() {}
	}
	if KeepAsked(a.o.Paths) {
		return keeps("stopping for an upgrade")
	}
	switch a.o.Ending(context.Background()) {
	case service.Restarting:
		return keeps("restarting")
	case service.Shutdown:
		a.say(word, protocol.EndedOff)
		return keeps("the machine is shut down")
	}
	return func() {
		a.leave()
		a.say(word, protocol.EndedStopped)
	}
}

// leave gives the machine back.
func (a *Agent) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	s := a.machine.letGo(ctx, a.o.Linger)
	a.custody.put(nil, nil)
	s.findings = nil
	a.machine.put(s)
	if err := errors.Join(s.result.Problems...); err != nil {
		a.o.Log.Error("the machine is not fully given back", "error", err)
	}
	for k, why := range s.result.Failed {
		a.o.Log.Error("not given back", "resource", k.String(), "error", why)
	}
}

// letGo gives everything back, and looks again a few times: what was on its way when the kernel's defaults were given
// back is refused by them all the same.
func (m *machine) letGo(ctx context.Context, linger time.Duration) standing {
	s := m.hold(ctx, nil, nil)
	for range lingers {
		if !m.loop.Releasing() {
			break
		}
		time.Sleep(linger)
		s = m.hold(ctx, nil, nil)
	}
	return s
}

// lingers is how often a stop looks again for what came while it gave back.
const lingers = 3

// wordLimit bounds the sending of a last word: who stops the agent, or the machine, waits for it.
const wordLimit = 3 * time.Second

// lastWord is what tells the server that this agent ends: how it stood until now, and why that is over. It needs
// nothing of the agent any more.
func (a *Agent) lastWord() func(why string) error {
	d := a.custody.device()
	if d == nil {
		return func(string) error { return nil }
	}
	rep, _ := a.report()
	return func(why string) error {
		source, done, err := a.messenger(d)
		if err != nil {
			return err
		}
		defer done()
		ctx, cancel := context.WithTimeout(context.Background(), wordLimit)
		defer cancel()
		rep.Agent.Ended = why
		_, err = source.Exchange(ctx, rep)
		return err
	}
}

// messenger is a connection of its own.
func (a *Agent) messenger(d *identity.Device) (Source, func(), error) {
	if a.o.Source != nil {
		s, err := a.o.Source(d)
		return s, func() {}, err
	}
	key, err := deviceKey(d)
	if err != nil {
		return nil, nil, err
	}
	c, err := checkin.NewClient(a.serverOf(d), d.DeviceID, key, a.o.Now)
	if err != nil {
		return nil, nil, err
	}
	c.Trusted = func() json.RawMessage { return d.PolicyKeys }
	return c, c.Close, nil
}

// say sends a last word, and logs where it does not arrive: the server will miss this device soon enough.
func (a *Agent) say(word func(string) error, why string) {
	if why == "" {
		return // released by the server
	}
	if err := word(why); err != nil {
		a.o.Log.Info("the server was not told of the end", "error", err)
	}
}
