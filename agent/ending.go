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

// end is what an agent does at its end, with the machine and with its server.
func (a *Agent) end() {
	word := a.lastWord()
	a.say(word, a.leave())
}

// leave ends the agent's hold on the machine as the reason for its end asks, and gives its last word to the
// server, "" for none. A restart and an upgrade keep what is in force: nothing may be plugged in between. So does
// a shutdown: what the kernel holds it forgets, and the rest is wanted again after the boot. A stop gives back,
// and whatever is not known to be something else is one.
func (a *Agent) leave() (word string) {
	if keepAsked(a.o.Paths) {
		a.o.Log.Info("stopping for an upgrade: the policy stays in force")
		return ""
	}
	switch a.o.Ending(context.Background()) {
	case service.Restarting:
		a.o.Log.Info("restarting: the policy stays in force")
		return ""
	case service.Shutdown:
		a.o.Log.Info("the machine is shut down: the policy stays in force")
		return protocol.EndedOff
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	s := a.machine.hold(ctx, nil, nil)
	for range lingers {
		if !a.machine.loop.Releasing() {
			break
		}
		// What was on its way when the kernel's defaults were given back is refused by them all the same.
		time.Sleep(a.o.Linger)
		s = a.machine.hold(ctx, nil, nil)
	}
	a.custody.put(nil, nil)
	s.findings = nil
	a.machine.put(s)
	if err := errors.Join(s.result.Problems...); err != nil {
		a.o.Log.Error("the machine is not fully given back", "error", err)
	}
	for k, why := range s.result.Failed {
		a.o.Log.Error("not given back", "resource", k.String(), "error", why)
	}
	return protocol.EndedStopped
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
		return
	}
	if err := word(why); err != nil {
		a.o.Log.Info("the server was not told of the end", "error", err)
	}
}
