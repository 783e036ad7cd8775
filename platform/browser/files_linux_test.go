package browser

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// machine is a root directory with some of the browsers installed.
func machine(t *testing.T, ids ...string) (*Files, *platformtest.Gate) {
	t.Helper()
	root, g := t.TempDir(), &platformtest.Gate{}
	for i := range browsers {
		if slices.Contains(ids, browsers[i].id) {
			put(t, filepath.Join(root, browsers[i].programs[0]), "")
		}
	}
	return newFiles(root, g.Pass), g
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, f *Files, id, value string) error {
	t.Helper()
	to := enforce.Reading{State: enforce.Present, Value: enforce.Value(value)}
	if value == "" {
		to = enforce.Reading{State: enforce.Absent}
	}
	k := enforce.Key{Kind: kind, ID: id}
	return f.Apply(t.Context(), []enforce.Change{{Key: k, To: to, Mode: enforce.Enforce, Phase: enforce.Close}})[k]
}

func TestConformance(t *testing.T) {
	for _, id := range []string{"chrome", "firefox"} {
		t.Run(id, func(t *testing.T) {
			platformtest.Conformance(t, func(t *testing.T) platformtest.Subject {
				f, g := machine(t, id)
				if err := set(t, f, id, fact.BrowserPolicy(true, false)); err != nil {
					t.Fatal(err)
				}
				g.Asked = 0
				var b *browser
				for i := range browsers {
					if browsers[i].id == id {
						b = &browsers[i]
					}
				}
				return platformtest.Subject{Backend: f, Key: enforce.Key{Kind: kind, ID: id}, Other: enforce.Value(fact.BrowserPolicy(true, true)), Gate: g,
					Elsewhere: func(t *testing.T, v enforce.Value) {
						text, ok := b.contents(string(v))
						if !ok {
							t.Fatalf("%q", v)
						}
						put(t, f.at(b.file), string(text))
					}}
			})
		})
	}
}

// All of it is gone afterwards, and what was there before stays.
func TestLeavesNothing(t *testing.T) {
	f, _ := machine(t, "chromium", "chrome", "edge", "brave", "chromium-snap", "firefox")
	put(t, f.at("/etc/chromium/policies/managed/theirs.json"), "{}")
	tree := func() (out []string) {
		_ = filepath.WalkDir(f.root, func(path string, _ fs.DirEntry, _ error) error { out = append(out, path); return nil })
		return out
	}
	before := tree()
	for i := range browsers {
		b := &browsers[i]
		if err := set(t, f, b.id, fact.BrowserPolicy(true, true)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(f.at(b.file))
		if err != nil || !json.Valid(text) || !strings.Contains(string(text), `"PrintingEnabled": false`) {
			t.Errorf("%s: %s %v", b.id, text, err)
		}
	}
	m := fact.Machine{}
	if err := f.Observe(t.Context(), &m); err != nil || len(m.Browsers.V) != len(browsers) {
		t.Errorf("%+v %v", m.Browsers, err)
	}
	for i := range browsers {
		if err := set(t, f, browsers[i].id, ""); err != nil {
			t.Error(err)
		}
	}
	after := tree()
	if _, err := os.Stat(f.root); err != nil || !slices.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
}

// Firefox reads one file: where it is somebody else's, or would hide theirs, it is let be.
func TestTaken(t *testing.T) {
	for _, theirs := range []string{"/etc/firefox/policies/policies.json", "/usr/lib/firefox/distribution/policies.json"} {
		f, _ := machine(t, "firefox")
		put(t, f.at(theirs), `{"policies":{}}`)
		m := fact.Machine{}
		if err := f.Observe(t.Context(), &m); err != nil || len(m.Browsers.V) != 1 || !m.Browsers.V[0].Taken {
			t.Errorf("%s: %+v", theirs, m.Browsers)
		}
	}
	f, _ := machine(t, "firefox")
	put(t, f.at("/etc/firefox/policies/policies.json"), `{"policies":{}}`)
	if list, err := f.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("what is somebody else's is listed: %v %v", list, err)
	}
	if err := set(t, f, "firefox", fact.BrowserPolicy(true, false)); err == nil {
		t.Error("what is somebody else's is overwritten")
	}
	if err := set(t, f, "firefox", ""); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(f.at("/etc/firefox/policies/policies.json")); string(b) != `{"policies":{}}` {
		t.Errorf("it is %q now", b)
	}
	// A link is nobody's file of ours.
	f, _ = machine(t, "chrome")
	put(t, f.at("/etc/passwd"), "root")
	if err := os.MkdirAll(f.at("/etc/opt/chrome/policies/managed"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(f.at("/etc/passwd"), f.at("/etc/opt/chrome/policies/managed/warder.json")); err != nil {
		t.Fatal(err)
	}
	if err := set(t, f, "chrome", fact.BrowserPolicy(true, false)); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(f.at("/etc/passwd")); string(b) != "root" {
		t.Errorf("through a link: %q", b)
	}
}

// What others do to our files is told; what we do is not.
func TestWatch(t *testing.T) {
	f, _ := machine(t, "chrome")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan platform.Touch, 100)
	done := make(chan error, 1)
	go func() { done <- f.Watch(ctx, func(x platform.Touch) { told <- x }) }()
	for _, v := range []string{fact.BrowserPolicy(true, false), fact.BrowserPolicy(true, true)} {
		if err := set(t, f, "chrome", v); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
	}
	if len(told) > 0 {
		t.Errorf("its own writes are told: %+v", <-told)
	}
	for _, break_ := range []func(string) error{os.Remove, func(p string) error { return os.WriteFile(p, []byte("{}"), 0o644) }} {
		if err := break_(f.at("/etc/opt/chrome/policies/managed/warder.json")); err != nil {
			t.Fatal(err)
		}
		select {
		case x := <-told:
			if x.Key.ID != "chrome" {
				t.Errorf("%+v", x)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it is not told")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzValue(f *testing.F) {
	f.Add(0, []byte("{}"))
	for i := range browsers {
		b, _ := browsers[i].contents(fact.BrowserPolicy(true, true))
		f.Add(i, b)
	}
	f.Fuzz(func(t *testing.T, i int, text []byte) {
		b := &browsers[uint(i)%uint(len(browsers))]
		if v, ok := b.value(text); ok {
			if want, _ := b.contents(v); string(want) != string(text) {
				t.Errorf("%q is taken for ours", text)
			}
		}
	})
}
