package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// text1 is a list's text.
func text1(names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	return strings.Join(names, "\n") + "\n"
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func use(id, text string, s enforce.Setting) policy.ListUse {
	return policy.ListUse{ListRef: policy.ListRef{ID: id, SHA256: digest(text)}, Setting: s}
}

// with decodes a document in which "@ID" stands for the digest of a list, and gives it those lists: "list ID" is one's text.
// Of a list that is called "old ID", only that older text is here.
func with(t testing.TB, document string, lists map[string]string) *policy.Document {
	t.Helper()
	for name, text := range lists {
		if id, is := strings.CutPrefix(name, "list "); is {
			document = strings.ReplaceAll(document, `"@`+id+`"`, `"`+digest(text)+`"`)
		}
	}
	d := decode(t, document)
	have := map[policy.ListUse]policy.Content{}
	for _, u := range d.Lists() {
		text, ok := lists["list "+u.ID]
		old, older := lists["old "+u.ID]
		c := policy.Content{Why: "it is being fetched"}
		if older {
			ok, text = true, old
		}
		if ok {
			now := u
			now.SHA256 = digest(text)
			l, err := ReadList(strings.NewReader(text), now, policy.MaxListNames)
			if err != nil {
				t.Fatal(err)
			}
			c.List, c.SHA256 = l, now.SHA256
		}
		if c.SHA256 == u.SHA256 {
			c.Why = ""
		}
		have[u] = c
	}
	return d.WithLists(have)
}

// A list with any fault is not used at all, and the error names the line.
func TestReadList(t *testing.T) {
	good := text1([]string{"a.example", "*.b.example", "=c.example", "xn--bcher-kva.example", "_x._tcp.d.example", "e"})
	for text, want := range map[string]string{
		good: "", "": "", "\n": "line 1", "a.example": "line 1 has no end", "b\na\n": "line 2 is not after", "a\na\n": "line 2 is not after",
		"A\n": "line 1", "a.\n": "line 1", ".a\n": "line 1", "a..b\n": "line 1", "1.2.3.4\n": "line 1", "10.0.0.0/8\n": "line 1",
		"a b\n": "line 1", "a\r\n": "line 1", "bücher.example\n": "line 1", "=\n": "line 1", "*.\n": "line 1", "*.*.a\n": "line 1",
		"==a\n": "line 1", strings.Repeat("a", 64) + "\n": "line 1", strings.Repeat("a.", 127) + "a\n": "line 1",
		strings.Repeat("a", 70_000) + "\n": "line 1 is too long",
	} {
		l, err := ReadList(strings.NewReader(text), use("x", text, settingBlockedLists), policy.MaxListNames)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40q: %v, wanted %q", text, err, want)
		}
		if err == nil && l.Len() != strings.Count(text, "\n") {
			t.Errorf("%q has %d names", text, l.Len())
		}
	}
	if _, err := ReadList(strings.NewReader(good+"z\n"), use("x", good, settingBlockedLists), policy.MaxListNames); err == nil ||
		!strings.Contains(err.Error(), "digest") {
		t.Errorf("another text: %v", err)
	}
}

// What is missing is said, the older version stays in force, and an allowed list that is missing opens nothing.
func TestListMissing(t *testing.T) {
	const doc = `{"name":"p","policy_data":{"network":{"%s_lists":[{"id":"ads","sha256":"@ads"}]}}}`
	names := map[string]string{"list ads": "new.example\n"}
	for _, x := range []struct {
		kind, old, compliance, enforcement, reason, allowed, refused string
	}{
		{"blocked", "", "unknown", "failed", "it is being fetched", "new.example old.example", ""},
		{"blocked", "old.example\n", "unknown", "partial", "is in force meanwhile", "new.example", "old.example x.old.example"},
		{"allowed", "", "unknown", "failed", "it is being fetched", "policy.example.com", "new.example old.example"},
		{"allowed", "old.example\n", "unknown", "partial", "is in force meanwhile", "old.example", "new.example"},
	} {
		lists := map[string]string{}
		text := strings.ReplaceAll(fmt.Sprintf(doc, x.kind), "@ads", digest(names["list ads"]))
		if x.old != "" {
			lists["old ads"] = x.old
		}
		d := with(t, text, lists)
		c := section.Open([]section.Section{Section}, d, can())
		out := section.Decide([]section.Section{Section}, c)
		f := out.Findings[0]
		if string(f.Compliance) != x.compliance || string(f.Enforcement) != x.enforcement || !strings.Contains(f.Reason, x.reason) {
			t.Errorf("%s, old %q: %v %v %q", x.kind, x.old, f.Compliance, f.Enforcement, f.Reason)
		}
		for want, list := range map[string]string{section.Allow: x.allowed, section.Deny: x.refused} {
			for _, name := range strings.Fields(list) {
				s := Subject{Name: name}
				if a := c.Rules("network").(*Rules).ask(&s); a.Answer != want {
					t.Errorf("%s, old %q: %s: %s, %s", x.kind, x.old, name, a.Answer, a.Reason)
				}
			}
		}
	}
}

