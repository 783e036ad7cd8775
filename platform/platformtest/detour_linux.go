package platformtest

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Detours counts, outside, the packets from now on that name further stations or have other options, or that come from an address
// which is no machine's.
func (o *Outside) Detours(t testing.TB) (count func() int) {
	t.Helper()
	const table = "add table inet detours { chain in { type filter hook prerouting priority -400; iifname out0 exthdr rt exists counter; " +
		"iifname out0 ip hdrlength > 5 ip protocol != igmp counter; iifname out0 ip6 saddr 2001:db8:bad::/48 counter; }; }"
	if out, err := o.Run("nft", table); err != nil {
		t.Fatal(err, out)
	}
	run(t, "ping", "-6", "-c", "1", "-w", "30", Router6) // the first packets wait for their neighbour
	packets := regexp.MustCompile(`counter packets ([0-9]+)`)
	return func() (n int) {
		out, err := o.Run("nft", "list", "table", "inet", "detours")
		if err != nil {
			t.Fatal(err, out)
		}
		for _, m := range packets.FindAllStringSubmatch(out, -1) {
			k, _ := strconv.Atoi(m[1])
			n += k
		}
		return n
	}
}

// SendDetours sends one UDP packet of each kind that Detours counts, to an address of each family and a port: with a segment routing header
// (RFC 8754) whose last station is elsewhere, a loose source route, a recorded route, and another sender. Any program may.
func SendDetours(t testing.TB, to4, to6, last4, last6 string, port int, data []byte) {
	t.Helper()
	a4, a6, l4, l6 := netip.MustParseAddr(to4).As4(), netip.MustParseAddr(to6).As16(), netip.MustParseAddr(last4).As4(), netip.MustParseAddr(last6).As16()
	header := append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, append(l6[:], a6[:]...)...) // visited from the last to the first
	send := func(family int, set func(fd int) error, to unix.Sockaddr) {
		t.Helper()
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := set(fd); err != nil {
			t.Fatal(err)
		}
		_ = unix.Sendto(fd, data, 0, to) // refused, where it is
	}
	send(unix.AF_INET6, func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(header))
	},
		&unix.SockaddrInet6{Port: port, Addr: l6})
	options := func(o ...byte) func(int) error {
		return func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(o)) }
	}
	send(unix.AF_INET, options(append([]byte{1, 131, 7, 4}, a4[:]...)...), &unix.SockaddrInet4{Port: port, Addr: l4})
	send(unix.AF_INET, options(append([]byte{1, 7, 35, 4}, []byte(strings.Repeat("x", 32))...)...), &unix.SockaddrInet4{Port: port, Addr: a4})
	send(unix.AF_INET6, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr("2001:db8:bad::1").As16()})
	}, &unix.SockaddrInet6{Port: port, Addr: a6})
}
