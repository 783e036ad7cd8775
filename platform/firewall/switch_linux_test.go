package firewall

import (
	"context"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/platformtest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// carried is something of everything.
func carried(mode string) fact.Carried {
	return fact.Carried{Mode: mode, Closed: true, Tunnels: []int{7, 9}, Names: []string{"vpn.example.com", "policy.example.com"},
		Doors: []fact.Door{{Address: addr("198.51.100.7"), Port: 51820}, {Address: addr("2001:db8::7"), Port: 443}, {Address: addr("198.51.100.8")},
			{Address: addr("2001:db8::8")}},
		Servers: []netip.Addr{addr("192.0.2.53"), addr("2001:db8::53")},
		Local: []fact.Range{{First: addr("192.168.1.0"), Last: addr("192.168.1.255")}, {First: addr("255.255.255.255"), Last: addr("255.255.255.255")},
			{First: addr("fd00::"), Last: addr("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}}}
}

func newSwitch() *Switch {
	return NewSwitch(func(enforce.Change) error { return nil }, slog.New(slog.DiscardHandler))
}

func (s *Switch) reads(t *testing.T) enforce.Reading {
	t.Helper()
	all, err := s.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all[vpn]
}

// The kill switch passes the suite that every back end does.
func TestSwitchConformance(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	platformtest.Conformance(t, func(t *testing.T) platformtest.Subject {
		gate := &platformtest.Gate{}
		s := NewSwitch(gate.Pass, slog.New(slog.DiscardHandler))
		if err := s.Carry(carried(fact.SwitchUp)); err != nil {
			t.Fatal(err)
		}
		if errs := s.Apply(context.Background(), []enforce.Change{{Key: vpn, To: enforce.Reading{State: enforce.Present, Value: fact.SwitchUp}}}); len(errs) > 0 {
			t.Fatal(errs)
		}
		gate.Asked = 0
		return platformtest.Subject{Backend: s, Key: vpn, Other: fact.SwitchAlways, Gate: gate, Elsewhere: func(t *testing.T, _ enforce.Value) {
			if out, err := exec.Command("nft", "add", "element", "inet", SwitchTable, "ways4", "{ 203.0.113.77 }").CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
		}}
	})
}

// What was told is in the kernel, in any order of telling and making; each change by another program is seen; what is told again is
// put back as it should be, in one transaction.
func TestSwitchReadBack(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	s := newSwitch()
	ctx := context.Background()
	make := func(mode string) {
		t.Helper()
		for _, err := range s.Apply(ctx, []enforce.Change{{Key: vpn, To: enforce.Reading{State: enforce.Present, Value: enforce.Value(mode)}}}) {
			t.Fatal(err)
		}
	}
	if errs := s.Apply(ctx, []enforce.Change{{Key: vpn, To: enforce.Reading{State: enforce.Present, Value: fact.SwitchUp}}}); len(errs) != 1 {
		t.Error("it was made without anything told")
	}
	for _, mode := range []string{fact.SwitchUp, fact.SwitchAlways} {
		if err := s.Carry(carried(mode)); err != nil {
			t.Fatal(err)
		}
		make(mode)
		if r := s.reads(t); string(r.Value) != mode {
			t.Fatalf("%s: it reads %s", mode, r.Value)
		}
	}
	less := carried(fact.SwitchAlways)
	less.Tunnels, less.Doors, less.Names, less.Local = []int{3}, less.Doors[:1], nil, nil
	if err := s.Carry(less); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("nft", "-n", "list", "table", "inet", SwitchTable).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "198.51.100.7 . 17 . 51820") || strings.Contains(string(out), "198.51.100.8") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, line := range []string{"add element inet warder_switch ways4 { 203.0.113.1 }", "flush set inet warder_switch tunnels",
		"flush set inet warder_switch closed", "insert rule inet warder_switch out accept", "flush chain inet warder_switch refuse",
		"add rule inet warder_switch questions accept", "add chain inet warder_switch more", "add set inet warder_switch more { type mark; }",
		"add table inet warder_switch { flags dormant; }", "chain inet warder_switch forward { policy drop; }"} {
		if out, err := exec.Command("nft", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", line, err, out)
		}
		if r := s.reads(t); !strings.HasPrefix(string(r.Value), changed) {
			t.Errorf("%s: it reads %s", line, r.Value)
		}
		make(fact.SwitchAlways)
		if r := s.reads(t); string(r.Value) != fact.SwitchAlways {
			t.Fatalf("after %s: it reads %s", line, r.Value)
		}
	}
	// The next run believes what is there until it is told.
	next := newSwitch()
	if r := next.reads(t); string(r.Value) != fact.SwitchAlways {
		t.Errorf("the next run reads %s", r.Value)
	}
	if err := next.Carry(carried(fact.SwitchAlways)); err != nil {
		t.Fatal(err)
	}
	if r := next.reads(t); string(r.Value) != fact.SwitchAlways {
		t.Errorf("told by the next run, it reads %s", r.Value)
	}
}

// A note carries what can be reached while no tunnel is up.
func TestNote(t *testing.T) {
	s := newSwitch()
	c := carried(fact.SwitchAlways)
	s.told = &c
	got := read(s.note())
	c.Sort()
	got.Sort()
	if !slices.Equal(got.Doors, c.Doors) || !slices.Equal(got.Names, c.Names) || got.Tunnels != nil || got.Local != nil {
		t.Errorf("%+v", got)
	}
	c.Mode = fact.SwitchUp
	if s.note() != nil {
		t.Error("a switch that is open while the VPN is down is noted")
	}
}

func FuzzNote(f *testing.F) {
	f.Add("door 198.51.100.7 51820")
	f.Add("name vpn.example.com")
	f.Fuzz(func(t *testing.T, line string) {
		c := read([]string{line})
		for _, d := range c.Doors {
			if !d.Address.IsValid() || d.Address.Zone() != "" || d.Address.Is4In6() {
				t.Errorf("%q: %v", line, d)
			}
		}
		for _, e := range switchElements(c) {
			for _, x := range e {
				if len(x.Key) == 0 {
					t.Errorf("%q: an empty key", line)
				}
			}
		}
		_ = questionRules(c.Names)
	})
}

// A rule that matches a question compares every byte of its name.
func TestAsks(t *testing.T) {
	for name, ok := range map[string]bool{"a.b": true, strings.Repeat("abcdefgh.", 27) + "com": true, strings.Repeat("a", 64) + ".b": false, "a..b": false, "": false} {
		rules := asks(name)
		if (len(rules) > 0) != ok {
			t.Errorf("%.20s: %d rules", name, len(rules))
		}
		if !ok {
			continue
		}
		var wire []byte
		for i, e := range rules[0] {
			if p, is := e.(*expr.Payload); is && p.Offset >= 20 {
				if want := uint32(20 + len(wire)); p.Offset != want { //nolint:gosec // small
					t.Errorf("%.20s: a part at %d, not at %d", name, p.Offset, want)
				}
				next := rules[0][i+1]
				if _, masked := next.(*expr.Bitwise); masked {
					next = rules[0][i+2]
				}
				wire = append(wire, next.(*expr.Cmp).Data...) //nolint:forcetypeassert // each is compared
			}
		}
		var want []byte
		for _, l := range strings.Split(name, ".") {
			want = append(append(want, byte(len(l))), strings.ToUpper(l)...)
		}
		if want = append(want, 0, 0, 1, 0, 1); !slices.Equal(wire, want) {
			t.Errorf("%q, not %q", wire, want)
		}
	}
}
