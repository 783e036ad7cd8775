package resolver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/fact"
	networks "github.com/warderd/warder/enforce/network"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/firewall"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/platformtest"
)

// laptop is a machine in a network of its own, with the firewall and the resolver joined as the agent joins them.
type laptop struct {
	*platformtest.Outside
	t        *testing.T
	list     []platform.Capability
	guard    platform.Guard
	backend  platform.Backend
	mu       sync.Mutex
	events   []platform.Decision
	capables map[string]fact.Capability
	gate     enforce.Gate
	excepted []string
	lists    map[string]string // files of long lists, by digest
	read     map[policy.ListUse]policy.Content
}

func newLaptop(t *testing.T) *laptop {
	t.Helper()
	l := &laptop{Outside: platformtest.NewOutside(t), t: t}
	l.Zone("docs.example.com. 300 IN A "+platformtest.Web4, "docs.example.com. 300 IN AAAA "+platformtest.Web6,
		"www.blocked.example. 300 IN A "+platformtest.Other4, "www.blocked.example. 300 IN AAAA "+platformtest.Other6,
		"other.example.net. 300 IN A "+platformtest.Other4, "other.example.net. 300 IN AAAA "+platformtest.Other6,
		"server.corp.example. 300 IN A "+platformtest.Web4,
		"cdn.example.com. 300 IN CNAME edge.blocked.example.", "edge.blocked.example. 300 IN A "+platformtest.Other4,
		"alias.example.com. 300 IN CNAME docs.example.com.",
		"intern.corp.example. 300 IN A 10.1.2.3", "rebind.example.net. 300 IN A 192.168.1.1", "rebind.example.net. 300 IN A "+platformtest.Other4,
		"svc.example.com. 300 IN HTTPS 1 edge.blocked.example. alpn=h2 ipv4hint="+platformtest.Other4,
		"good.example.com. 300 IN HTTPS 1 . alpn=h2 ipv4hint="+platformtest.Web4)
	l.Zone("many.example.com. 300 IN CNAME many.blocked.example.")
	for i := range 100 {
		l.Zone(fmt.Sprintf("many.blocked.example. 300 IN A 203.0.113.%d", i))
	}
	for i := range 200 {
		l.Zone(fmt.Sprintf("big.example.com. 300 IN TXT \"%03d %s\"", i, strings.Repeat("x", 200)))
	}
	l.Names(platformtest.DNS4, platformtest.DNS6, platformtest.Router4)
	if out, err := l.Run("ip", "addr", "add", knownResolver+"/32", "dev", "lo"); err != nil {
		t.Fatal(out, err)
	}
	l.Web(net.JoinHostPort(knownResolver, "443"), net.JoinHostPort(knownResolver, "80"))
	for _, a := range []string{platformtest.Web4, platformtest.Web6, platformtest.Other4, platformtest.Other6} {
		l.Web(net.JoinHostPort(a, "443"), net.JoinHostPort(a, "853"))
	}
	l.start()
	return l
}

// start is what the agent does at its start.
func (l *laptop) start() {
	if l.gate == nil {
		l.gate = func(enforce.Change) error { return nil }
	}
	h := platform.Host{Network: true, Gate: l.gate, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	l.list = []platform.Capability{firewall.Capability(h), Capability(h)}
	if err := platform.Join(l.list); err != nil {
		l.t.Fatal(err)
	}
	l.capables = map[string]fact.Capability{}
	for _, c := range platform.Lower(l.list[0].Claims, l.list[0].Probe(context.Background()), "linux") {
		l.capables[string(c.Setting)] = fact.Capability{Level: c.Level, Limit: c.Limit}
	}
	l.backend, l.guard = l.list[0].Backends[0], l.list[1].Guards[0]
	l.guard.Listen(func(d platform.Decision) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, d)
	}, nil)
	l.list[1].Start()
	l.t.Cleanup(l.guard.Stop)
}

// kill stops answering at once, and leaves the firewall as it is, as SIGKILL does.
func (l *laptop) kill() { l.guard.Stop() }

// load puts a policy in force as the planner does, and returns its want.
func (l *laptop) load(network string) {
	l.t.Helper()
	for _, c := range l.plan(network) {
		if err := l.backend.Apply(context.Background(), []enforce.Change{c}); len(err) > 0 {
			l.t.Fatal(err)
		}
	}
	r := l.reads()
	if want := l.want(network); want == nil && r.State == enforce.Present || want != nil && !r.Is(want.Value) {
		l.t.Fatalf("%s: reads %v, wanted %v", network, r, want)
	}
}

