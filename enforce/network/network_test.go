package network

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// can is a machine on which both lists are enforced.
func can() *fact.Machine {
	return &fact.Machine{Network: fact.Is(fact.Network{Server: "policy.example.com", Proxy: "proxy.example.com"}),
		Capable: map[string]fact.Capability{"network": {Level: fact.Enforced}}}
}

func decode(t testing.TB, text string) *policy.Document {
	t.Helper()
	d, err := policy.Decode([]byte(text), policy.Options{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTables explains the subjects of each table in testdata: "policy" is a document, and each line of "want" is
// "subject: answer; reason | nearest".
func TestTables(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range txtar.Parse(b).Files {
				parts[f.Name] = string(f.Data)
			}
			m := can()
			if parts["machine"] != "" {
				if err := json.Unmarshal([]byte(parts["machine"]), m); err != nil {
					t.Fatal(err)
				}
			}
			r := Compile(with(t, parts["policy"], parts), m)
			var got strings.Builder
			for line := range strings.Lines(parts["want"]) {
				subject, _, _ := strings.Cut(line, ": ")
				s, err := ParseSubject(strings.TrimSpace(subject))
				if err != nil {
					t.Fatal(err)
				}
				a := r.ask(&s)
				fmt.Fprintf(&got, "%s: %s; %s", subject, a.Answer, a.Reason)
				if a.Nearest != "" {
					got.WriteString(" | " + a.Nearest)
				}
				got.WriteString("\n")
			}
			if got.String() != parts["want"] {
				t.Errorf("got\n%swant\n%s", got.String(), parts["want"])
			}
		})
	}
}

// What the table answers is what a look at every entry answers: the longest entry of both lists wins, a tie blocks.
func TestLongestWins(t *testing.T) {
	labels := rapid.SampledFrom([]string{"a", "b", "c", "aa", "x-y", "_s"})
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(labels, 1, 5).Draw(t, "labels"), ".")
	})
	entry := rapid.Custom(func(t *rapid.T) policy.Name {
		return policy.Name{Host: name.Draw(t, "host"), Scope: rapid.SampledFrom([]policy.Scope{policy.Subtree, policy.Below,
			policy.Exact}).Draw(t, "scope")}
	})
	rapid.Check(t, func(t *rapid.T) {
		allowed, blocked := rapid.SliceOfN(entry, 0, 12).Draw(t, "allowed"), rapid.SliceOfN(entry, 0, 12).Draw(t, "blocked")
		b := &builder{}
		for _, n := range allowed {
			b.add(n, true)
		}
		for _, n := range blocked {
			b.add(n, false)
		}
		table := b.table()
		for range 20 {
			host := name.Draw(t, "asked")
			for of, lists := range map[uint64][2][]policy.Name{blocks | allows: {allowed, blocked}, blocks: {nil, blocked},
				allows: {allowed, nil}} {
				best := [2]int{-1, -1}
				for k, list := range lists {
					for _, n := range list {
						if how, ok := n.Matches(host); ok {
							best[k] = max(best[k], how)
						}
					}
				}
				from, block, _ := table.match(host, of)
				if found := from >= 0; found != (max(best[0], best[1]) >= 0) || found && block != (best[1] >= best[0]) {
					t.Fatalf("%q: found %v, block %v; allowed %v (%d), blocked %v (%d)", host, found, block, lists[0], best[0],
						lists[1], best[1])
				}
			}
		}
	})
}

