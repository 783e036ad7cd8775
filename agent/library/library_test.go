package library

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/checkin"
)

// text is a list in memory.
type text string

func (t text) Len() int { return strings.Count(string(t), "\n") }

// read reads a list as a section does: whole, and verified.
func read(in io.Reader, u policy.ListUse, most int) (policy.List, error) {
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != u.SHA256 {
		return nil, errors.New("its digest is another")
	}
	if t := text(b); t.Len() <= most {
		return t, nil
	}
	return nil, policy.ErrTooMany
}

func use(id, setting, content string) policy.ListUse {
	sum := sha256.Sum256([]byte(content))
	return policy.ListUse{ListRef: policy.ListRef{ID: id, SHA256: hex.EncodeToString(sum[:])}, Setting: enforce.Setting("network." + setting + "_lists")}
}

func pack(t *testing.T, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write([]byte(content))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var tag = `"` + strings.Repeat("a", 64) + `"`

// sends is a server that sends some bytes from where a part ends, and then fails with err.
func sends(all []byte, most int, err error, asked *checkin.Part) func(context.Context, string, checkin.Part,
	func(checkin.Part) (io.Writer, error)) error {
	return func(_ context.Context, _ string, have checkin.Part, put func(checkin.Part) (io.Writer, error)) error {
		if asked != nil {
			*asked = have
		}
		if have.ETag != tag {
			have = checkin.Part{ETag: tag}
		}
		w, e := put(have)
		if e != nil {
			return e
		}
		for _, b := range all[have.Size:min(most, len(all))] { // in the smallest pieces
			if _, e := w.Write([]byte{b}); e != nil {
				return e
			}
		}
		return err
	}
}

func document(t *testing.T, uses ...policy.ListUse) *policy.Document {
	t.Helper()
	by := map[string][]string{}
	for _, u := range uses {
		_, name, _ := strings.Cut(string(u.Setting), ".")
		by[name] = append(by[name], fmt.Sprintf(`{"id":%q,"sha256":%q}`, u.ID, u.SHA256))
	}
	var parts []string
	for name, list := range by {
		parts = append(parts, fmt.Sprintf("%q:[%s]", name, strings.Join(list, ",")))
	}
	d, err := policy.Decode([]byte(`{"name":"p","policy_data":{"network":{`+strings.Join(parts, ",")+`}}}`), policy.Options{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func why(policy.ListRef) string { return "it is not here yet" }

// A list that stops on the way goes on where it stopped, also in another process; one that is not what it should be is not kept.
func TestFetch(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("a.example\n", 1000) + "b.example\n"
	u, all := use("list-1", "blocked", content), pack(t, content)
	cut := errors.New("cut")
	var asked checkin.Part
	for i, x := range []struct {
		most int
		err  error
		size int64 // that it had
	}{{10, cut, 0}, {20, cut, 10}, {20, cut, 20}, {len(all), nil, 20}} {
		l := &Library{Dir: dir, Read: read} // each time another process
		err := l.Fetch(context.Background(), u, sends(all, x.most, x.err, &asked))
		if !errors.Is(err, x.err) || asked.Size != x.size {
			t.Fatalf("%d: %v, it had %d", i, err, asked.Size)
		}
	}
	l := &Library{Dir: dir, Read: read}
	if d, missing := l.Attach(document(t, u), []policy.ListUse{u}, why); len(missing) != 0 || d.Content(u).List == nil || l.Names() != 1001 {
		t.Errorf("%v %+v", missing, d.Content(u))
	}
	if got := l.Line(u.ListRef, "b.example"); got != 1001 {
		t.Errorf("line %d", got)
	}
	other := use("list-2", "blocked", "x.example\n")
	if err := l.Fetch(context.Background(), other, sends(all, len(all), nil, nil)); err == nil {
		t.Error("another text is taken")
	}
	if n, _ := l.Here(other.ListRef); n != 0 {
		t.Errorf("%d bytes of it are kept", n)
	}
	// Without room it is given up, and what it took is given back.
	defer func(n int64) { reserve = n }(reserve)
	reserve = 1 << 62
	third := use("list-3", "blocked", content+"c.example\n")
	if err := l.Fetch(context.Background(), third, sends(pack(t, content+"c.example\n"), 1<<20, nil, nil)); !errors.Is(err, errNoRoom) {
		t.Errorf("without room: %v", err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "list-3", "*")); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

// put stores a list as an earlier run has left it.
func put(t *testing.T, l *Library, u policy.ListUse, content string) {
	t.Helper()
	all := pack(t, content)
	if err := l.Fetch(context.Background(), u, sends(all, len(all), nil, nil)); err != nil {
		t.Fatal(err)
	}
	l.Attach(document(t, u), []policy.ListUse{u}, why)
}

// While a version is not here, the one that was in force for the same setting is used; what was blocked is never allowed for it.
// The same text under another id is the same list. Too many names together are not read.
func TestAttach(t *testing.T) {
	l := &Library{Dir: t.TempDir(), Read: read}
	old, next := use("list-1", "blocked", "old.example\n"), use("list-1", "blocked", "next.example\n")
	put(t, l, old, "old.example\n")
	again := &Library{Dir: l.Dir, Read: read}
	d, missing := again.Attach(document(t, next), []policy.ListUse{next}, why)
	if c := d.Content(next); len(missing) != 1 || c.List == nil || c.SHA256 != old.SHA256 || c.Why != "it is not here yet" {
		t.Errorf("%v %+v", missing, c)
	}
	allowed := use("list-1", "allowed", "next.example\n")
	if d, _ := again.Attach(document(t, allowed), []policy.ListUse{allowed}, why); d.Content(allowed).List != nil {
		t.Errorf("what was blocked is allowed: %+v", d.Content(allowed))
	}
	renamed := use("list-9", "blocked", "old.example\n")
	if d, missing := again.Attach(document(t, renamed), []policy.ListUse{renamed}, why); len(missing) != 0 || d.Content(renamed).SHA256 != old.SHA256 ||
		again.Line(renamed.ListRef, "old.example") != 1 {
		t.Errorf("%v %+v", missing, d.Content(renamed))
	}
	newer := use("list-9", "blocked", "newer.example\n")
	for name, l := range map[string]*Library{"at once": again, "after a restart": {Dir: again.Dir, Read: read}} {
		if d, missing := l.Attach(document(t, newer), []policy.ListUse{newer}, why); len(missing) != 1 || d.Content(newer).SHA256 != old.SHA256 {
			t.Errorf("%s: %v %+v", name, missing, d.Content(newer))
		}
	}
	again.Attach(document(t, renamed), []policy.ListUse{renamed}, why)
	again.Keep([]policy.ListUse{renamed})
	if _, whole := again.Here(old.ListRef); !whole {
		t.Error("its file is gone")
	}
	again.Attach(document(t), nil, why)
	again.Keep(nil)
	if list, _ := os.ReadDir(l.Dir); len(list) != 0 {
		t.Errorf("left: %v", list)
	}

	few := &Library{Dir: t.TempDir(), Read: func(in io.Reader, u policy.ListUse, most int) (policy.List, error) {
		return read(in, u, most-(policy.MaxListNames-3)) // as if three names were all that is possible
	}}
	a, b := use("list-a", "blocked", "a\nb\n"), use("list-b", "blocked", "c\nd\n")
	put(t, few, a, "a\nb\n")
	put(t, few, b, "c\nd\n")
	few = &Library{Dir: few.Dir, Read: few.Read}
	d, missing = few.Attach(document(t, a, b), []policy.ListUse{a, b}, why)
	if d.Content(a).List == nil || d.Content(b).List != nil || !strings.Contains(d.Content(b).Why, "together") || len(missing) != 0 {
		t.Errorf("%v %+v %+v", missing, d.Content(a), d.Content(b))
	}
	if _, whole := few.Here(b.ListRef); !whole {
		t.Error("the file of the one too many is gone")
	}
}