func (l *laptop) compiled(network string) *section.Case {
	l.t.Helper()
	mode, network, found := strings.Cut(network, " ")
	if !found {
		mode, network = "enforce", mode
	}
	d, err := policy.Decode([]byte(`{"name":"p","compliance":"`+mode+`","policy_data":{"network":`+network+`}}`), policy.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	d = d.Excepted(map[string][]string{"network": l.excepted})
	d = d.WithLists(l.contents(d))
	return section.Open(all.Sections, d, &fact.Machine{Capable: l.capables, Network: fact.Is(fact.Network{Server: "server.corp.example"})})
}

// contents reads the lists of a document that are here.
func (l *laptop) contents(d *policy.Document) map[policy.ListUse]policy.Content {
	for _, u := range d.Lists() {
		if _, known := l.read[u]; known || l.lists[u.SHA256] == "" {
			continue
		}
		f, err := os.Open(l.lists[u.SHA256])
		if err != nil {
			l.t.Fatal(err)
		}
		list, err := networks.ReadList(f, u, policy.MaxListNames)
		_ = f.Close()
		if err != nil {
			l.t.Fatal(err)
		}
		if l.read == nil {
			l.read = map[policy.ListUse]policy.Content{}
		}
		l.read[u] = policy.Content{List: list, SHA256: u.SHA256}
	}
	return l.read
}

func (l *laptop) want(network string) *enforce.Want {
	if network == "" {
		return nil
	}
	for _, w := range section.Decide(all.Sections, l.compiled(network)).Wants {
		if w.Mode == enforce.Enforce {
			return &w
		}
	}
	return nil
}

// plan loads the guard, and returns what the planner would change after it; what it gives back is done before.
func (l *laptop) plan(network string) []enforce.Change {
	l.t.Helper()
	w := l.want(network)
	if w == nil {
		if r := l.reads(); r.State == enforce.Present {
			c := enforce.Change{Key: enforce.Key{Kind: "firewall", ID: "names"}, From: r, To: enforce.Reading{State: enforce.Absent}, Baseline: true}
			if err := l.backend.Apply(context.Background(), []enforce.Change{c}); len(err) > 0 {
				l.t.Fatal(err)
			}
		}
	}
	var rules platform.Rules
	if network != "" {
		rules = l.compiled(network).Rules("network")
	}
	if err := l.guard.Load(rules); err != nil {
		l.t.Fatal(err)
	}
	if w == nil || l.reads().Is(w.Value) {
		return nil
	}
	return []enforce.Change{{Key: w.Key, To: w.To(), Mode: w.Mode, By: w.By}}
}

func (l *laptop) reads() enforce.Reading {
	l.t.Helper()
	m, err := l.backend.List(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	r, ok := m[enforce.Key{Kind: "firewall", ID: "names"}]
	if !ok {
		r.State = enforce.Absent
	}
	return r
}

// ask asks a name server over UDP or TCP, as any program does.
func (l *laptop) ask(server, name, kind string) *dns.Msg {
	l.t.Helper()
	m, err := ask(server, name, kind, "udp")
	if err != nil {
		l.t.Fatalf("%s %s at %s: %v", name, kind, server, err)
	}
	return m
}

func ask(server, name, kind, network string) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.StringToType[kind])
	m.SetEdns0(1232, false)
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	got, _, err := c.Exchange(m, net.JoinHostPort(server, "53"))
	return got, err
}

// gives checks an answer: its records' data, or the name of its error.
func (l *laptop) gives(server, name, kind string, want ...string) {
	l.t.Helper()
	got := said(l.ask(server, name, kind))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.t.Errorf("%s %s at %s: %v, wanted %v", name, kind, server, got, want)
	}
}

func said(m *dns.Msg) (out []string) {
	if m.Rcode != dns.RcodeSuccess {
		return []string{dns.RcodeToString[m.Rcode]}
	}
	for _, rr := range m.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return out
}

// ede is the extended error of an answer.
func ede(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return fmt.Sprint(e.InfoCode, " ", e.ExtraText)
			}
		}
	}
	return ""
}

// reach connects, and says how it went: "ok", "refused", or the error.
func reach(addr, port string) string {
	start := time.Now()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, port), 5*time.Second)
	if err == nil {
		defer c.Close()
		if !echoes(c) {
			return "silent"
		}
		return "ok"
	}
	if errors.Is(err, syscall.ECONNREFUSED) && time.Since(start) < time.Second {
		return "refused"
	}
	return err.Error()
}