// The same of addresses.
func TestLongestNetwork(t *testing.T) {
	network := rapid.Custom(func(t *rapid.T) policy.Name {
		a := netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), byte(rapid.IntRange(0, 3).Draw(t, "c")), 0})
		bits := rapid.IntRange(6, 32).Draw(t, "bits")
		if rapid.Bool().Draw(t, "six") {
			b := [16]byte{0x20, 1, 0xd, 0xb8, byte(rapid.IntRange(0, 3).Draw(t, "e"))}
			a, bits = netip.AddrFrom16(b), rapid.IntRange(28, 128).Draw(t, "bits6")
		}
		p, _ := a.Prefix(bits)
		return policy.Name{Net: p}
	})
	rapid.Check(t, func(t *rapid.T) {
		allowed, blocked := rapid.SliceOfN(network, 0, 8).Draw(t, "allowed"), rapid.SliceOfN(network, 0, 8).Draw(t, "blocked")
		var all nets
		for _, n := range allowed {
			all.add(n, netAllow)
		}
		for _, n := range blocked {
			all.add(n, netBlock)
		}
		for range 10 {
			a := network.Draw(t, "asked").Net.Addr()
			best := [2]int{-1, -1}
			for k, list := range [][]policy.Name{allowed, blocked} {
				for _, n := range list {
					if n.Net.Contains(a) {
						best[k] = max(best[k], n.Net.Bits())
					}
				}
			}
			_, block, found := all.match(a, netAllow|netBlock)
			if found != (max(best[0], best[1]) >= 0) || found && block != (best[1] >= best[0]) {
				t.Fatalf("%s: found %v, block %v; %v %v", a, found, block, allowed, blocked)
			}
		}
	})
}

// While nothing supports the settings, nothing is refused, and the answer says so; other users are not shown what would be.
func TestUnsupported(t *testing.T) {
	r := Compile(decode(t, `{"name":"p","compliance":"enforce","policy_data":{"network":{"blocked_domains":["pastebin.com"]}}}`), nil)
	s, _ := ParseSubject("x.pastebin.com")
	if a := r.ask(&s); r.CanDeny() || a.Answer != "would deny" || !strings.Contains(a.Reason, fact.NotCarried) {
		t.Errorf("%v %+v", r.CanDeny(), a)
	}
	if a := r.Public().(*Rules).ask(&s); a.Answer != "allow" {
		t.Errorf("for others: %+v", a)
	}
}

