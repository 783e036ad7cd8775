package link

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Gateways are the routers through which this machine reaches other networks.
func Gateways() []netip.Addr { return gatewaysIn("/proc/thread-self/net") }

// gatewaysIn reads them from the kernel's tables (Documentation/networking/proc_net_tcp and fib_trie: columns of hex digits;
// IPv4 in this machine's byte order, IPv6 in the network's).
func gatewaysIn(dir string) (out []netip.Addr) {
	add := func(a netip.Addr) {
		if a.IsValid() && !a.IsUnspecified() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	lines(dir+"/route", func(w []string) {
		b, err := hex.DecodeString(at(w, 2))
		if at(w, 1) == "00000000" && err == nil && len(b) == 4 {
			var a [4]byte
			binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
			add(netip.AddrFrom4(a))
		}
	})
	lines(dir+"/ipv6_route", func(w []string) {
		b, err := hex.DecodeString(at(w, 4))
		if strings.Trim(at(w, 0), "0") == "" && at(w, 1) == "00" && err == nil && len(b) == 16 {
			a, _ := netip.AddrFromSlice(b)
			add(a)
		}
	})
	return out
}

// lines calls f with the words of each line of a file; a missing file has none.
func lines(path string, f func([]string)) {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		f(strings.Fields(line))
	}
}

func at(w []string, i int) string {
	if i < len(w) {
		return w[i]
	}
	return ""
}