// echoes sends and reads a byte.
func echoes(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

func (l *laptop) reaches(addr, port, want string) {
	l.t.Helper()
	if got := reach(addr, port); got != want {
		l.t.Errorf("%s port %s: %s, wanted %s", addr, port, got, want)
	}
}

func (l *laptop) nft(line string) {
	l.t.Helper()
	if out, err := exec.Command("nft", strings.Fields(line)...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "-s", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// knownResolver answers DNS over HTTPS.
const knownResolver = "9.9.9.9"

const (
	blockList = `{"blocked_domains":["blocked.example"]}`
	allowList = `{"allowed_domains":["example.com"]}`
)

// Whatever server a program asks, over UDP or TCP, IPv4 or IPv6: a blocked name does not exist, and every other answer is
// that server's own.
func TestBlocked(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	before := ruleset(t)
	l.load(blockList)
	for _, server := range []string{platformtest.DNS4, platformtest.DNS6, platformtest.Router4} {
		l.Asked()
		l.gives(server, "www.blocked.example", "A", "NXDOMAIN")
		l.gives(server, "WWW.Blocked.Example", "AAAA", "NXDOMAIN")
		l.gives(server, "blocked.example", "MX", "NXDOMAIN")
		if list := l.Asked(); len(list) > 0 {
			t.Errorf("the server was asked: %v", list)
		}
		l.gives(server, "docs.example.com", "A", platformtest.Web4)
		l.gives(server, "docs.example.com", "AAAA", platformtest.Web6)
		if list := l.Asked(); len(list) != 2 || !strings.HasSuffix(list[0], " "+server) {
			t.Errorf("asked of others: %v", list)
		}
		m, err := ask(server, "www.blocked.example", "A", "tcp")
		if err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("over TCP: %v %v", m, err)
		}
		if m, err = ask(server, "docs.example.com", "A", "tcp"); err != nil || len(m.Answer) != 1 {
			t.Errorf("over TCP: %v %v", m, err)
		}
	}
	// The same in a question that does not take a long answer, and in an operation that a server may take for a question.
	many := new(dns.Msg)
	many.SetQuestion("many.example.com.", dns.TypeA)
	if got, err := dns.Exchange(many, net.JoinHostPort(platformtest.DNS4, "53")); err != nil || len(got.Answer) > 0 || !got.Truncated {
		t.Errorf("a truncated answer that leads to a blocked name: %v %v", got, err)
	}
	many.SetQuestion("www.blocked.example.", dns.TypeA)
	many.Opcode = dns.OpcodeNotify
	if got, err := dns.Exchange(many, net.JoinHostPort(platformtest.DNS4, "53")); err != nil || got.Rcode != dns.RcodeNotImplemented {
		t.Errorf("NOTIFY: %v %v", got, err)
	}
	m := l.ask(platformtest.DNS4, "www.blocked.example", "A")
	if got := ede(m); !strings.HasPrefix(got, "15 ") || !strings.Contains(got, "network.blocked_domains") {
		t.Errorf("the extended error is %q", got)
	}
	// A CNAME and a service that lead to a blocked name are refused with it; another way to look up names, too.
	l.gives(platformtest.DNS4, "cdn.example.com", "A", "NXDOMAIN")
	l.gives(platformtest.DNS4, "svc.example.com", "HTTPS", "NXDOMAIN")
	l.gives(platformtest.DNS4, "dns.google", "A", "NXDOMAIN")
	l.gives(platformtest.DNS4, "use-application-dns.net", "A", "NXDOMAIN")
	l.gives(platformtest.DNS4, "alias.example.com", "A", "docs.example.com.", platformtest.Web4)
	// A name of the search domain may have a private address, a public one not.
	l.gives(platformtest.DNS4, "intern.corp.example", "A", "10.1.2.3")
	l.gives(platformtest.DNS4, "rebind.example.net", "A", platformtest.Other4)
	if m := l.ask(platformtest.DNS4, "big.example.com", "TXT"); !m.Truncated {
		t.Error("40 KiB fit over UDP")
	}
	if m, err := ask(platformtest.DNS4, "big.example.com", "TXT", "tcp"); err != nil || len(m.Answer) != 200 {
		t.Errorf("over TCP: %v", err)
	}
	l.reaches(platformtest.Other4, "443", "ok") // only names are refused
	l.reaches(knownResolver, "443", "refused")
	l.reaches(knownResolver, "80", "ok")
	l.reaches(platformtest.Other4, "853", "refused")
	l.reaches(platformtest.Other6, "853", "refused")
	l.load("")
	if after := ruleset(t); after != before {
		t.Errorf("the ruleset after it:\n%s\nbefore:\n%s", after, before)
	}
	l.gives(platformtest.DNS4, "www.blocked.example", "A", platformtest.Other4)
	if len(l.events) == 0 || l.events[0].Verdict.Allow || l.events[0].Subject != "www.blocked.example" {
		t.Errorf("the events: %+v", l.events)
	}
}

// With allowed_domains nothing can be reached but what an allowed name resolved to, in both families, and what is refused is
// refused at once.
func TestAllowed(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	old, err := net.Dial("tcp", net.JoinHostPort(platformtest.Other4, "443"))
	if err != nil || !echoes(old) {
		t.Fatal("before the policy: ", err)
	}
	defer old.Close()
	l.load(allowList)
	if echoes(old) {
		t.Error("a connection from before goes on to an address that no allowed name has")
	}
	for _, a := range []string{platformtest.Web4, platformtest.Web6, platformtest.Other4, platformtest.Other6} {
		l.reaches(a, "443", "refused")
	}
	l.gives(platformtest.DNS4, "other.example.net", "A", "NXDOMAIN")
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	l.reaches(platformtest.Web4, "443", "ok")
	l.reaches(platformtest.Web6, "443", "refused")
	l.gives(platformtest.DNS6, "docs.example.com", "AAAA", platformtest.Web6)
	l.reaches(platformtest.Web6, "443", "ok")
	l.reaches(platformtest.Other4, "443", "refused")
	kept, err := net.Dial("tcp", net.JoinHostPort(platformtest.Web4, "443"))
	if err != nil || !echoes(kept) {
		t.Fatal(err)
	}
	defer kept.Close()
	// An open connection outlives the time-out, and a change that still allows its name; it ends with the name.
	l.nft("flush set inet warder named4")
	l.reaches(platformtest.Web4, "443", "refused")
	if !echoes(kept) {
		t.Error("an open connection ended with the time-out")
	}
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	l.load(`{"allowed_domains":["example.com","example.org"]}`)
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	if !echoes(kept) {
		t.Error("an open connection ended although its name is still allowed")
	}
	l.load(`{"allowed_domains":["example.org"]}`)
	if echoes(kept) {
		t.Error("an open connection goes on although the policy took its name away")
	}
	l.reaches(platformtest.Web4, "443", "refused")
	// A server that the machine does not use is not asked: whoever chooses it would choose what can be reached.
	l.Asked()
	l.gives(platformtest.Router4, "server.corp.example", "A", platformtest.Web4)
	for _, q := range l.Asked() {
		if strings.HasSuffix(q, " "+platformtest.Router4) {
			t.Errorf("asked of a server that is not the machine's: %s", q)
		}
	}
	// The policy server's name is always resolved and reached.
	l.gives(platformtest.DNS4, "server.corp.example", "A", platformtest.Web4)
	l.reaches(platformtest.Web4, "443", "ok")
	// Addresses in the lists: the longest entry wins.
	l.load(`{"allowed_domains":["203.0.113.0/24"],"blocked_domains":["203.0.113.16/28"]}`)
	l.reaches(platformtest.Web4, "443", "ok")
	l.reaches(platformtest.Other4, "443", "refused")
	l.load("")
	l.reaches(platformtest.Other4, "443", "ok")
}

// What a killed agent left goes on: questions wait for the next one, what was admitted stays, and the next one knows it.
func TestKilled(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(allowList)
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	kept, err := net.Dial("tcp", net.JoinHostPort(platformtest.Web4, "443"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	l.kill()
	l.reaches(platformtest.Web4, "443", "ok")
	l.reaches(platformtest.Other4, "443", "refused")
	if _, err := ask(platformtest.DNS4, "docs.example.com", "A", "udp"); err == nil {
		t.Error("a dead resolver answers")
	}
	l.start()
	if w := l.want(allowList); !l.reads().Is(w.Value) {
		t.Errorf("the next agent reads %v, wanted %s: it would tell of a change by another program", l.reads(), w.Value)
	}
	l.load(allowList)
	if !echoes(kept) {
		t.Error("an open connection ended with the agent")
	}
	l.reaches(platformtest.Web4, "443", "ok")
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	l.load("")
}

// Whatever another program does to the table is noticed, named with the program, and told from what we do ourselves.
func TestSabotage(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan platform.Touch, 1000)
	done := make(chan error, 1)
	go func() { done <- l.backend.Watch(ctx, func(x platform.Touch) { told <- x }) }()
	defer func() { cancel(); <-done }()
	time.Sleep(300 * time.Millisecond)
	l.load(allowList)
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	select {
	case x := <-told:
		t.Errorf("told of our own writes: %+v", x)
	case <-time.After(300 * time.Millisecond):
	}
	want := l.want(allowList)
	for _, line := range []string{"flush ruleset", "delete table inet warder", "flush table inet warder", "flush chain inet warder out",
		"insert rule inet warder out accept", "add rule inet warder names accept", "add chain inet warder more",
		"insert rule inet warder names udp dport 53 accept", "add table inet warder { flags dormant ; }",
		"add element inet warder allow4 { 203.0.113.0/24 }", "flush set inet warder resolvers4",
		"add set inet warder more { type ipv4_addr ; }", "add element inet warder refuse4 { 10.0.0.0/8 }",
		"add element inet warder named4 { 203.0.113.20 }", "add element inet warder named4 { 203.0.113.20 timeout 1h }",
		"flush chain inet warder in"} {
		start := time.Now()
		l.nft(line)
		select {
		case x := <-told:
			if x.By.Name != "nft" || x.By.PID == 0 {
				t.Errorf("%s: told of %+v", line, x)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: nothing is told", line)
		}
		seen := time.Since(start)
		if r := l.reads(); r.Is(want.Value) {
			t.Errorf("%s: reads as if nothing had been changed", line)
		}
		l.load(allowList)
		t.Logf("%s: told after %v, repaired after %v", line, seen, time.Since(start))
		for len(told) > 0 {
			<-told
		}
	}
	// What stands before our table in another one's chain is found by trying.
	for _, rules := range []string{
		"add table ip x ; add chain ip x y { type nat hook output priority -150 ; } ; add rule ip x y udp dport 53 dnat to 198.51.100.53",
		"add table ip x ; add chain ip x y { type filter hook output priority -300 ; } ; add rule ip x y tcp dport 853 meta mark set 0x57415244",
		"add table ip x ; add table ip6 x ; add chain ip6 x y { type nat hook output priority -150 ; } ; add rule ip6 x y udp dport 53 dnat to 2001:db8:53::53",
	} {
		out, err := exec.Command("nft", rules).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r := l.reads(); !strings.Contains(string(r.Value), "; but ") {
			t.Errorf("%s: reads %v", rules, r)
		}
		l.nft("delete table ip x")
		_ = exec.Command("nft", "delete", "table", "ip6", "x").Run()
		if r := l.reads(); !r.Is(want.Value) {
			t.Errorf("after it reads %v", r)
		}
	}
	l.load("")
}

// Below enforce nothing is written, and what would be refused is told.
func TestObserved(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	for _, mode := range []string{"monitor", "warn"} {
		l := newLaptop(t)
		before := ruleset(t)
		l.load(mode + ` {"blocked_domains":["blocked.example"]}`)
		l.gives(platformtest.DNS4, "www.blocked.example", "A", platformtest.Other4)
		l.gives(platformtest.DNS6, "x.blocked.example", "A", "NXDOMAIN")
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			l.mu.Lock()
			n := len(l.events)
			l.mu.Unlock()
			if n == 2 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d events", n)
			}
		}
		if d := l.events[0]; d.Subject != "www.blocked.example" || !d.Verdict.WouldDeny || d.Verdict.WouldMode.String() != mode {
			t.Errorf("%+v", d)
		}
		if after := ruleset(t); after != before {
			t.Errorf("the ruleset was changed:\n%s", after)
		}
		b, _ := json.Marshal(l.events[0].Fact)
		if string(b) != `{"name":"www.blocked.example"}` {
			t.Errorf("facts %s", b)
		}
		l.load("")
		l.Close()
	}
}

// The suite that every back end passes, with the real table.
func TestConformance(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	platformtest.Conformance(t, func(t *testing.T) platformtest.Subject {
		gate := &platformtest.Gate{}
		l.guard.Stop()
		l.t, l.gate = t, gate.Pass
		l.start()
		l.load(blockList)
		other := l.compiled(blockList).Rules("network").(rules).Reach(enforce.Enforce)
		other.Refuse = []fact.Range{{First: netip.MustParseAddr("192.0.2.0"), Last: netip.MustParseAddr("192.0.2.9")}}
		if err := l.guard.(*Resolver).Fill(other, func(netip.Addr) bool { return true }, nil); err != nil {
			t.Fatal(err)
		}
		return platformtest.Subject{Backend: l.backend, Key: enforce.Key{Kind: "firewall", ID: "names"}, Other: enforce.Value(other.String()),
			Gate: gate, Elsewhere: func(*testing.T, enforce.Value) {
				const range9 = "element inet warder refuse4 { 192.0.2.0-192.0.2.9 }"
				l.nft("add " + range9 + "; delete " + range9 + "; add " + range9) // each time a change, also where it is there already
			}}
	})
}

// boundTo asks from a socket that is bound to an interface, as local resolvers and VPN clients do.
func boundTo(dev, server, name, network string) string {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	c := dns.Client{Net: network, Timeout: 3 * time.Second, Dialer: &net.Dialer{Timeout: 3 * time.Second,
		Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = syscall.BindToDevice(int(fd), dev) })
			return errors.Join(err, failed)
		}}}
	a, _, err := c.Exchange(m, net.JoinHostPort(server, "53"))
	if err != nil {
		return err.Error()
	}
	return strings.Join(said(a), " ")
}

