package resolver

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// How long an admitted address can be reached after its answer has expired, at least: programs keep what they resolved for
// a while.
const (
	grace    = 2 * time.Minute
	leastFor = 5 * time.Minute
)

// judged is an answer from a server after the policy has been applied.
type judged struct {
	refused   *fact.Destination // a name in it that is refused
	verdict   enforce.Verdict
	private   bool // addresses were taken out
	admit     []platform.Admission
	life      time.Duration // how long it may be kept
	longest   time.Duration // how long another resolver may keep a part of it
	unchanged bool
}

// judge applies the policy to an answer: every name in its chain, the private addresses in it, its times. It changes m.
// private reports whether the asked name may have private addresses. glue says that addresses beside an answer without any
// may stay: a resolver on this machine that asks all zones itself needs them.
func judge(m *dns.Msg, name string, by enforce.Judge[fact.Destination], glue bool, private func() bool) judged {
	out := judged{life: maxTTL, unchanged: true}
	link := func(n string) bool {
		d := fact.Destination{Name: lowered(n), Link: true}
		if d.Name == "" || d.Name == name {
			return true
		}
		v := by.Judge(&d)
		if !v.Allow && out.refused == nil {
			out.refused, out.verdict = &d, v
		}
		return v.Allow
	}
	may, asked := false, false
	allowed := func(a netip.Addr) bool {
		a = a.Unmap()
		if !isPrivate(a) {
			return true
		}
		if !asked {
			may, asked = private(), true
		}
		return may
	}
	var admit []netip.Addr
	chain := chained(m.Answer, name)
	keep := m.Answer[:0:0]
	for _, rr := range m.Answer {
		if !chain[lowered(rr.Header().Name)] {
			out.unchanged = false // it answers another question
			continue
		}
		ok := true
		switch r := rr.(type) {
		case *dns.CNAME:
			ok = link(r.Target)
		case *dns.DNAME:
			ok = link(r.Target)
		case *dns.PTR:
			ok = link(r.Ptr)
		case *dns.A:
			if a, is := netip.AddrFromSlice(r.A.To4()); is {
				if ok = allowed(a); ok {
					admit = append(admit, a)
				}
			}
		case *dns.AAAA:
			if a, is := netip.AddrFromSlice(r.AAAA); is {
				if ok = allowed(a); ok {
					admit = append(admit, a.Unmap())
				}
			}
		case *dns.SVCB:
			ok = link(r.Target) && hints(r, allowed, &admit, &out)
		case *dns.HTTPS:
			ok = link(r.Target) && hints(&r.SVCB, allowed, &admit, &out)
		}
		if out.refused != nil {
			return out
		}
		if !ok {
			out.private, out.unchanged = true, false
			continue
		}
		keep = append(keep, rr)
	}
	m.Answer = keep
	// Addresses beside the answer are hints that nobody has asked for, and are not admitted.
	extra := m.Extra[:0:0]
	for _, rr := range m.Extra {
		var a netip.Addr
		switch r := rr.(type) {
		case *dns.A:
			a, _ = netip.AddrFromSlice(r.A.To4())
		case *dns.AAAA:
			a, _ = netip.AddrFromSlice(r.AAAA)
		}
		if a.IsValid() && !(glue && len(m.Answer) == 0 && allowed(a)) {
			out.unchanged = false
			continue
		}
		extra = append(extra, rr)
	}
	m.Extra = extra
	out.times(m)
	for _, a := range admit[:min(len(admit), maxAddresses)] {
		out.admit = append(out.admit, platform.Admission{Name: name, Address: a, For: max(out.longest+grace, leastFor)})
	}
	return out
}

// chained are the names that an answer is about: the one that was asked for, and those that its CNAMEs and DNAMEs lead to,
// one after the other. The owner of a DNAME is among them.
func chained(list []dns.RR, name string) map[string]bool {
	in := map[string]bool{name: true}
	for last, n := name, 0; n < maxChain; n++ {
		next := ""
		for _, rr := range list {
			from := lowered(rr.Header().Name)
			switch r := rr.(type) {
			case *dns.CNAME:
				if from == last {
					next = lowered(r.Target)
				}
			case *dns.DNAME:
				if rest, ok := strings.CutSuffix(last, "."+from); ok && next == "" {
					in[from], next = true, rest+"."+lowered(r.Target)
				}
			}
		}
		if next == "" || in[next] || len(next) > 253 {
			break
		}
		in[next], last = true, next
	}
	return in
}

