package firewall

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/platformtest"
)

func portsTo(t *testing.T, p *Ports, to enforce.Reading) {
	t.Helper()
	for _, err := range p.Apply(context.Background(), []enforce.Change{{Key: printers, To: to}}) {
		t.Fatal(err)
	}
}

func closedTo(local ...uint16) enforce.Reading {
	return enforce.Reading{State: enforce.Present, Value: enforce.Value(fact.PortsClosed(local))}
}

func TestPortsConformance(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	platformtest.Conformance(t, func(t *testing.T) platformtest.Subject {
		gate := &platformtest.Gate{}
		p := NewPorts(gate.Pass)
		portsTo(t, p, closedTo())
		gate.Asked = 0
		return platformtest.Subject{Backend: p, Key: printers, Other: closedTo(60000).Value, Gate: gate, Elsewhere: func(t *testing.T, _ enforce.Value) {
			if out, err := exec.Command("nft", "insert", "rule", "inet", PortsTable, "out", "accept").CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
		}}
	})
}

// What is closed is refused at once, everything else passes, and each change by another program is seen.
func TestPorts(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	out := platformtest.NewOutside(t)
	for _, addr := range []string{platformtest.Other4, platformtest.Other6} {
		for _, port := range []string{"515", "631", "9100", "9101", "443"} {
			l, err := out.Listen(net.JoinHostPort(addr, port))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
	}
	local, err := net.Listen("tcp", "127.0.0.1:60000")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	plain := &net.Dialer{}
	reaches := func(addr string, by *net.Dialer) error {
		c, err := by.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	user := func(addr string) bool { // another user's program
		host, port, _ := net.SplitHostPort(addr)
		return exec.Command("setpriv", "--reuid", "65534", "--clear-groups", "bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port).Run() == nil
	}
	if !user(local.Addr().String()) {
		t.Fatal("the test's own way does not work")
	}
	p := NewPorts(func(enforce.Change) error { return nil })
	portsTo(t, p, closedTo(60000))
	for _, addr := range []string{platformtest.Other4, platformtest.Other6} {
		for _, port := range []string{"515", "631", "9100"} {
			if err := reaches(net.JoinHostPort(addr, port), plain); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s port %s: %v", addr, port, err)
			}
		}
		for _, port := range []string{"9101", "443"} {
			if err := reaches(net.JoinHostPort(addr, port), plain); err != nil {
				t.Errorf("%s port %s: %v", addr, port, err)
			}
		}
	}
	if err := reaches(platformtest.Other4+":631", link.Past()); err != nil {
		t.Errorf("the agent itself: %v", err)
	}
	if user(local.Addr().String()) {
		t.Error("a user reaches a printer at USB")
	}
	if err := reaches(local.Addr().String(), plain); err != nil {
		t.Errorf("root does not: %v", err)
	}
	for _, line := range []string{"insert rule inet warder_ports out accept", "flush chain inet warder_ports refuse", "flush chain inet warder_ports out",
		"add chain inet warder_ports more", "chain inet warder_ports forward { policy drop; }", "add table inet warder_ports { flags dormant; }"} {
		if out, err := exec.Command("nft", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", line, err, out)
		}
		if r := readsPorts(t, p); !strings.HasPrefix(string(r.Value), changed) {
			t.Errorf("%s: it reads %s", line, r.Value)
		}
		portsTo(t, p, closedTo(60000))
		if r := readsPorts(t, p); r.Value != closedTo(60000).Value {
			t.Fatalf("after %s: it reads %s", line, r.Value)
		}
	}
	many := make([]uint16, fact.MaxLocalPorts)
	for i := range many {
		many[i] = 60000 + uint16(i) //nolint:gosec // small
	}
	portsTo(t, p, closedTo(many...))
	if r := readsPorts(t, NewPorts(nil)); r.Value != closedTo(many...).Value {
		t.Errorf("many: %s", r.Value)
	}
	portsTo(t, p, enforce.Reading{State: enforce.Absent})
	if list, err := p.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	for _, port := range []int{631, 9100} {
		if err := reaches(platformtest.Other4+":"+strconv.Itoa(port), plain); err != nil {
			t.Error(err)
		}
	}
}

func readsPorts(t *testing.T, p *Ports) enforce.Reading {
	t.Helper()
	list, err := p.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return list[printers]
}

func FuzzPortsClosed(f *testing.F) {
	f.Add(fact.PortsClosed(nil))
	f.Add(fact.PortsClosed([]uint16{60000, 60001}))
	f.Fuzz(func(t *testing.T, value string) {
		local, err := fact.ParsePortsClosed(value)
		if err == nil && (fact.PortsClosed(local) != value || len(local) > fact.MaxLocalPorts) {
			t.Errorf("%q is read as %v", value, local)
		}
	})
}
