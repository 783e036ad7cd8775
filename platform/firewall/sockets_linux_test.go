package firewall

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/warderd/warder/enforce/fact"
)

// The kernel's own list has a connection that was begun here, and not one that was taken.
func TestOutgoing(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		taken, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		list := outgoing("/proc/thread-self/net")
		addr := func(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }
		if !slices.Contains(list, connection{6, addr(c.LocalAddr()), addr(c.RemoteAddr())}) {
			t.Errorf("%s is not among %v", c.LocalAddr(), list)
		}
		if slices.Contains(list, connection{6, addr(taken.LocalAddr()), addr(taken.RemoteAddr())}) {
			t.Errorf("a taken connection is among %v", list)
		}
	}
	if list := outgoing(t.TempDir()); len(list) > 0 {
		t.Error(list)
	}
}

func FuzzSocketAddr(f *testing.F) {
	f.Add("0100007F:0035")
	f.Add("00000000000000000000000001000000:C350")
	f.Add(":")
	f.Fuzz(func(t *testing.T, s string) {
		if a, ok := socketAddr(s); ok && !a.Addr().IsValid() {
			t.Fatal(a)
		}
	})
}

// What is written as ranges is read back as the same ranges, to the ends of both families.
func TestRanges(t *testing.T) {
	for _, s := range [][2]string{{"0.0.0.0", "0.0.0.0"}, {"10.0.0.0", "10.255.255.255"}, {"255.255.255.255", "255.255.255.255"},
		{"0.0.0.0", "255.255.255.255"}, {"::", "::1"}, {"ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}} {
		want := []fact.Range{{First: netip.MustParseAddr(s[0]), Last: netip.MustParseAddr(s[1])}}
		e := elements(want)
		slices.Reverse(e)
		got, err := ranges(e)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v became %v (%v)", want, got, err)
		}
	}
}
