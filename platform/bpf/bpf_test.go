package bpf

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/enforce/fact"
)

// The committed objects are those of the committed sources.
func TestSums(t *testing.T) {
	b, err := os.ReadFile("objects/sums")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for l := range strings.Lines(string(b)) {
		sum, file, _ := strings.Cut(strings.TrimSpace(l), "  ")
		text, err := os.ReadFile(file)
		if got := fmt.Sprintf("%x", sha256.Sum256(text)); err != nil || got != sum {
			t.Errorf("%s has changed since the objects were made: run make generate (%v)", file, err)
		}
		seen[file] = true
	}
	files, _ := filepath.Glob("c/*.[ch]")
	objects, _ := filepath.Glob("objects/*.o")
	for _, f := range append(files, objects...) {
		if !seen[f] {
			t.Errorf("%s is in no list: run make generate", f)
		}
	}
}

// The compiler makes the same objects of them.
func TestObjects(t *testing.T) {
	clang, err := exec.LookPath("clang-14")
	if err != nil {
		reason := "clang-14 is not installed"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	for _, s := range Sets {
		out := filepath.Join(t.TempDir(), s.Name+".o")
		script := exec.Command("./generate.sh", out, "c/"+s.Name+".c")
		script.Env = append(os.Environ(), "CLANG="+clang)
		if b, err := script.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, s.Object) {
			t.Errorf("c/%s.c compiles to another object than the embedded one (%v)", s.Name, err)
		}
	}
}

// Each set has the programs that it says, of the types that their hooks take.
func TestSets(t *testing.T) {
	for _, s := range Sets {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(s.Object))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, p := range s.Programs {
			x := spec.Programs[p.Name]
			if n++; p.Else != "" {
				n++
				if o := spec.Programs[p.Else]; o == nil || x == nil || o.AttachTo != p.Hook || o.AttachType != x.AttachType {
					t.Errorf("%s has no other program %s for the same hook", s.Name, p.Else)
				}
			}
			switch {
			case x == nil:
				t.Errorf("%s has no program %s", s.Name, p.Name)
			case p.Hook == Cgroup && x.Type != ebpf.CGroupDevice, p.Hook != Cgroup && (x.Type != ebpf.Tracing || x.AttachTo != p.Hook):
				t.Errorf("%s is of type %s and for %q", p.Name, x.Type, x.AttachTo)
			}
		}
		if len(spec.Programs) != n {
			t.Errorf("%s has %d programs, not %d", s.Name, len(spec.Programs), n)
		}
	}
}

// Another object is another version of the programs: those that an earlier agent left are not taken for ones that somebody has
// changed (fact.MediaRefused, fact.FileSizeLimit, fact.ClientsRefused, fact.ToolsRefused).
func TestVersion(t *testing.T) {
	for _, x := range []struct {
		set   *Set
		value string
		n     int
		of    string
	}{
		{&Media, fact.MediaRefused, 3, "b3e31acf770b04431ebba3885ab86283b542443122db5291f1c2ee0a3de95ce6"},
		{&FileSize, fact.FileSizeLimit(1), 4, "af44573d1a48c51c043510ccf019d005fbb7b54b31e3890a8d479763ddfcb549"},
		{&CloudSync, fact.ClientsRefused(nil), 2, "fb53448501db488ea247ecd60a9ddd6ed24c45ed2aa4172e5c34a7e3a446dce5"},
		{&Screenshots, fact.ToolsRefused(nil), 1, "d0700967ffb549331cf3ce9db9b8b9e8df1b4df160d4cb274958542ed67d552c"},
	} {
		if got := fmt.Sprintf("%x", sha256.Sum256(x.set.Object)); got != x.of || !strings.HasSuffix(x.value, fmt.Sprintf("(programs %d)", x.n)) {
			t.Errorf("the programs of %s are others (%s): count their version up in enforce/fact, and note it here", x.set.Name, got)
		}
	}
}
