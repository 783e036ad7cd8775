//go:build unix

package quarantine

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/platform"
)

// kept puts a file with some contents into a store.
func kept(t *testing.T, s *Store, name, contents string) Item {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(contents), 0o640); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, drop, err := s.keep(t.Context(), f, func() platform.Kept {
		return platform.Kept{Path: path, Place: "card mmcblk0", Setting: "storage.max_file_size_mb", Reason: "too large"}
	}, nil)
	if err != nil || drop == nil {
		t.Fatal(err)
	}
	x, err := s.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func store(t *testing.T) *Store {
	t.Helper()
	return Open(filepath.Join(t.TempDir(), "quarantine"), Bounds{Bytes: 1 << 20, Items: 5})
}

// What is kept comes back whole, with its owner, permissions and time, and is gone from the store.
func TestRelease(t *testing.T) {
	s := store(t)
	text := strings.Repeat("what somebody wrote", 1<<13)
	x := kept(t, s, "film.mp4", text)
	if st, err := os.Stat(s.dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the store: %v %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(s.dir, x.ID, fileName)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", st, err)
	}
	to := t.TempDir()
	if _, err := s.Release(t.Context(), x.ID, ""); err == nil {
		t.Error("released to nowhere")
	}
	if err := os.WriteFile(filepath.Join(to, "there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(t.Context(), x.ID, filepath.Join(to, "there")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	if err := os.Symlink(to, filepath.Join(to, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(t.Context(), x.ID, filepath.Join(to, "link", "new")); err == nil || !strings.Contains(err.Error(), "link is a link") {
		t.Errorf("through a link: %v", err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(to, "film.mp4")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(t.Context(), x.ID, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a link: %v", err)
	}
	if err := os.Remove(filepath.Join(to, "film.mp4")); err != nil {
		t.Fatal(err)
	}
	at, err := s.Release(t.Context(), x.ID, to)
	if err != nil || at != filepath.Join(to, "film.mp4") {
		t.Fatalf("%s %v", at, err)
	}
	b, _ := os.ReadFile(at)
	st, _ := os.Stat(at)
	if string(b) != text || st.Mode().Perm() != 0o640 || st.ModTime().Sub(x.Modified).Abs() > time.Millisecond {
		t.Errorf("%d bytes, %v, %v (was %v)", len(b), st.Mode(), st.ModTime(), x.Modified)
	}
	if list, damaged, err := s.List(); len(list)+len(damaged) != 0 || err != nil {
		t.Errorf("%v %v %v", list, damaged, err)
	}
	if _, err := s.Find(x.ID); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
}

// Whatever is wrong with a copy, it is not released as if it were the file; and nothing is removed.
func TestDamaged(t *testing.T) {
	s := store(t)
	x, y := kept(t, s, "a", "aaaa"), kept(t, s, "b", "bbbb")
	if err := os.WriteFile(filepath.Join(s.dir, x.ID, fileName), []byte("aaab"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "a")
	if _, err := s.Release(t.Context(), x.ID, to); err == nil || !strings.Contains(err.Error(), "is not what it was") {
		t.Error(err)
	}
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was left at the target")
	}
	if err := os.WriteFile(filepath.Join(s.dir, y.ID, recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, damaged, err := s.List()
	if len(list) != 1 || len(damaged) != 1 || damaged[0].ID != y.ID || err != nil {
		t.Errorf("%v %v %v", list, damaged, err)
	}
	for _, id := range []string{"../../etc", "", ".", "aaaaaaaaaaaa/", "AAAAAAAAAAAAA", x.ID + "x"} {
		if err := s.Purge(id); !errors.Is(err, ErrAbsent) {
			t.Errorf("purge %q: %v", id, err)
		}
	}
	if err := errors.Join(s.Purge(x.ID), s.Purge(y.ID)); err != nil {
		t.Error(err)
	}
}

// The bounds hold, and nothing is removed to make room.
func TestRoom(t *testing.T) {
	s := store(t)
	dir := t.TempDir()
	put := func(name string, size int) (Item, error) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte(name[:1]), size), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return s.Keep(t.Context(), f, func(x *Item) error { x.Path = path; return nil }, nil)
	}
	if _, err := put("a", 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := put("b", 1<<20); !errors.Is(err, ErrFull) {
		t.Errorf("too large: %v", err)
	}
	for _, name := range []string{"c", "d", "e", "f"} {
		if _, err := put(name, 0); err != nil {
			t.Error(err)
		}
	}
	if _, err := put("g", 1); !errors.Is(err, ErrFull) {
		t.Errorf("too many: %v", err)
	}
	if list, damaged, _ := s.List(); len(list) != 5 || len(damaged) != 0 {
		t.Errorf("%v %v", list, damaged)
	}
	s.most.Items, s.most.Free = 10, 1<<60
	if _, err := put("h", 1); !errors.Is(err, ErrFull) {
		t.Errorf("the disk would be full: %v", err)
	}
	if names, _ := filepath.Glob(filepath.Join(s.dir, newPrefix+"*")); len(names) > 0 {
		t.Error(names)
	}
}

// Who is interrupted leaves nothing that counts, and what is left goes.
func TestInterrupted(t *testing.T) {
	s := store(t)
	f, err := os.CreateTemp(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keep(t.Context(), f, nothing, func() bool { return false }); !errors.Is(err, ErrDisturbed) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Keep(ctx, f, nothing, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, name := range []string{newPrefix + "aaaaaaaaaaaaa", oldPrefix + "aaaaaaaaaaaaa"} {
		if err := os.MkdirAll(filepath.Join(s.dir, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if list, damaged, err := s.List(); len(list)+len(damaged) != 0 || err != nil {
		t.Errorf("%v %v %v", list, damaged, err)
	}
	s.Sweep()
	if list, err := os.ReadDir(s.dir); len(list) != 0 || err != nil {
		t.Errorf("%v %v", list, err)
	}
	if _, _, err := Open(filepath.Join(t.TempDir(), "never"), Default).List(); err != nil {
		t.Error(err)
	}
}

func nothing(*Item) error { return nil }

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"id":"aaaaaaaaaaaaa","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}`))
	f.Add([]byte(`{"id":"aaaaaaaaaaaaa","size":-1,"taken":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := parse("aaaaaaaaaaaaa", b); err == nil && (x.Size < 0 || len(x.SHA256) != 64 || x.ID != "aaaaaaaaaaaaa") {
			t.Errorf("%+v", x)
		}
	})
}
