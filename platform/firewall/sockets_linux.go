package firewall

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// connection is an open connection of this machine, as its socket has it.
type connection struct {
	proto    uint8
	own, far netip.AddrPort
}

// The states of a socket in /proc/net (linux/net/tcp_states.h).
const (
	stateEstablished = "01"
	stateListening   = "0A"
)

// outgoing lists the open connections that this machine has begun, as far as a socket tells: its port is none on which
// somebody listens. The kernel's connection tracking does not know those that were open before it had anything to do, or takes
// the side that sent next for the one that began.
func outgoing(dir string) (out []connection) {
	listening := map[uint16]bool{}
	for _, f := range []struct {
		name  string
		proto uint8
	}{{"tcp", unix.IPPROTO_TCP}, {"tcp6", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}, {"udp6", unix.IPPROTO_UDP}} {
		b, err := os.ReadFile(dir + "/" + f.name)
		if err != nil {
			continue // that family is off
		}
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if len(words) < 4 {
				continue
			}
			own, ok := socketAddr(words[1])
			far, also := socketAddr(words[2])
			switch {
			case !ok || !also:
			case words[3] == stateListening && f.proto == unix.IPPROTO_TCP:
				listening[own.Port()] = true
			case words[3] == stateEstablished && far.Port() != 0:
				out = append(out, connection{f.proto, own, far})
			}
		}
	}
	kept := out[:0]
	for _, c := range out {
		if c.proto != unix.IPPROTO_TCP || !listening[c.own.Port()] {
			kept = append(kept, c)
		}
	}
	return kept
}

// socketAddr reads "0200000A:C350": an address in 32-bit words of this machine's byte order, and a port (proc_pid_net(5)).
func socketAddr(s string) (netip.AddrPort, bool) {
	a, p, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	port, errPort := hex.DecodeString(p)
	if !ok || err != nil || errPort != nil || len(port) != 2 || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(port)), true
}
