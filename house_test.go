package warder

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/platform"
)

const module = "github.com/warderd/warder/"

// bans are the house's rules on direct imports, each with its reason.
var bans = []struct {
	room, what string
	except     []string
	why        string
}{
	{"enforce", module + "platform", nil, "a decision that can do is a decision that cannot be asked about tomorrow"},
	{"enforce", module + "agent", nil, "decisions know nobody"},
	{"enforce", module + "sync", nil, "decisions know nobody"},
	{"enforce", "os", nil, "facts are arguments"},
	{"enforce", "os/exec", nil, "facts are arguments"},
	{"enforce", "net", nil, "facts are arguments; net/netip is a vocabulary"},
	{"enforce", "net/http", nil, "facts are arguments"},
	{"enforce", "database/sql", nil, "facts are arguments"},
	{"enforce", "golang.org/x/sys", nil, "a decision is the same on every system"},
	{"platform", module + "agent", nil, "a back end knows no policy and no ledger"},
	{"platform", module + "sync", nil, "a back end does not talk to servers"},
	{"platform", module + "enforce/", []string{module + "enforce/fact", module + "enforce/sensitive"},
		"a back end knows no policy; facts are nouns"},
	{"platform", module + "platform/", []string{module + "platform/paths", module + "platform/link", module + "platform/mountinfo", module + "platform/durable", module + "platform/owned", module + "platform/tick", module + "platform/uevent", module + "platform/bpf", module + "platform/fanotify", module + "platform/datacontrol",
		module + "platform/platformtest", module + "platform/scan", module + "platform/scan/match", module + "platform/scan/text"}, "what one back end needs of another, the agent wires as a function"},
	{"sync", module + "platform", []string{module + "platform/durable"},
		"the wire does not touch the machine; files that have to last are written in one way"},
	{"sync/dialect", "net", nil, "a document is what it says"},
	{"sync/dialect", "net/http", nil, "a document is what it says"},
	{"sync/dialect", "os", nil, "a document is what it says"},
	{"sync/dialect", module + "sync/server", nil, "the server knows dialects, and they know nobody"},
	{"sync", module + "agent", nil, "the wire does not know who speaks"},
	{"agent", module + "sync/server", nil, "the agent never links the server"},
	{"agent", module + "enforce/", []string{module + "enforce/all", module + "enforce/fact", module + "enforce/policy",
		module + "enforce/section", module + "enforce/secret"}, "a section is driven through its door"},
	{"sync", module + "enforce/", []string{module + "enforce/all", module + "enforce/fact", module + "enforce/policy",
		module + "enforce/section", module + "enforce/secret"}, "a section is driven through its door"},
	{"cmd/warder/", module + "sync/server", nil, "the agent never links the server"},
	{"cmd/warder-server/", module + "agent", nil, "the server never links the agent"},
	{"cmd/warder-server/", module + "platform", nil, "the server touches no machine"},
}

// TestImports pins the rules of ARCHITECTURE.md.
func TestImports(t *testing.T) {
	files := 0
	each(t, func(path string, imports []string) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "platform/platformtest/") {
			return
		}
		files++
		for _, imp := range imports {
			for _, b := range bans {
				room := strings.TrimSuffix(b.room, "/") + "/"
				if !strings.HasPrefix(path, room) || !(imp == b.what ||
					strings.HasPrefix(imp, strings.TrimSuffix(b.what, "/")+"/") && strings.HasPrefix(b.what, module) ||
					imp == "golang.org/x/sys/unix" && b.what == "golang.org/x/sys") {
					continue
				}
				allowed := false
				for _, e := range b.except {
					allowed = allowed || imp == e
				}
				if b.what == module+"enforce/" && imp == module+"enforce" {
					allowed = true
				}
				if b.what == module+"platform/" && imp == module+"platform" {
					allowed = true
				}
				if !allowed {
					t.Errorf("%s imports %s: %s", path, imp, b.why)
				}
			}
		}
	})
	if files < 60 {
		t.Fatalf("only %d files were looked at", files)
	}
}

// What reads documents is in a program of its own: nothing that the agent links has an engine or a parser of them, and only that
// program links these. A fault in one costs a child.
func TestScannerIsApart(t *testing.T) {
	inner := []string{module + "platform/scan/match", module + "platform/scan/text", module + "platform/scan/child"}
	each(t, func(path string, imports []string) {
		if strings.HasPrefix(path, "platform/scan/") && path != "platform/scan/scan.go" || strings.HasPrefix(path, "cmd/warder-scan/") {
			return
		}
		for _, imp := range imports {
			if slices.Contains(inner, imp) || strings.HasPrefix(path, "platform/") && imp == module+"enforce/sensitive" {
				t.Errorf("%s imports %s: documents are read by warder-scan alone", path, imp)
			}
		}
	})
	apart := []string{"github.com/ebitengine/purego", "github.com/wasilibs/go-re2", "github.com/ledongthuc/pdf", "github.com/emersion/go-message"}
	for program, want := range map[string]bool{"./cmd/warder": false, "./cmd/warder-server": false, "./cmd/warder-scan": true} {
		list := exec.Command("go", "list", "-deps", program)
		list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range apart {
			if slices.Contains(strings.Fields(string(out)), dep) != want {
				t.Errorf("%s links %s: %v, want %v", program, dep, !want, want)
			}
		}
	}
}