// Another version of a list is another state of the firewall, so that its arrival is carried out.
func TestListInReach(t *testing.T) {
	const doc = `{"name":"p","policy_data":{"network":{"blocked_lists":[{"id":"ads","sha256":"@ads"}]}}}`
	seen := map[string]bool{}
	for _, lists := range []map[string]string{{"list ads": "a.example\n"}, {"list ads": "b.example\n"},
		{"list ads": "b.example\n", "old ads": "a.example\n"}} {
		seen[Compile(with(t, doc, lists), can()).Reach(enforce.Enforce).String()] = true
	}
	if len(seen) != 2 {
		t.Errorf("%v", seen)
	}
	// DS questions about the zones above an allowed name have answers.
	r := Compile(with(t, `{"name":"p","policy_data":{"network":{"allowed_lists":[{"id":"ok","sha256":"@ok"}]}}}`,
		map[string]string{"list ok": "docs.example.com\nwww.corp.example.org\n"}), can())
	for name, want := range map[string]bool{"com": true, "example.com": true, "x.example.com": false, "sub.docs.example.org": false,
		"corp.example.org": true} {
		if got := r.Above(&Subject{Name: name}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if m := (&fact.Machine{}); Compile(with(t, doc, map[string]string{"list ads": "a.example\n"}), m).CanDeny() {
		t.Error("it is not supported there")
	}
}

// FuzzList: no text panics, and what is read answers for each of its lines.
func FuzzList(f *testing.F) {
	for _, s := range []string{"a.example\n*.b\n", "=a\n", "a\nb\n", "\n", "*.a\n=a\na\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ReadList(strings.NewReader(text), use("x", text, settingAllowedLists), policy.MaxListNames)
		if err != nil {
			return
		}
		for line := range strings.Lines(text) {
			n, err := policy.ParseName(strings.TrimSuffix(line, "\n"))
			if err != nil || n.String()+"\n" != line {
				t.Fatalf("%q is read, and is no name in its canonical form: %v", line, err)
			}
			host := n.Host
			if n.Scope == policy.Below {
				host = "x." + host
			}
			if from, _, _ := l.(*List).names.match(host, blocks); from < 0 && len(host) <= 253 {
				t.Fatalf("%q is not found", line)
			}
		}
	})
}

// endless yields the text of a list without holding it.
type endless struct {
	n, most int
	rest    []byte
}

func (g *endless) Read(b []byte) (n int, err error) {
	if len(g.rest) == 0 {
		if g.n >= g.most {
			return 0, io.EOF
		}
		for range min(4096, g.most-g.n) {
			g.rest = fmt.Appendf(g.rest, "n%07d.ex\n", g.n)
			g.n++
		}
	}
	n = copy(b, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// The longest list takes less than half of what the service may have, also while it is read beside the one before it.
func TestLongest(t *testing.T) {
	sum := sha256.New()
	if _, err := io.Copy(sum, &endless{most: policy.MaxListNames}); err != nil {
		t.Fatal(err)
	}
	u := policy.ListUse{ListRef: policy.ListRef{ID: "x", SHA256: hex.EncodeToString(sum.Sum(nil))}, Setting: settingBlockedLists}
	debug.SetGCPercent(50) // as the service has it, more or less
	defer debug.SetGCPercent(100)
	var kept []policy.List
	var peak uint64
	for range 2 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		l, err := ReadList(&endless{most: policy.MaxListNames}, u, policy.MaxListNames)
		if err != nil || l.Len() != policy.MaxListNames {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		peak = max(peak, after.HeapAlloc)
		kept = append(kept, l)
	}
	if per := float64(kept[0].(*List).bytes()) / policy.MaxListNames; per > 12 || peak > 128<<20 {
		t.Errorf("%.1f bytes a name; %d MiB with two of them", per, peak>>20)
	}
	runtime.KeepAlive(kept)
}
