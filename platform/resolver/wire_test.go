package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

func packed(t testing.TB, name string, kind uint16, edns bool) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	if edns {
		m.SetEdns0(1232, true)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is parsed here is what the library parses, and what is answered is an answer to that question.
func FuzzQuestion(f *testing.F) {
	f.Add(packed(f, "Docs.Example.com", dns.TypeA, true))
	f.Add(packed(f, ".", dns.TypeNS, false))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05a.b\x00c\x00\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var scratch [256]byte
		var q question
		before := slices.Clone(p)
		rcode, answer := q.parse(p, &scratch)
		if !slices.Equal(before, p) {
			t.Fatal("the packet was changed")
		}
		if !answer {
			return
		}
		if rcode == rcodeOK {
			var m dns.Msg
			if err := m.Unpack(p); err == nil && len(m.Question) == 1 {
				name := strings.ToLower(strings.TrimSuffix(m.Question[0].Name, "."))
				if !strings.Contains(name, `\`) && name != string(q.name) || m.Question[0].Qtype != q.qtype || m.Question[0].Qclass != q.class {
					t.Fatalf("read %q %d, the library %v", q.name, q.qtype, m.Question[0])
				}
				if opt := m.IsEdns0(); q.edns && (opt == nil || opt.Do() != q.do) {
					t.Fatalf("EDNS read %v %v, the library %v", q.edns, q.do, opt)
				}
			}
		} else {
			q.end = headerLen
		}
		out := q.reply(nil, p, rcodeNoName, edeBlocked, strings.Repeat("x", 600))
		var m dns.Msg
		if len(out) > 512+11 {
			t.Fatalf("%d bytes", len(out))
		}
		if err := m.Unpack(out); err != nil && rcode == rcodeOK && !strings.Contains(err.Error(), "bad") {
			t.Fatalf("the answer cannot be read: %v", err)
		} else if err == nil && (!m.Response || m.Rcode != dns.RcodeNameError) {
			t.Fatalf("%v", m)
		}
	})
}

// Times are found where the library finds them, and patching them breaks nothing.
func FuzzTimes(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	m.Compress = true
	for _, s := range []string{"a.example. 300 IN CNAME b.example.", "b.example. 7 IN A 192.0.2.1"} {
		rr, _ := dns.NewRR(s)
		m.Answer = append(m.Answer, rr)
	}
	m.SetEdns0(1232, true)
	b, _ := m.Pack()
	f.Add(b)
	f.Add([]byte("\x00\x01\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\xc0\x0c"))
	f.Fuzz(func(t *testing.T, p []byte) {
		at, ok := ttls(p)
		if !ok {
			return
		}
		for _, i := range at {
			if int(i)+4 > len(p) {
				t.Fatalf("%d of %d", i, len(p))
			}
		}
		var m dns.Msg
		if m.Unpack(p) == nil {
			want := 0
			for _, list := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
				for _, rr := range list {
					if rr.Header().Rrtype != dns.TypeOPT {
						want++
					}
				}
			}
			if len(at) != want {
				t.Fatalf("%d times, the library has %d records", len(at), want)
			}
		}
	})
}

// lists refuse whatever is below "bad".
type lists struct{}

func (lists) Judge(d *fact.Destination) enforce.Verdict {
	return enforce.Verdict{Allow: !below(d.Name, []string{"bad"})}
}

func (lists) Reason(enforce.Verdict, *fact.Destination) (reason, nearest string) { return "", "" }

// Whatever a server answers: what is passed on has no refused name and no private address, and what is admitted is in it.
func FuzzAnswer(f *testing.F) {
	for _, list := range [][]string{{"a. 1 IN A 192.0.2.1", "a. 1 IN A 10.0.0.1"}, {"a. 1 IN CNAME b.bad."}, {"a. 1 IN HTTPS 1 . ipv4hint=10.0.0.1,192.0.2.1"},
		{"a. 1 IN AAAA ::ffff:10.0.0.1"}, {"a. 9999999 IN AAAA 2001:db8::1"}} {
		m := new(dns.Msg)
		m.SetQuestion("a.", dns.TypeA)
		m.Response = true
		for _, s := range list {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		b, _ := m.Pack()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var m dns.Msg
		if m.Unpack(p) != nil {
			return
		}
		j := judge(&m, "a", lists{}, true, func() bool { return false })
		if j.refused != nil {
			return
		}
		if j.life > maxTTL || j.life < 0 {
			t.Fatalf("kept for %v", j.life)
		}
		for _, rr := range m.Answer {
			switch r := rr.(type) {
			case *dns.CNAME:
				if below(lowered(r.Target), []string{"bad"}) {
					t.Fatal(rr)
				}
			case *dns.A:
				if a, ok := netip.AddrFromSlice(r.A.To4()); ok && isPrivate(a) {
					t.Fatal(rr)
				}
			case *dns.AAAA:
				if a, ok := netip.AddrFromSlice(r.AAAA); ok && isPrivate(a.Unmap()) {
					t.Fatal(rr)
				}
			}
		}
		for _, a := range j.admit {
			if isPrivate(a.Address) || a.For < leastFor || a.For > maxTTL+grace {
				t.Fatalf("%+v", a)
			}
		}
	})
}

// A cached answer is the same answer to the question as it is asked now, with the time that it has left; of another server
// it is none.
func TestCache(t *testing.T) {
	one, two := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")
	var scratch [256]byte
	var q question
	p := packed(t, "docs.example.com", dns.TypeA, true)
	if rcode, ok := q.parse(p, &scratch); rcode != 0 || !ok {
		t.Fatal(rcode)
	}
	m := new(dns.Msg)
	if err := m.Unpack(p); err != nil {
		t.Fatal(err)
	}
	m.Response = true
	rr, _ := dns.NewRR("docs.example.com. 300 IN A 192.0.2.7")
	m.Answer = append(m.Answer, rr)
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var c cache
	now := time.Now()
	c.put(q.key(nil, one), msg, 300*time.Second, now)
	again := packed(t, "DOCS.example.COM", dns.TypeA, true)
	if rcode, ok := q.parse(again, &scratch); rcode != 0 || !ok {
		t.Fatal(rcode)
	}
	got := c.get(nil, again, &q, q.key(nil, one), 1232, now.Add(40*time.Second))
	var a dns.Msg
	if err := a.Unpack(got); err != nil || a.Question[0].Name != "DOCS.example.COM." || a.Answer[0].Header().Ttl != 260 || a.Id != uint16(again[0])<<8|uint16(again[1]) {
		t.Errorf("%v %v", err, &a)
	}
	if c.get(nil, again, &q, q.key(nil, two), 1232, now) != nil {
		t.Error("the answer of one server is another's")
	}
	if c.get(nil, again, &q, q.key(nil, one), 1232, now.Add(maxKept)) != nil {
		t.Error("an answer outlives its time")
	}
	if c.get(nil, again, &q, q.key(nil, one), 20, now) != nil {
		t.Error("an answer is longer than what is taken")
	}
	for i := range 3 * maxEntries {
		c.put([]byte{byte(i), byte(i >> 8), byte(i >> 16)}, msg, time.Second, now)
	}
	if n := c.len(); n > maxEntries {
		t.Errorf("%d entries", n)
	}
}

// A name that is refused costs no allocation, and neither does one that is cached.
func TestNoAllocation(t *testing.T) {
	r := New(nil)
	r.now.Store(&standing{judge: lists{}})
	p := packed(t, "www.bad", dns.TypeA, true)
	var scratch [256]byte
	var q question
	out := make([]byte, 0, 1024)
	r.told.add("www.bad", false, "", time.Now())
	if n := testing.AllocsPerRun(1000, func() {
		if rcode, ok := q.parse(p, &scratch); rcode != 0 || !ok || r.refuse(out, p, &q, r.now.Load()) == nil {
			t.Fatal("not refused")
		}
	}); n > 0 {
		t.Errorf("a refusal allocates %v times", n)
	}
}

// A chain is followed one name at a time: what leads to many names costs no more than what leads to one.
func TestChained(t *testing.T) {
	list := []dns.RR{}
	for i := range 60 {
		rr, err := dns.NewRR(fmt.Sprintf("z. 1 IN DNAME a%d.z.", i))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, rr)
	}
	if in := chained(list, "x.z"); len(in) > 2*maxChain+2 || !in["x.z"] {
		t.Errorf("%d names", len(in))
	}
	for _, s := range []string{"A.example. 1 IN CNAME b.example.", "b.example. 1 IN CNAME a.example.", "c.example. 1 IN CNAME d.example."} {
		rr, _ := dns.NewRR(s)
		list = append(list, rr)
	}
	if in := chained(list, "a.example"); !in["b.example"] || in["d.example"] {
		t.Errorf("%v", in)
	}
	if got := lowered(`B\195\188ro\ x.Corp.example.`); got != "b\xc3\xbcro x.corp.example" {
		t.Errorf("%q", got)
	}
}

func TestReversed(t *testing.T) {
	for in, want := range map[string]string{"1.2.0.192.in-addr.arpa": "192.0.2.1", "2.0.192.in-addr.arpa": "", "x.1.2.0.192.in-addr.arpa": "",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "2001:db8::1", "1.ip6.arpa": "", "arpa": "",
		"+1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": ""} {
		got := ""
		if a, ok := reversed(in); ok {
			got = a.String()
		}
		if got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// However many names are refused, few are told, and the same one not again.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now, told := time.Now(), 0
	tell := func(name string) bool { return !r.enough(name, false, now) && r.add(name, false, "", now) }
	for i := range 10_000 {
		if tell(strings.Repeat("x", i%250) + ".bad") {
			told++
		}
	}
	if told > burst || len(r.all()) > maxRefusals {
		t.Errorf("%d told, %d kept", told, len(r.all()))
	}
	now = now.Add(10 * time.Minute)
	if tell("x.bad") {
		t.Error("told again within the hour")
	}
	if now = now.Add(2 * time.Hour); !tell("x.bad") {
		t.Error("not told after hours")
	}
}
