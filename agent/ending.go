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

// ending is called when the loop has ended, and returns what to do after all parts have. A restart and an upgrade keep
// the policy in force, because anything could be plugged in between. So does a shutdown: the kernel forgets its own
// state anyway, the rest is wanted again after the boot, and the server is told first, because the network goes down,
// too. A stop gives everything back. Anything that is not known to be one of the others is a stop.
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

// letGo gives everything back and then looks again a few times: devices that arrived just before the kernel's defaults
// were restored are still refused.
func (m *machine) letGo(ctx context.Context, linger time.Duration) standing {
	s := m.apply(ctx, nil, nil)
	for range lingers {
		if !m.loop.Releasing() {
			break
		}
		time.Sleep(linger)
		s = m.apply(ctx, nil, nil)
	}
	return s
}

// lingers is how often a stop looks again for devices that arrived while it gave back.
const lingers = 3

// wordLimit bounds the sending of the last report, because whoever stops the agent or the machine waits for it.
const wordLimit = 3 * time.Second

// lastWord prepares the last report: the state until now, and why it ends. It does not use the agent any more.
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

// messenger is a separate connection.
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

// say sends the last report, and logs a failure. The server notices a missing device soon anyway.
func (a *Agent) say(word func(string) error, why string) {
	if why == "" {
		return // released by the server
	}
	if err := word(why); err != nil {
		a.o.Log.Info("the server was not told of the end", "error", err)
	}
}