// maxChain bounds the names in one answer, and maxAddresses what one answer admits.
const (
	maxChain     = 32
	maxAddresses = 64
)

// hints takes private addresses out of a service's hints, and admits the others.
func hints(r *dns.SVCB, allowed func(netip.Addr) bool, admit *[]netip.Addr, out *judged) bool {
	var keep []dns.SVCBKeyValue
	for _, kv := range r.Value {
		var list []netip.Addr
		switch h := kv.(type) {
		case *dns.SVCBIPv4Hint:
			for _, ip := range h.Hint {
				if a, ok := netip.AddrFromSlice(ip.To4()); ok {
					list = append(list, a)
				}
			}
		case *dns.SVCBIPv6Hint:
			for _, ip := range h.Hint {
				if a, ok := netip.AddrFromSlice(ip.To16()); ok {
					list = append(list, a.Unmap())
				}
			}
		}
		good := true
		for _, a := range list {
			good = good && allowed(a)
		}
		if !good {
			out.private, out.unchanged = true, false
			continue
		}
		*admit = append(*admit, list...)
		keep = append(keep, kv)
	}
	r.Value = keep
	return true
}

// times bounds the times of an answer, and finds how long it may be kept.
func (out *judged) times(m *dns.Msg) {
	const most = uint32(maxTTL / time.Second)
	least := most
	for _, list := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range list {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue
			}
			if h.Ttl > most {
				h.Ttl, out.unchanged = most, false
			}
			least = min(least, h.Ttl)
			out.longest = max(out.longest, time.Duration(h.Ttl)*time.Second)
		}
	}
	out.life = time.Duration(least) * time.Second
	positive := m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
	if positive {
		return
	}
	negative := m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError
	soa := false
	for _, rr := range m.Ns {
		if s, ok := rr.(*dns.SOA); ok {
			soa = true
			out.life = min(out.life, time.Duration(s.Minttl)*time.Second)
		}
	}
	if out.life = min(out.life, maxNegTTL); !negative || !soa {
		out.life = 0
	}
}

// lowered is a name of a record as it is judged: the library writes unusual bytes as \DDD and \X.
func lowered(n string) string {
	n = strings.TrimSuffix(n, ".")
	if !strings.Contains(n, `\`) {
		return strings.ToLower(n)
	}
	out := make([]byte, 0, len(n))
	for i := 0; i < len(n); i++ {
		c := n[i]
		if c == '\\' && i+1 < len(n) {
			if v, err := strconv.ParseUint(n[i+1:min(i+4, len(n))], 10, 8); err == nil && i+3 < len(n) {
				c, i = byte(v), i+3
			} else {
				c, i = n[i+1], i+1
			}
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		out = append(out, c)
	}
	return string(out)
}

// own are the addresses that are private to a machine, a link or a site: they never belong to a public name.
var own = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
}

func isPrivate(a netip.Addr) bool {
	for _, p := range own {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// localNames end the names that are never public (RFC 6761, 6762, 8375, 9476; "internal" is reserved by ICANN).
var localNames = []string{"local", "localhost", "home.arpa", "internal", "lan", "localdomain", "intranet", "corp", "home", "private",
	"test"}

// below reports whether a name is one of the domains or below it.
func below(name string, domains []string) bool {
	for _, d := range domains {
		if name == d || strings.HasSuffix(name, "."+d) {
			return true
		}
	}
	return false
}

// reversed is the address that a reverse name asks about.
func reversed(name string) (a netip.Addr, ok bool) {
	if rest, is := strings.CutSuffix(name, ".in-addr.arpa"); is {
		l := strings.Split(rest, ".")
		if len(l) != 4 {
			return a, false
		}
		a, err := netip.ParseAddr(l[3] + "." + l[2] + "." + l[1] + "." + l[0])
		return a, err == nil
	}
	rest, is := strings.CutSuffix(name, ".ip6.arpa")
	l := strings.Split(rest, ".")
	if !is || len(l) != 32 {
		return a, false
	}
	var b [16]byte
	for i, s := range l {
		n, err := strconv.ParseUint(s, 16, 4)
		if err != nil || len(s) != 1 {
			return a, false
		}
		b[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b).Unmap(), true
}
