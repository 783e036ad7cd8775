//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/sync/server"
)

func nft(script string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return nil
}

// wall is a back end that drops every new connection except from one port, unless it carries our mark. Existing
// connections stay open: a kept connection would prove a policy under which none can be made.
type wall struct {
	port string
	gate enforce.Gate
}

func (wall) Kinds() []platform.Kind {
	return []platform.Kind{{Name: "wall", Life: platform.Boot, Network: true}}
}

func (w wall) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	out, _ := exec.Command("nft", "list", "tables").Output()
	r := enforce.Reading{State: enforce.Absent, How: "nft list tables"}
	if strings.Contains(string(out), "inet wall") {
		r.State, r.Value = enforce.Present, "closed"
	}
	return map[enforce.Key]enforce.Reading{{Kind: "wall", ID: "out"}: r}, nil
}

func (w wall) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := w.gate(c); err != nil {
			failed[c.Key] = err
			continue
		}
		script := "table inet wall {}\ndelete table inet wall\n"
		if c.To.State == enforce.Present {
			script += fmt.Sprintf("table inet wall {\n chain out {\n  type filter hook output priority 0;\n  tcp dport %s ct state new "+
				"meta mark != %d reject with tcp reset\n }\n}\n", w.port, link.Mark)
		}
		if err := nft(script); err != nil {
			failed[c.Key] = err
		}
	}
	return failed
}

func (wall) Watch(ctx context.Context, _ func(platform.Touch)) error { <-ctx.Done(); return nil }

// walled is a lab whose policy can cut this machine off: network.vpn_required puts up the wall.
func walled(t *testing.T) *lab { return walledWith(t, server.Options{HTTP: true}) }

func walledWith(t *testing.T, o server.Options) *lab {
	l := labWith(t, o)
	u, _ := url.Parse(l.url)
	l.sections = append([]section.Section{}, all.Sections...)
	for i, s := range l.sections {
		if s.Name != "network" {
			continue
		}
		l.sections[i].Decide = func(c *section.Case) (out section.Outcome) {
			for _, s := range c.Document.Managed("network") {
				f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
				out.Findings = append(out.Findings, f)
			}
			if c.Document.Network.VPNRequired.V {
				out.Wants = []enforce.Want{{Key: enforce.Key{Kind: "wall", ID: "out"}, Value: "closed",
					By:   []enforce.Setting{"network.vpn_required"},
					Mode: c.Document.Mode("network.vpn_required"), Phase: enforce.Close}}
			}
			return out
		}
	}
	l.capabilities = append(append([]func(platform.Host) platform.Capability{}, capabilities...),
		func(h platform.Host) platform.Capability {
			c := platform.Capability{Name: "wall", Backends: []platform.Backend{wall{u.Port(), h.Gate}}}
			for _, s := range policy.Section("network") {
				c.Claims = append(c.Claims, platform.Claim{Setting: s.Name, OS: "linux", Level: fact.Enforced})
			}
			return c
		})
	// The administrator's connections are exempt. Connections are tracked from the beginning: one first seen midway
	// would count as new.
	if err := nft(
		"table inet tracked {\n chain out {\n  type filter hook output priority -20;\n  ct state new counter\n }\n}\n"); err != nil {
		t.Fatal(err)
	}
	l.client = marked()
	l.start()
	l.enroll()
	return l
}

func (l *lab) isWalled() bool {
	out, _ := exec.Command("nft", "list", "tables").Output()
	return strings.Contains(string(out), "inet wall")
}

const cutsOff = `{"compliance":"enforce","policy_data":{"usb":{},"storage":{},"network":{"vpn_required":true},"dlp":{}}}`