// A verdict is given without allocating, whatever the length of the lists.
func TestNoAllocation(t *testing.T) {
	r := million(t, 10_000)
	s, a := Subject{Name: "www.not-in-any-list.example.org"}, Subject{Address: netip.MustParseAddr("192.0.2.1")}
	if n := testing.AllocsPerRun(100, func() { r.Judge(&s); r.Judge(&a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A million names take at most 12 bytes each.
func TestMemory(t *testing.T) {
	r := million(t, 1_000_000)
	l := r.lists.long[0].list
	if per := float64(l.bytes()) / float64(l.Len()); per > 12 || l.Len() != 1_000_000 || l.names.names != 1_000_000 {
		t.Errorf("%d names take %.1f bytes each", l.Len(), per)
	}
	for i := range 1000 {
		if s := (Subject{Name: fmt.Sprint("sub.", blockedName(i*997))}); r.Judge(&s).Allow {
			t.Fatalf("%s is allowed", s.Name)
		}
	}
}

func blockedName(i int) string { return fmt.Sprintf("ads%d.tracker-%d.example.net", i%7, i) }

// million is a policy with a list of so many blocked names.
func million(t testing.TB, n int) *Rules {
	var names []string
	for i := range n {
		names = append(names, blockedName(i))
	}
	r := Compile(with(t, `{"name":"p","policy_data":{"network":{"blocked_lists":[{"id":"ads","sha256":"@ads"}]}}}`,
		map[string]string{"list ads": text1(names)}), can())
	s := Subject{Name: blockedName(5)}
	if r.Judge(&s).Allow {
		t.Fatal("the list blocks nothing")
	}
	return r
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{"a.b", "[::1]:53", "1.2.3.4:80", "*.x", "=x", "xn--", "bücher.de:443", "::ffff:10.0.0.1", "."} {
		f.Add(s)
	}
	r := Compile(decode(f,
		`{"name":"p","policy_data":{"network":{"blocked_domains":["a.b","=x","*.x","10.0.0.0/8"],"allowed_domains":["b"]}}}`), can())
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSubject(text)
		if err != nil {
			return
		}
		if (s.Name == "") == !s.Address.IsValid() {
			t.Fatalf("%q: %+v", text, s)
		}
		a := r.ask(&s)
		again, err := ParseSubject(a.Subject)
		if err != nil || again != s {
			t.Fatalf("%q is shown as %q, which is %+v and not %+v (%v)", text, a.Subject, again, s, err)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	r := million(b, 1_000_000)
	rnd := rand.New(rand.NewPCG(1, 2))
	var in, out []Subject
	for range 4096 {
		in = append(in, Subject{Name: "www." + blockedName(rnd.IntN(1_000_000))})
		out = append(out, Subject{Name: fmt.Sprintf("www.site%d.example.org", rnd.IntN(1_000_000))})
	}
	for name, list := range map[string][]Subject{"blocked": in, "in-no-list": out} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				r.Judge(&list[i%len(list)])
			}
		})
	}
}

// BenchmarkReadList reads a list of a million names, verified: ns/op is for all.
func BenchmarkReadList(b *testing.B) {
	var names []string
	for i := range 1_000_000 {
		names = append(names, blockedName(i))
	}
	text := text1(names)
	u := use("ads", text, settingBlockedLists)
	for b.Loop() {
		if _, err := ReadList(strings.NewReader(text), u, policy.MaxListNames); err != nil {
			b.Fatal(err)
		}
	}
}

var (
	proposal = regexp.MustCompile(`(add|remove) ("(?:[^"\\]|\\.)*") (?:to|from) network\.(allowed|blocked)_domains`)
	takeOut  = regexp.MustCompile(`take "([^"]*)" out of list "([^"]*)"`)
)

// What is proposed reverses the answer: each proposal is carried out, and asked about again.
func TestNearestWorks(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b.a", "c.b.a", "=a", "=b.a", "*.a", "10.0.0.0/8", "10.0.2.2", "2001:db8::/32", "d"})
	hosts := rapid.SampledFrom([]string{"a", "b.a", "c.b.a", "=a", "=b.a", "*.a", "*.b.a", "d", "=d"})
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		lists, long := map[string][]string{}, map[string][]string{}
		for _, l := range []string{"allowed1", "allowed2", "blocked1", "blocked2"} {
			if rapid.IntRange(0, 3).Draw(t, "a long list") == 0 {
				long[l] = rapid.SliceOfNDistinct(hosts, 0, 4, rapid.ID[string]).Draw(t, l)
			}
		}
		for _, l := range []string{"allowed", "blocked"} {
			if rapid.Bool().Draw(t, l+" is there") {
				lists[l] = rapid.SliceOfNDistinct(names, 0, 5, rapid.ID[string]).Draw(t, l)
			}
		}
		modes := rapid.SampledFrom([]string{"enforce", "warn", "monitor"}).Draw(t, "mode")
		m := can()
		if rapid.Bool().Draw(t, "one list is not supported") {
			m.Capable["network.allowed_domains"] = fact.Capability{Level: fact.Unsupported}
			m.Capable["network.allowed_lists"] = m.Capable["network.allowed_domains"]
		}
		compile := func() *Rules {
			data := map[string]any{}
			for l, v := range lists {
				data[l+"_domains"] = v
			}
			texts, refs := map[string]string{}, map[string][]map[string]string{}
			for l, v := range long {
				texts["list "+l] = text1(v)
				if len(v) == 0 {
					texts["list "+l] = ""
				}
				kind := l[:len(l)-1] + "_lists"
				refs[kind] = append(refs[kind], map[string]string{"id": l, "sha256": "@" + l})
			}
			for kind, list := range refs {
				data[kind] = list
			}
			text, _ := json.Marshal(map[string]any{"name": "p", "compliance": modes, "policy_data": map[string]any{"network": data}})
			return Compile(with(outer, string(text), texts), m)
		}
		s, err := ParseSubject(rapid.SampledFrom([]string{"a", "b.a", "c.b.a", "x.c.b.a", "d", "e", "10.0.2.2", "10.9.9.9",
			"2001:db8::1"}).Draw(t, "asked"))
		if err != nil {
			t.Fatal(err)
		}
		was := compile().ask(&s)
		if was.Nearest == "" {
			return
		}
		if p := takeOut.FindStringSubmatch(was.Nearest); p != nil {
			long[p[2]] = slices.DeleteFunc(slices.Clone(long[p[2]]), func(x string) bool { return x == p[1] })
		}
		for _, p := range proposal.FindAllStringSubmatch(was.Nearest, -1) {
			e, err := strconv.Unquote(p[2])
			if err != nil {
				t.Fatal(err)
			}
			if p[1] == "add" {
				lists[p[3]] = append(slices.Clone(lists[p[3]]), e)
			} else {
				lists[p[3]] = slices.DeleteFunc(slices.Clone(lists[p[3]]), func(x string) bool { return x == e })
			}
		}
		if is := compile().ask(&s); is.Answer == was.Answer || was.Answer == "would deny" && is.Answer != "allow" {
			t.Fatalf("%s: %s; %s | %s; and then %s; %s", text(&s), was.Answer, was.Reason, was.Nearest, is.Answer, is.Reason)
		}
	})
}

