package identity

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/platform/durable"
)

func state(n int64) State {
	return State{Device: &Device{DeviceID: "d", Server: "https://s", Key: []byte(`{"k":1}`), PolicyKeys: []byte(`[]`),
		EnrolledAt: time.Unix(n, 0).UTC()},
		Policy: &Assignment{JWS: "a.b.c", Keys: []byte(`[]`), Serial: n, Received: time.Unix(n, 0).UTC()}, Highest: n}
}

// save returns when both copies are written.
func save(s *Store, st State) error {
	defer s.Wait()
	return s.Save(st)
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, filepath.Join(dir, "run"))
	if st, err := s.Load(); err != nil || st.Device != nil {
		t.Fatalf("nothing there: %+v %v", st, err)
	}
	for n := range int64(3) {
		if err := s.Save(state(n)); err != nil { // one after the other, whether or not the second copy is written
			t.Fatal(err)
		}
	}
	got, err := New(dir, filepath.Join(dir, "run")).Load()
	s.Wait()
	if err != nil || !reflect.DeepEqual(got, state(2)) {
		t.Errorf("%+v %v", got, err)
	}
	one, _ := os.ReadFile(filepath.Join(dir, "identity.json"))
	if two, _ := os.ReadFile(filepath.Join(dir, "identity.json.bak")); string(one) != string(two) {
		t.Errorf("the copies differ:\n%s\n%s", one, two)
	}
	info, _ := os.Stat(filepath.Join(dir, "identity.json"))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := s.Erase(); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Load(); err != nil || st.Device != nil {
		t.Errorf("after erasing: %+v %v", st, err)
	}
}

// One damaged copy costs nothing, and is reported; two are a distinct error, and never "not enrolled".
func TestDamage(t *testing.T) {
	for name, hurt := range map[string]func(string) error{
		"truncated": func(p string) error { return os.Truncate(p, 50) },
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"noise":     func(p string) error { return os.WriteFile(p, []byte("\x00\x01noise"), 0o600) },
		"a changed byte": func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(p, []byte(strings.Replace(string(b), `"serial":2`, `"serial":9`, 1)), 0o600)
		},
		"large": func(p string) error { return os.Truncate(p, maxFile+10) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, which := range []string{"identity.json", "identity.json.bak"} {
				dir := t.TempDir()
				s := New(dir, dir+"/run")
				if err := save(s, state(2)); err != nil {
					t.Fatal(err)
				}
				if err := hurt(filepath.Join(dir, which)); err != nil {
					t.Fatal(err)
				}
				s = New(dir, dir+"/run")
				got, err := s.Load()
				if err != nil || got.Highest != 2 || got.Policy.Serial != 2 || s.Health() == "" {
					t.Errorf("%s: %+v %v, health %q", which, got, err, s.Health())
				}
				for _, f := range []string{"identity.json", "identity.json.bak"} {
					if err := hurt(filepath.Join(dir, f)); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := s.Load(); !errors.Is(err, ErrDamaged) {
					t.Errorf("both: %v", err)
				}
			}
		})
	}
}

// A power cut between the two copies leaves the newer one.
func TestNewerCopyWins(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, dir+"/run")
	_ = save(s, state(1))
	old, _ := os.ReadFile(filepath.Join(dir, "identity.json.bak"))
	_ = save(s, state(2))
	if err := os.WriteFile(filepath.Join(dir, "identity.json.bak"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load()
	if err != nil || got.Highest != 2 || !s.Uneven() {
		t.Errorf("%+v %v", got, err)
	}
	if err := save(s, got); err != nil || s.Uneven() {
		t.Errorf("still uneven (%v)", err)
	}
	s = New(dir, dir+"/run")
	if _, err := s.Load(); err != nil || s.Uneven() {
		t.Errorf("uneven after both were written (%v)", err)
	}
	if err := os.Remove(filepath.Join(dir, "identity.json.bak")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err != nil || !s.Uneven() {
		t.Errorf("one alone is not uneven (%v)", err)
	}
}

// A file that this version cannot read is not overwritten at its start.
func TestUnreadableIsLeft(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, dir+"/run")
	state := []byte(`{"highest_serial":"a text, in a version to come"}`)
	out, _ := json.Marshal(sealed{Turn: 3, Sum: durable.Sum(state), State: state})
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), out, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, ErrDamaged) || s.Uneven() {
		t.Errorf("%v, uneven %v", err, s.Uneven())
	}
}

func TestStandby(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	s := New(disk, filepath.Join(dir, "run"))
	_ = save(s, state(1))
	// A file with the directory's name: nobody, not even root, can write into it.
	if err := os.Rename(disk, disk+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := save(s, state(2)); err != nil || s.Health() == "" {
		t.Fatalf("%v, health %q", err, s.Health())
	}
	if got, err := New(disk, filepath.Join(dir, "run")).Load(); err != nil || got.Highest != 2 {
		t.Errorf("%+v %v", got, err)
	}
	if err := os.Remove(disk); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(disk+".away", disk); err != nil {
		t.Fatal(err)
	}
	if err := save(s, state(3)); err != nil || s.Health() != "" {
		t.Errorf("%v, health %q", err, s.Health())
	}
	if _, err := os.Stat(filepath.Join(dir, "run", "identity.json")); err == nil {
		t.Error("the standby is left behind")
	}
}

// A second copy that cannot be written is reported, and the next successful write is no news.
func TestSecondCopy(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, dir+"/run")
	if err := os.Mkdir(dir+"/identity.json.bak", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := save(s, state(1)); err != nil || !strings.Contains(s.Health(), "only one copy") {
		t.Errorf("%v, health %q", err, s.Health())
	}
	if got, err := New(dir, dir+"/run").Load(); err != nil || got.Highest != 1 {
		t.Errorf("%+v %v", got, err)
	}
	if err := os.Remove(dir + "/identity.json.bak"); err != nil {
		t.Fatal(err)
	}
	if err := save(s, state(2)); err != nil || s.Health() != "" {
		t.Errorf("%v, health %q", err, s.Health())
	}
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	s := New(dir, dir+"/run")
	_ = save(s, state(1))
	good, _ := os.ReadFile(filepath.Join(dir, "identity.json"))
	f.Add(good)
	f.Add([]byte(`{"turn":1,"sha256":"","state":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		path := filepath.Join(t.TempDir(), "identity.json")
		if err := os.WriteFile(path, in, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := open(path); err == nil && len(c.State) == 0 {
			t.Fatal("an empty state with a checksum")
		}
	})
}
