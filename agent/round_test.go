//go:build linux

package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// loads is a guard that counts how often it is loaded.
type loads struct {
	n    atomic.Int64
	hand func(platform.Decision)
}

func (*loads) Section() string                                          { return "usb" }
func (g *loads) Load(platform.Rules) error                              { g.n.Add(1); return nil }
func (g *loads) Listen(hand func(platform.Decision), _ func(soon bool)) { g.hand = hand }
func (*loads) Run(ctx context.Context) error                            { <-ctx.Done(); return nil }
func (*loads) Work() []platform.Work                                    { return nil }
func (*loads) Stop()                                                    {}

// A look that finds no change reads everything again and loads no guard; one after a change, a decision or another
// policy does.
func TestRound(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := &loads{}
	l.capabilities = append(append([]func(platform.Host) platform.Capability{}, capabilities...), func(platform.Host) platform.Capability {
		return platform.Capability{Name: "counting", Guards: []platform.Guard{g}}
	})
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	round := func(what string, want int64, before func()) {
		t.Helper()
		l.in(func(a *Agent) {
			a.look()
			a.look() // nothing of before is left
			at, n := a.machine.last().result.At, g.n.Load()
			if before != nil {
				before()
			}
			time.Sleep(2 * time.Millisecond)
			a.round()
			s := a.machine.last()
			if got := g.n.Load() - n; got != want {
				t.Errorf("%s: loaded %d times", what, got)
			}
			if !s.result.At.After(at) || len(s.findings) == 0 || !s.findings[0].ReadAt.After(at) ||
				s.findings[0].Compliance != enforce.Compliant {
				t.Errorf("%s: it was not read again: %v %+v", what, s.result.At.Sub(at), s.findings)
			}
		})
	}
	round("nothing", 0, nil)
	round("another program wrote", 1, func() { write(t, l.sys+"/bus/usb/devices/usb1/authorized_default", "1\n") })
	l.reads("0", "0")
	round("a device came", 1, func() { l.plug("1-2", 7) })
	round("a guard decided", 1, func() { g.hand(platform.Decision{Section: "usb", New: true}) })
}