// Sockets that are bound to an interface, and servers with link-local addresses, are judged and answered like all others, and
// nobody outside is.
func TestBound(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	if out, err := l.Run("ip", "-6", "addr", "add", "fe80::53/64", "dev", "out0", "nodad"); err != nil {
		t.Fatal(out, err)
	}
	l.Names("fe80::53%out0")
	link := "fe80::53%eth0"
	for _, list := range []string{blockList, allowList} {
		l.Use(platformtest.DNS4, platformtest.DNS6, link)
		l.load(list)
		for _, server := range []string{platformtest.DNS4, platformtest.DNS6, link} {
			for _, network := range []string{"udp", "tcp"} {
				l.Asked()
				if got := boundTo("eth0", server, "www.blocked.example", network); got != "NXDOMAIN" {
					t.Errorf("%s %s %s: %s", list, server, network, got)
				}
				if got := boundTo("eth0", server, "docs.example.com", network); got != platformtest.Web4 {
					t.Errorf("%s %s %s: %s", list, server, network, got)
				}
				if asked := l.Asked(); len(asked) > 0 && !strings.HasPrefix(asked[0], "docs.example.com A "+strings.TrimSuffix(server, "%eth0")) {
					t.Errorf("%s %s %s: asked %v", list, server, network, asked)
				}
			}
		}
		l.reaches(platformtest.Other4, "443", map[string]string{blockList: "ok", allowList: "refused"}[list])
		for _, at := range []string{platformtest.Machine4, platformtest.Machine6} {
			if out, err := l.Run("timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+at+"/353"); err == nil {
				t.Errorf("our resolver can be reached from outside at %s: %s", at, out)
			}
		}
	}
	l.load("")
}