// A capability is driven through its door: only the lists of capabilities and the command line import its package, and
// the lists are only lists.
func TestCapabilitiesAreLists(t *testing.T) {
	doors := map[string]bool{}
	each(t, func(path string, _ []string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(path, "platform/") && strings.Contains(string(b), "\nfunc Capability(") {
			doors[module+filepath.ToSlash(filepath.Dir(path))] = true
		}
	})
	if len(doors) < 3 {
		t.Fatalf("only %d capabilities were found", len(doors))
	}
	lists := 0
	each(t, func(path string, imports []string) {
		list := strings.HasPrefix(path, "agent/capabilities_")
		if path == "agent/clipboard_test.go" { // it is about both ends: the capability, and the part of a helper in the same package
			return
		}
		for _, imp := range imports {
			if doors[imp] && !list && !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "platform/") {
				t.Errorf("%s imports %s: what it needs of a capability goes through platform.Capability", path, imp)
			}
		}
		if !list {
			return
		}
		lists++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Decls) != 2 || len(f.Scope.Objects) != 1 || f.Scope.Lookup("capabilities") == nil {
			t.Errorf("%s is more than a list", path)
		}
	})
	if lists != len(platform.Systems) {
		t.Errorf("%d lists of capabilities", lists)
	}
}

// Each capability that the service asks for has its reason in ATTACKSURFACE.md, and each reason its capability.
func TestCapabilitiesHaveAReason(t *testing.T) {
	unit, err := os.ReadFile("platform/service/warder.service")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	list, _, _ = strings.Cut(list, "\n")
	asked := strings.Fields(list)
	if len(asked) < 5 {
		t.Fatalf("the unit asks for %q", list)
	}
	doc, err := os.ReadFile("ATTACKSURFACE.md")
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for line := range strings.SplitSeq(string(doc), "\n") {
		if cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |"); strings.HasPrefix(line, "| CAP_") {
			reasons = append(reasons, capabilityName.FindAllString(cell, -1)...)
		}
	}
	slices.Sort(asked)
	slices.Sort(reasons)
	if !slices.Equal(asked, reasons) {
		t.Errorf("the unit asks for %q\nATTACKSURFACE.md has reasons for %q", asked, reasons)
	}
}

var capabilityName = regexp.MustCompile(`CAP_[A-Z_]+`)

// agent.go is the loop and nothing else.
func TestTheLoopIsAlone(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "agent/agent.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range f.Decls {
		if x, ok := d.(*ast.FuncDecl); ok {
			names = append(names, x.Name.Name)
		}
	}
	if got := strings.Join(names, " "); got != "Run serve start ticked" {
		t.Errorf("agent/agent.go has %s", got)
	}
	for _, i := range f.Imports {
		if path := strings.Trim(i.Path.Value, `"`); strings.HasPrefix(path, module+"enforce") || strings.HasPrefix(path, module+"sync") {
			t.Errorf("agent/agent.go imports %s", path)
		}
	}
}

// Decisions take the time as an argument, and so do translations.
func TestNoClockInDecisions(t *testing.T) {
	each(t, func(path string, _ []string) {
		if !strings.HasPrefix(path, "enforce/") && !strings.HasPrefix(path, "sync/dialect/") || strings.HasSuffix(path, "_test.go") {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"time.Now(", "time.Since(", "time.Until("} {
			if strings.Contains(string(b), word) {
				t.Errorf("%s calls %s)", path, word)
			}
		}
	})
}

// Every package has exactly one package comment.
func TestPackageDocs(t *testing.T) {
	docs := map[string]int{}
	each(t, func(path string, _ []string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(path)
		docs[dir] += 0
		if f.Doc != nil {
			docs[dir]++
			if words := len(strings.Fields(f.Doc.Text())); words < 10 {
				t.Errorf("%s: the package comment has %d words", path, words)
			}
		}
	})
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("package %s has %d comments", dir, n)
		}
	}
}

func each(t *testing.T, f func(path string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || path == "var") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || !strings.Contains(path, "/") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range file.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		f(filepath.ToSlash(path), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