// A policy under which the server cannot be reached, although it can be reached past our rules, is reverted, from the
// dropped packet to what the server shows; its content is not tried again.
func TestRefuted(t *testing.T) {
	t.Parallel()
	if !platformtest.InNetwork(t) {
		return
	}
	l := walled(t)
	l.stop()
	var looked atomic.Bool
	l.reach = func(ctx context.Context, server, proxy string, exempt bool) error {
		if looked.CompareAndSwap(false, true) {
			if !l.isWalled() {
				t.Error("the wall is not up while it is asked about")
			}
			l.in(func(a *Agent) { a.look() }) // a look at an idle machine ends no trial
			if _, network := l.agent.custody.onTrial(); !network {
				t.Error("a look has ended the trial")
			}
		}
		return link.Probe(ctx, server, proxy, exempt)
	}
	l.start()
	l.until("connected", func(s Status) bool { return s.CheckIn.Push })
	before := l.status()
	o := l.admin("POST", "/policies/policy-default/rollouts",
		`{"policy":`+cutsOff+`,"stages":[{"percent":100,"wait_minutes":60}],"min_devices":1}`)
	s := l.until("reverted", func(s Status) bool { return !l.isWalled() && strings.Contains(said(s), "was reverted") })
	if !looked.Load() {
		t.Error("the way past the wall was not asked about")
	}
	if l.isWalled() || s.Policy == nil || s.Policy.Digest != before.Policy.Digest {
		t.Errorf("after it: walled %v, policy %+v", l.isWalled(), s.Policy)
	}
	for range 1500 {
		if o = l.admin("GET", "/rollouts/"+o["id"].(string), ""); o["state"] == "stopped" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if o["state"] != "stopped" {
		t.Errorf("the rollout is %v", o)
	}
	list, err := l.agent.store.Policies()
	if err != nil || len(list) < 2 || list[0].State != "reverted" && list[1].State != "reverted" {
		t.Errorf("%+v %v", list, err)
	}
	l.admin("PUT", "/policies/policy-default", cutsOff)
	// The device refuses it, or the server, which was told by then, does not send it.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && !strings.Contains(said(l.status()), "not tried again"); {
		if l.isWalled() {
			t.Fatal("the wall is up again")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if l.isWalled() {
		t.Error("the wall is up again")
	}
}

// While nothing can be proved the policy stays, also over a look, a restart and a boot; after a boot the confirmed one
// comes first. Once the policy is known to be the cause, it is reverted.
func TestUnprovable(t *testing.T) {
	t.Parallel()
	if !platformtest.InNetwork(t) {
		return
	}
	l := walled(t)
	l.stop()
	var told atomic.Bool
	l.reach = func(ctx context.Context, server, proxy string, exempt bool) error {
		if !told.Load() {
			return errors.New("the cable is out")
		}
		return link.Probe(ctx, server, proxy, exempt)
	}
	l.start()
	l.until("connected", func(s Status) bool { return s.CheckIn.Push })
	l.admin("PUT", "/policies/policy-default", cutsOff)
	onTrial := func(s Status) bool {
		return l.isWalled() && s.Policy != nil && s.Policy.State == "unconfirmed" && s.CheckIn.Error != ""
	}
	l.until("applied and not proved", onTrial)
	l.in(func(a *Agent) { a.look() })
	l.stop()
	l.start()
	l.in(func(a *Agent) {
		if a.custody.waiting {
			t.Error("a restart in the same boot steps back")
		}
	})
	l.until("still on trial after a restart", onTrial)
	l.stop()
	l.boot = "boot2"
	first := false
	l.ready = func() { first = !l.isWalled() && l.agent.custody.waiting }
	l.start()
	if !first {
		t.Error("after a boot the policy on trial comes before the confirmed one")
	}
	l.ready = nil
	l.until("on trial again after the first check-in", onTrial)
	told.Store(true)
	l.in(func(a *Agent) { a.contact.notYet = time.Time{}; a.checkIn() })
	l.until("reverted", func(s Status) bool { return !l.isWalled() && strings.Contains(said(s), "was reverted") })
	l.in(func(a *Agent) {
		if a.custody.state.Trial != nil {
			t.Errorf("a trial is left: %+v", a.custody.state.Trial)
		}
	})
}

// A policy that changes the network but lets the server be reached is confirmed on a connection made under it.
func TestProvedAnew(t *testing.T) {
	t.Parallel()
	if !platformtest.InNetwork(t) {
		return
	}
	l := walled(t)
	l.until("connected", func(s Status) bool { return s.CheckIn.Push })
	l.in(func(a *Agent) {
		// A way out for this agent, so that the wall does not cut it off.
		if err := nft(fmt.Sprintf("table inet door {\n chain out {\n  type filter hook output priority -10;\n  tcp dport %s meta mark "+
			"set %d\n }\n}\n", portOf(l.url), link.Mark)); err != nil {
			t.Error(err)
		}
	})
	l.admin("PUT", "/policies/policy-default", cutsOff)
	l.until("proved", func(s Status) bool { return l.isWalled() && s.Policy.State == "active" && s.Policy.Version == 2 })
	l.in(func(a *Agent) {
		if st := a.custody.state; st.Trial != nil || !st.Policy.Confirmed {
			t.Errorf("%+v", st.Trial)
		}
	})
}

// A policy that was confirmed before this machine could do what it asks of the network goes on trial when it can: as a policy
// does that an older version had stored. What cuts the machine off is taken back, and the rest of the policy stays.
func TestConfirmedBefore(t *testing.T) {
	t.Parallel()
	if !platformtest.InNetwork(t) {
		return
	}
	l := walled(t)
	l.stop()
	with := l.capabilities
	l.capabilities = nil // as an older version
	l.start()
	l.admin("PUT", "/policies/policy-default", cutsOff)
	l.until("confirmed", func(s Status) bool { return version(2)(s) && s.Policy.State == "active" })
	l.in(func(a *Agent) {
		if p := a.custody.state.Policy; !p.Confirmed || p.Network {
			t.Errorf("%+v", p)
		}
	})
	l.stop()
	l.capabilities = with
	l.start()
	l.in(func(a *Agent) { a.contact.notYet = time.Time{}; a.checkIn() })
	refuted := func(s Status) bool { return !l.isWalled() && strings.Contains(said(s), "was reverted") }
	l.until("taken back", refuted)
	for range 2 {
		if s := l.status(); s.Policy == nil || s.Policy.Version != 2 {
			t.Errorf("the policy is %+v", s.Policy)
		}
		l.in(func(a *Agent) { a.look() })
		if l.isWalled() {
			t.Error("the wall is up again")
		}
		for _, f := range l.status().Findings {
			if f.Setting == "network.vpn_required" && f.Mode != enforce.Monitor {
				t.Errorf("%+v", f)
			}
		}
		l.stop()
		l.boot += "x"
		l.start()
	}

	// The next version is a policy like any other.
	l.in(func(a *Agent) {
		if err := nft(fmt.Sprintf("table inet door {\n chain out {\n  type filter hook output priority -10;\n  tcp dport %s meta mark "+
			"set %d\n }\n}\n", portOf(l.url), link.Mark)); err != nil {
			t.Error(err)
		}
	})
	l.admin("PUT", "/policies/policy-default", strings.Replace(cutsOff, `"usb":{}`, `"usb":{"allowed":true}`, 1))
	l.until("proved", func(s Status) bool { return l.isWalled() && s.Policy.State == "active" && s.Policy.Version == 3 })
	l.in(func(a *Agent) {
		if p := a.custody.state.Policy; !p.Confirmed || !p.Network {
			t.Errorf("%+v", p)
		}
	})
}

func portOf(raw string) string {
	u, _ := url.Parse(raw)
	return u.Port()
}