// A connection ends although it is the server that goes on sending on it.
func TestStream(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	at := net.JoinHostPort(platformtest.Other4, "8080")
	server, err := l.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					if _, err := c.Write(make([]byte, 1000)); err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
		}
	}()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	l.load(allowList)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	start := time.Now()
	n, err := io.Copy(io.Discard, c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() || err == nil {
		t.Errorf("%d bytes came after the policy, and then %v", n, err)
	}
	t.Logf("it ended after %v and %d bytes: %v", time.Since(start).Round(time.Millisecond), n, err)
	l.load("")
}

// What was resolved between the rules and the table, or before the table was destroyed, can be reached; an exception for an
// address, too.
func TestKnownBefore(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	for range 5 {
		l.load(blockList)
		plan := l.plan(allowList)
		l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
		if err := l.backend.Apply(context.Background(), plan); len(err) > 0 {
			t.Fatal(err)
		}
		l.reaches(platformtest.Web4, "443", "ok")
		l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
		l.reaches(platformtest.Web4, "443", "ok")
	}
	l.nft("flush ruleset")
	l.load(allowList)
	l.reaches(platformtest.Web4, "443", "ok")
	for _, list := range []string{`{"allowed_domains":["example.com"]}`, `{"blocked_domains":["203.0.113.0/24"]}`} {
		l.excepted = nil
		l.load(list)
		l.reaches(platformtest.Other4, "443", "refused")
		l.excepted = []string{platformtest.Other4}
		l.load(list)
		l.reaches(platformtest.Other4, "443", "ok")
	}
	l.excepted = nil
	l.load("")
}

