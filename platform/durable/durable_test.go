package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The whole old file or the whole new one, with the right mode, and nothing beside it.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var steps []string
	for i, text := range []string{"old", strings.Repeat("new ", 10_000)} {
		before, _ := os.ReadFile(path)
		err := WriteAt(path, []byte(text), 0o600, func(step string) {
			steps = append(steps, step)
			got, _ := os.ReadFile(path)
			if want := map[string]string{"written": string(before), "renamed": text}[step]; string(got) != want {
				t.Errorf("%s: %d bytes, want %d", step, len(got), len(want))
			}
		})
		if err != nil {
			t.Fatal(i, err)
		}
	}
	if strings.Join(steps, " ") != "written renamed written renamed" {
		t.Errorf("%v", steps)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := Write(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if info, _ = os.Stat(path); info.Mode().Perm() != 0o644 || info.Size() != 0 {
		t.Errorf("%v %d", info.Mode(), info.Size())
	}
	if err := Swap(path, []byte("swapped"), 0o640); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "swapped" {
		t.Errorf("%q", b)
	}
	for _, f := range []func(string, []byte, os.FileMode) error{Write, Swap} {
		if err := f(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
			t.Error("a directory that is not there is no error")
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("left: %v", list)
	}
}

// Of many that create a file at once, one succeeds, and the others are told; nobody sees half of it.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	text := strings.Repeat("whole ", 10_000)
	var made, there atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			err := Create(path, 0o600, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, fs.ErrExist):
				there.Add(1)
			default:
				t.Error(err)
			}
			if b, _ := os.ReadFile(path); string(b) != text {
				t.Errorf("%d bytes of %d", len(b), len(text))
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || there.Load() != 19 {
		t.Errorf("%d made it, %d were told", made.Load(), there.Load())
	}
	other := filepath.Join(dir, "g")
	if err := Create(other, 0o600, func(io.Writer) error { return io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(other); err == nil {
		t.Error("half a file stands under its name")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("%v", info.Mode())
	}
	if err := Move(path, other); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 || list[0].Name() != "g" {
		t.Errorf("left: %v", list)
	}
}

// What interrupted writes left goes with the next write once it is old, and at once when the file is removed; nothing
// else does.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.json")
	put := func(name string, age time.Duration) {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(f, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put(".identity.json123", time.Hour)
	put(".identity.json456", 0)
	put(".identity.json.bak789", time.Hour)
	put(".identity.json12x", time.Hour)
	left := func() string {
		list, _ := os.ReadDir(dir)
		var names []string
		for _, e := range list {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	if err := Write(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := left(); got != ".identity.json.bak789 .identity.json12x .identity.json456 identity.json" {
		t.Error(got)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := left(); got != ".identity.json.bak789 .identity.json12x" {
		t.Error(got)
	}
	if err := Remove(path); err != nil {
		t.Errorf("twice: %v", err)
	}
}

// The sum is of the text without spaces, and equals that of earlier versions.
func TestSum(t *testing.T) {
	if a, b := Sum([]byte(`{"a":1}`)), Sum([]byte("{ \"a\": 1 }\n")); a != b ||
		a != "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862" {
		t.Errorf("%s %s", a, b)
	}
	if Sum([]byte(`{"a":1}`)) == Sum([]byte(`{"a":2}`)) || Sum([]byte(`{"a"`)) != "" {
		t.Error("another text has the same sum, or no text has one")
	}
}
