//go:build unix

package quarantine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/warderd/warder/platform"
)

// keptData puts a file with sensitive data into a store.
func keptData(t *testing.T, s *Store, path, contents string) (id string, done func(), err error) {
	t.Helper()
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, _, done, err = s.keepData(t.Context(), f, func() platform.Kept { return platform.Kept{Path: path, Setting: "dlp.patterns"} }, nil)
	return id, done, err
}

// Files with sensitive data go after their days, whatever the clock says; others stay.
func TestExpire(t *testing.T) {
	s := store(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	other := kept(t, s, "large", "too large")
	id, _, err := keptData(t, s, filepath.Join(t.TempDir(), "card"), "4111")
	if err != nil {
		t.Fatal(err)
	}
	if x, err := s.Find(id); err != nil || !x.Data || x.Day != 1 {
		t.Errorf("%+v %v", x, err)
	}
	for i, step := range []time.Duration{0, time.Hour, 24 * time.Hour, 20 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour, 19 * time.Hour} {
		now = now.Add(step)
		if gone, err := s.Expire(4); gone != 0 || err != nil {
			t.Errorf("step %d: %d %v", i, gone, err)
		}
	}
	now = now.Add(2 * time.Hour) // the fifth day: it was taken on the first
	if gone, err := s.Expire(4); gone != 1 || err != nil {
		t.Errorf("%d %v", gone, err)
	}
	if _, err := s.Find(id); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	if _, err := s.Find(other.ID); err != nil {
		t.Error(err)
	}
	// A count that was lost begins anew: then nothing is too old.
	id, _, err = keptData(t, s, filepath.Join(t.TempDir(), "card"), "4111")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, daysName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if gone, err := s.Expire(1); gone != 0 || err != nil {
		t.Errorf("%d %v", gone, err)
	}
	if _, err := s.Find(id); err != nil {
		t.Error(err)
	}
}

// The same file from the same place is kept once, and for as long as the newest of it: also if its name was being removed.
func TestTidy(t *testing.T) {
	s := store(t)
	now := time.Now()
	s.now = func() time.Time { now = now.Add(30 * time.Hour); return now }
	path := filepath.Join(t.TempDir(), "card")
	first, _, err := keptData(t, s, path, "4111")
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := keptData(t, s, path, "5500")
	if err != nil {
		t.Fatal(err)
	}
	again, done, err := keptData(t, s, path, "4111")
	if err != nil || again == first {
		t.Fatal(again, err)
	}
	done()
	if _, err := s.Find(first); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	aside, _, err := keptData(t, s, filepath.Join(filepath.Dir(path), asideName+"X"), "5500")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.tidy(); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(aside); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	x, err := s.Find(again)
	if _, err2 := s.Find(other); err != nil || err2 != nil || x.Day <= 1 {
		t.Errorf("%v %v %+v", err, err2, x)
	}
	if _, _, err := keptData(t, Open(filepath.Join(t.TempDir(), "small"), Bounds{Bytes: 2, Items: 5}), path, "5500"); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}