// A resolver on this machine that asks all zones itself gets the addresses of their servers under blocked_domains, and one that
// the machine forwards to does not go in circles.
func TestOwnResolvers(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	l.Lie(func(q []byte) []byte {
		m, r := new(dns.Msg), new(dns.Msg)
		if m.Unpack(q) != nil {
			return nil
		}
		r.SetReply(m)
		ns, _ := dns.NewRR("example.com. 300 IN NS ns1.example.com.")
		for _, s := range []string{"ns1.example.com. 300 IN A " + platformtest.Web4, "ns1.example.com. 300 IN A 192.168.1.1"} {
			rr, _ := dns.NewRR(s)
			r.Extra = append(r.Extra, rr)
		}
		r.Ns = []dns.RR{ns}
		b, _ := r.Pack()
		return b
	})
	m := l.ask(platformtest.DNS4, "docs.example.com", "A")
	glue := 0
	for _, rr := range m.Extra {
		if a, ok := rr.(*dns.A); ok {
			glue++
			if a.A.String() != platformtest.Web4 {
				t.Errorf("glue %v", a)
			}
		}
	}
	if glue != 1 || len(m.Ns) != 1 {
		t.Errorf("a referral became %v", m)
	}
	l.Lie(nil)

	// A forwarder at an address of this machine, which asks the server outside.
	l.Use(platformtest.Machine4)
	p, err := net.ListenPacket("udp", platformtest.Machine4+":53")
	if err != nil {
		t.Fatal(err)
	}
	forwarded := make(chan struct{}, 10_000)
	s := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		forwarded <- struct{}{}
		a, _, err := (&dns.Client{Timeout: 2 * time.Second}).Exchange(m, platformtest.DNS4+":53")
		if err == nil {
			_ = w.WriteMsg(a)
		}
	})}
	go func() { _ = s.ActivateAndServe() }()
	defer func() { _ = s.Shutdown() }()
	l.gives(platformtest.Machine4, "docs.example.com", "A", platformtest.Web4)
	l.gives(platformtest.Machine4, "www.blocked.example", "A", "NXDOMAIN")
	time.Sleep(lookAgain)
	l.load(allowList)
	m, err = ask(platformtest.Machine4, "docs.example.com", "A", "udp")
	if err != nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("with allowed_domains: %v %v", m, err)
	}
	if n := len(forwarded); n > 5 {
		t.Errorf("three questions were forwarded %d times", n)
	}
	l.gives(platformtest.DNS4, "localhost", "A", "127.0.0.1")
	l.load("")
}

// Records about other names are not part of an answer, and what a validating resolver has to know of the zones above an
// allowed name is answered.
func TestForeignRecords(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.Zone("com. 300 IN NS ns.example.com.", "com. 300 IN DS 1 8 2 0000000000000000000000000000000000000000000000000000000000000000",
		"elsewhere. 300 IN NS ns.elsewhere.")
	l.load(allowList)
	l.Lie(func(q []byte) []byte {
		m, r := new(dns.Msg), new(dns.Msg)
		if m.Unpack(q) != nil {
			return nil
		}
		r.SetReply(m)
		for _, s := range []string{m.Question[0].Name + " 300 IN A " + platformtest.Web4, "evil.example.net. 300 IN A " + platformtest.Other4} {
			rr, _ := dns.NewRR(s)
			r.Answer, r.Extra = append(r.Answer, rr), append(r.Extra, rr)
		}
		b, _ := r.Pack()
		return b
	})
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	l.reaches(platformtest.Web4, "443", "ok")
	l.reaches(platformtest.Other4, "443", "refused")
	l.Lie(nil)
	l.gives(platformtest.DNS4, "com", "DS", "1 8 2 0000000000000000000000000000000000000000000000000000000000000000")
	l.gives(platformtest.DNS4, "com", "A", "NXDOMAIN")
	l.gives(platformtest.DNS4, "elsewhere", "NS", "NXDOMAIN") // no allowed name is below it
	l.load("")
}

// What is no question is passed on to the machine's own servers alone: an update of a machine's name in its domain.
func TestUpdate(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	m := new(dns.Msg)
	m.SetUpdate("corp.example.")
	rr, _ := dns.NewRR("laptop.corp.example. 300 IN A " + platformtest.Machine4)
	m.Insert([]dns.RR{rr})
	for server, want := range map[string]int{platformtest.DNS4: dns.RcodeNameError, platformtest.Router4: dns.RcodeNotImplemented} {
		got, err := dns.Exchange(m, net.JoinHostPort(server, "53"))
		if err != nil || got.Rcode != want || got.Opcode != dns.OpcodeUpdate {
			t.Errorf("%s: %v %v", server, got, err)
		}
	}
	l.load("")
}