// Others than root are told nothing of what is below enforce, and nothing false; a zone or an IPv6 form changes no answer.
func TestForOthers(t *testing.T) {
	d := decode(t, `{"name":"p","compliance":"monitor","policy_data":{"network":{"blocked_domains":["secret-rival.com"],
		"vpn":{"endpoints":["hidden-vpn.example.net"],"bootstrap_domains":["sso.example.net"]}}}}`)
	r := Compile(d, can()).Public()
	for _, name := range []string{"secret-rival.com", "hidden-vpn.example.net", "login.sso.example.net", "other.example.net"} {
		a, err := r.Explain(json.RawMessage(fmt.Sprintf(`{"name":%q}`, name)), nil)
		if err != nil || a.Answer != "allow" || a.Reason != "nothing in the policy is about it" || a.Nearest != "" {
			t.Errorf("%s: %+v %v", name, a, err)
		}
	}
	r = Compile(decode(t, `{"name":"p","policy_data":{"network":{"blocked_domains":["fe80::/10","1.2.3.4"]}}}`), can())
	for _, in := range []string{`{"address":"fe80::1%\u001b[31mX\nfoo"}`, `{"address":"::ffff:1.2.3.4"}`} {
		a, err := r.Explain(json.RawMessage(in), nil)
		if err != nil || a.Answer != "deny" || !strings.Contains(a.Reason, "blocks") ||
			strings.ContainsAny(a.Subject+a.Nearest, "\x1b\n%") {
			t.Errorf("%s: %+v %v", in, a, err)
		}
	}
	for _, s := range []string{"https://example.com/", "fe80::1%eth0", "1.2.3.4:0", "]1.2.3.4[", "a:0", "*.a", ""} {
		if got, err := ParseSubject(s); err == nil || !strings.Contains(err.Error(), "must be") {
			t.Errorf("%q: %+v %v", s, got, err)
		}
	}
}

// The facts of an event are a name or an address and nothing else: what another section judged is not taken for either.
func TestReplay(t *testing.T) {
	r := Compile(decode(t, `{"name":"p","policy_data":{"network":{"allowed_domains":["a.example"]}}}`), can())
	for facts, want := range map[string]string{`{"name":"x.a.example"}`: "allow", `{"name":"b.example"}`: "deny",
		`{"address":"192.0.2.1","port":443}`:          "deny",
		`{"path":"1-1","vendor":2385,"name":"stick"}`: "", `{"name":"Two Words"}`: "", `{"name":"A.example"}`: "",
		`{"name":"a","address":"192.0.2.1"}`: "",
		`{}`:                                 "", ``: "", `[]`: ""} {
		if a, ok := r.Replay(enforce.Facts(facts)); ok != (want != "") || a.Answer != want {
			t.Errorf("%s: %v %+v", facts, ok, a)
		}
	}
	// Each of the hosts that always pass is a name.
	if got := len(usual()); got != len(certificateHosts)+len(timeHosts) {
		t.Errorf("%d of %d", got, len(certificateHosts)+len(timeHosts))
	}
}