// A server that lies is not believed: answers to other questions, with other numbers, that cannot be read or go in circles
// lead to an error in bounded time, and others are answered meanwhile.
func TestLyingServer(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	reply := func(q []byte, change func(m *dns.Msg)) []byte {
		m, r := new(dns.Msg), new(dns.Msg)
		if m.Unpack(q) != nil {
			return nil
		}
		r.SetReply(m)
		rr, _ := dns.NewRR(m.Question[0].Name + " 300 IN A " + platformtest.Web4)
		r.Answer = append(r.Answer, rr)
		change(r)
		b, _ := r.Pack()
		return b
	}
	lies := map[string]func(q []byte) []byte{
		"another number":   func(q []byte) []byte { return reply(q, func(m *dns.Msg) { m.Id++ }) },
		"another question": func(q []byte) []byte { return reply(q, func(m *dns.Msg) { m.Question[0].Name = "evil.example." }) },
		"a question":       func(q []byte) []byte { return reply(q, func(m *dns.Msg) { m.Response = false }) },
		"half":             func(q []byte) []byte { b := reply(q, func(*dns.Msg) {}); return b[:len(b)-3] },
		"a circle": func(q []byte) []byte {
			b := reply(q, func(m *dns.Msg) { m.Answer = nil })
			b[7] = 1
			return append(b, 0xc0, byte(len(b)), 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4)
		},
		"zeros":   func(q []byte) []byte { return make([]byte, 4000) },
		"nothing": func([]byte) []byte { return nil },
	}
	for name, lie := range lies {
		l.Lie(lie)
		start := time.Now()
		m, err := ask(platformtest.DNS4, strings.ReplaceAll(name, " ", "-")+".example.net", "A", "udp")
		if err != nil || m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %v %v", name, m, err)
		}
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("%s: %v", name, d)
		} else {
			t.Logf("%s: answered after %v", name, d)
		}
		l.gives(platformtest.DNS4, "www.blocked.example", "A", "NXDOMAIN")
	}
	l.Lie(nil)
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	// Many questions to a server that is silent do not keep others waiting for ever.
	l.Lie(func([]byte) []byte { return nil })
	for i := range 2 * maxAsked {
		c, err := net.Dial("udp", net.JoinHostPort(platformtest.DNS4, "53"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(packed(t, fmt.Sprintf("n%d.example.net", i), dns.TypeA, false))
		_ = c.Close()
	}
	l.gives(platformtest.DNS4, "www.blocked.example", "A", "NXDOMAIN")
	l.Lie(nil)
	for end := time.Now().Add(30 * time.Second); ; {
		if m, err := ask(platformtest.DNS4, "docs.example.com", "AAAA", "udp"); err == nil && len(m.Answer) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("after a silence nothing is answered any more")
		}
	}
	l.load("")
}

// A program that gets the port of one of our own questions does not pass as we do: the kernel decides once for a connection
// whether its packets are redirected. Our own are forgotten as soon as they are answered; and what still escapes the redirection
// is refused.
func TestOwnPort(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	for i := range 20 {
		l.Zone(fmt.Sprintf("n%d.example.com. 300 IN A %s", i, platformtest.Web4))
		l.gives(platformtest.DNS4, fmt.Sprintf("n%d.example.com", i), "A", platformtest.Web4)
	}
	if b, err := os.ReadFile("/proc/net/nf_conntrack"); err != nil {
		t.Logf("not shown by this kernel: %v", err)
	} else if strings.Contains(string(b), "src="+platformtest.DNS4+" dst="+platformtest.Machine4+" sport=53") {
		t.Errorf("the kernel remembers our own questions:\n%s", b)
	}
	for _, network := range []string{"udp", "tcp"} {
		const port = 41234
		at := func(exempt bool) *net.Dialer {
			d := &net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.UDPAddr{Port: port}}
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{Port: port}
			}
			d.Control = func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) {
					_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
					if exempt {
						_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, link.Mark)
					}
				})
			}
			return d
		}
		ask := func(exempt bool) (string, error) {
			m := new(dns.Msg)
			m.SetQuestion("www.blocked.example.", dns.TypeA)
			c := dns.Client{Net: network, Timeout: 3 * time.Second, Dialer: at(exempt)}
			got, _, err := c.Exchange(m, net.JoinHostPort(platformtest.DNS4, "53"))
			if err != nil {
				return "", err
			}
			return strings.Join(said(got), " "), nil
		}
		if got, err := ask(true); err != nil || got != platformtest.Other4 {
			t.Fatalf("%s: as the agent itself: %q %v", network, got, err)
		}
		if got, err := ask(false); err == nil && got != "NXDOMAIN" {
			t.Errorf("%s: from the agent's port a program gets %q", network, got)
		}
	}
}

// A packet to an allowed address that names further stations is refused: that address would pass it on to one that is not allowed. The
// other two kinds of SendDetours go to an allowed address and nowhere else.
func TestDetours(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	count := l.Detours(t)
	for _, x := range []struct {
		policy   string
		arriving int
	}{{"", 4}, {allowList, 2}, {blockList, 2}} {
		if l.load(x.policy); x.policy == allowList {
			l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
			l.gives(platformtest.DNS4, "docs.example.com", "AAAA", platformtest.Web6)
		}
		before := count()
		platformtest.SendDetours(t, platformtest.Web4, platformtest.Web6, platformtest.Other4, platformtest.Other6, 9, []byte("x"))
		time.Sleep(200 * time.Millisecond)
		if n := count() - before; n != x.arriving {
			t.Errorf("%q: %d packets arrived, wanted %d", x.policy, n, x.arriving)
		}
	}
}

// The rules of other programs stay as they are while ours come, are refilled and go, and names are judged beside them.
func TestOtherRulesets(t *testing.T) {
	for _, name := range platformtest.Rulesets {
		t.Run(name, func(t *testing.T) {
			if !platformtest.InNetwork(t) {
				return
			}
			l := newLaptop(t)
			before := platformtest.LoadRuleset(t, name)
			for _, p := range []string{blockList, allowList, blockList} {
				l.load(p)
				for _, server := range []string{platformtest.DNS4, platformtest.DNS6} {
					l.gives(server, "www.blocked.example", "A", "NXDOMAIN")
					l.gives(server, "docs.example.com", "A", platformtest.Web4)
				}
				l.reaches(platformtest.Web4, "443", "ok")
				if others := othersOf(ruleset(t)); others != before {
					t.Errorf("%s: the other rules are\n%s\nand were\n%s", p, others, before)
				}
			}
			l.load("")
			if after := ruleset(t); after != before {
				t.Errorf("after it:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// othersOf is a ruleset without our table.
func othersOf(rules string) string {
	const begin, end = "table inet warder {\n", "\n}\n"
	i := strings.Index(rules, begin)
	if i < 0 {
		return rules
	}
	return rules[:i] + rules[i+strings.Index(rules[i:], end)+len(end):]
}

// Below enforce, a TCP connection to an address that no allowed name was seen to resolve to is told; one that such a name has is
// not, nor what is forwarded for others. At the beginning, when it is not known what was resolved before, nothing is.
func TestConnectionsObserved(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	defer func(d time.Duration) { settle = d }(settle)
	before := ruleset(t)
	l.load("monitor " + allowList)
	l.reaches(platformtest.Other4, "443", "ok") // too early to be judged
	l.load("")
	settle = 0
	l.load("monitor " + allowList)
	l.gives(platformtest.DNS4, "docs.example.com", "A", platformtest.Web4)
	l.gives(platformtest.DNS6, "docs.example.com", "AAAA", platformtest.Web6)
	time.Sleep(50 * time.Millisecond) // the answers are heard beside the program
	for _, a := range []string{platformtest.Web4, platformtest.Web6, platformtest.Other4, platformtest.Other6} {
		l.reaches(a, "443", "ok")
	}
	want := []string{net.JoinHostPort(platformtest.Other4, "443"), net.JoinHostPort(platformtest.Other6, "443")}
	var got []string
	for end := time.Now().Add(30 * time.Second); len(got) < len(want) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got = nil
		l.mu.Lock()
		for _, d := range l.events {
			got = append(got, d.Subject)
			b, _ := json.Marshal(d.Fact)
			if !d.Verdict.WouldDeny || d.Verdict.WouldMode.String() != "monitor" || !strings.Contains(string(b), `"port":443`) {
				t.Errorf("%+v %s", d, b)
			}
		}
		l.mu.Unlock()
	}
	if !slices.Equal(got, want) {
		t.Errorf("told: %v, wanted %v", got, want)
	}
	if after := ruleset(t); after != before {
		t.Errorf("the ruleset was changed:\n%s", after)
	}
}

// Somebody who holds as many connections open as there may be, and asks nothing, shuts nobody out.
func TestHeldConnections(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	for range 2 * maxConns {
		c, err := net.DialTimeout("tcp", platformtest.DNS4+":53", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 10 {
		m, err := ask(platformtest.DNS4, "docs.example.com", "A", "tcp")
		if err != nil || strings.Join(said(m), " ") != platformtest.Web4 {
			t.Fatalf("%v %v", m, err)
		}
	}
}

// A flood of questions about one domain whose servers are silent leaves others their answers.
func TestSilentZone(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	silent := []byte("\x06silent\x07example")
	l.Lie(func(q []byte) []byte {
		if bytes.Contains(q, silent) {
			return nil
		}
		m := new(dns.Msg)
		if m.Unpack(q) != nil {
			return nil
		}
		a := new(dns.Msg)
		a.SetReply(m)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(platformtest.Web4)}}
		out, _ := a.Pack()
		return out
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() {
		c, err := net.Dial("udp", platformtest.DNS4+":53")
		if err != nil {
			return
		}
		defer c.Close()
		for i := 0; ctx.Err() == nil; i++ {
			m := new(dns.Msg)
			m.SetQuestion(fmt.Sprintf("n%d.silent.example.", i), dns.TypeA)
			b, _ := m.Pack()
			_, _ = c.Write(b)
			if i%20 == 0 {
				time.Sleep(5 * time.Millisecond) // some thousands a second
			}
		}
	})
	time.Sleep(3 * time.Second)
	for i := range 20 {
		m, err := ask(platformtest.DNS4, fmt.Sprintf("n%d.other.example.net", i), "A", "udp")
		if err != nil || strings.Join(said(m), " ") != platformtest.Web4 {
			t.Errorf("%d: %v %v", i, m, err)
		}
	}
	cancel()
	all.Wait()
}

// Nor does somebody whose questions over TCP have no answer.
func TestHeldQuestions(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	l.load(blockList)
	if out, err := l.Outside.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; "+
		"add rule inet t in ip daddr "+platformtest.DNS4+" tcp dport 53 drop"); err != nil {
		t.Fatal(out, err)
	}
	m := new(dns.Msg)
	for i := range maxConns {
		m.SetQuestion(fmt.Sprintf("n%d.silent.example.", i), dns.TypeA)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.DialTimeout("tcp", platformtest.DNS4+":53", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	for range 5 {
		got, err := ask(platformtest.DNS6, "docs.example.com", "A", "tcp")
		if err != nil || strings.Join(said(got), " ") != platformtest.Web4 {
			t.Fatalf("%v %v", got, err)
		}
	}
}
