package store

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
)

func open(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "store.db"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func event(kind enforce.EventKind) enforce.Event {
	return enforce.Event{At: time.Now(), Setting: "usb.allowed", Kind: kind, Subject: "usb 1-1", Mode: enforce.Enforce}
}

func TestOutbox(t *testing.T) {
	s := open(t)
	for i := range 5 {
		if seq, err := s.Append(event(enforce.Denied)); err != nil || seq != uint64(i+1) {
			t.Fatal(seq, err)
		}
	}
	epoch, list, err := s.Pending(3)
	if err != nil || len(list) != 3 || list[2].Seq != 3 {
		t.Fatal(list, err)
	}
	if err := s.Ack("another epoch", 5); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Backlog(); n != 5 {
		t.Errorf("an ack of another epoch counts: %d", n)
	}
	if err := s.Ack(epoch, 3); err != nil {
		t.Fatal(err)
	}
	_, list, _ = s.Pending(10)
	if len(list) != 2 || list[0].Seq != 4 {
		t.Errorf("%+v", list)
	}
	// Acknowledged events stay, for support.
	if all, _ := s.Events(0, -10); len(all) != 5 {
		t.Errorf("%d events", len(all))
	}
}

// Past the bound the oldest are folded into counted summaries: nothing is lost silently.
func TestFold(t *testing.T) {
	s := open(t)
	for i := range 50 {
		_, _ = s.Append(event([]enforce.EventKind{enforce.Denied, enforce.Allowed}[i%2]))
	}
	if err := s.fold(20); err != nil {
		t.Fatal(err)
	}
	_, list, err := s.Pending(100)
	if err != nil || len(list) > 20 {
		t.Fatal(len(list), err)
	}
	total := 0
	for _, e := range list {
		total += max(e.Count, 1)
	}
	if total != 50 {
		t.Errorf("%d of 50 events are accounted for", total)
	}
	seqs := uint64(0)
	for _, e := range list {
		if e.Seq <= seqs {
			t.Errorf("numbers do not grow: %d after %d", e.Seq, seqs)
		}
		seqs = e.Seq
	}
}

func TestFirst(t *testing.T) {
	s := open(t)
	for i, c := range []struct {
		boot, what string
		want       bool
	}{{"1", "denied", true}, {"1", "denied", false}, {"1", "allowed", true}, {"1", "denied", true}, {"2", "denied", true},
		{"2", "denied", false}} {
		if got := !s.Seen(c.boot, "usb.device/1-1@2", c.what); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
		s.Remember(c.boot, "usb.device/1-1@2", c.what)
	}
}

func TestPoliciesAndFindings(t *testing.T) {
	s := open(t)
	for i := range int64(30) {
		if err := s.PutPolicy(Policy{Serial: i, Digest: "d", Received: time.Unix(i, 0), State: "pending", Changes: []string{fmt.Sprint(i)},
			Document: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Policies()
	if err != nil || len(list) != keepPolicies || list[0].Serial != 29 || list[0].Changes[0] != "29" {
		t.Errorf("%d, %+v, %v", len(list), list[0], err)
	}
	f := []enforce.Finding{{Setting: "a.b", Compliance: enforce.Compliant, Mode: enforce.Warn}}
	if err := s.PutFindings(f); err != nil {
		t.Fatal(err)
	}
	got, err := s.Findings()
	if err != nil || !got["a.b"].Alike(f[0]) {
		t.Errorf("%+v %v", got, err)
	}
}

// A database that began anew while in use has a new epoch: its numbers begin anew, and the server would mistake them
// for events that it has.
func TestNewEpochAfterLoss(t *testing.T) {
	for _, how := range []string{"removed", "standby emptied"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			disk, run := filepath.Join(dir, "disk"), filepath.Join(dir, "run")
			for _, d := range []string{disk, run} {
				if err := os.Mkdir(d, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(filepath.Join(disk, "store.db"), run)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			put := func(n int) {
				for range n {
					_, _ = s.Append(enforce.Event{Kind: "x"})
				}
			}
			put(20)
			before, _, err := s.Pending(100)
			if err != nil {
				t.Fatal(err)
			}
			// What SQLite says on a full disk, without one.
			full := func() {
				err := s.file.Do(func(db *sql.DB) error {
					_, err := db.Exec(`PRAGMA max_page_count = 1; CREATE TABLE more (v); INSERT INTO more SELECT zeroblob(1000000)`)
					return err
				})
				_ = err // on the standby it fails again, or not
			}
			if how == "removed" {
				for _, end := range []string{"", "-wal", "-shm"} {
					_ = os.Remove(filepath.Join(disk, "store.db") + end)
				}
				full()
			} else {
				full()
				list, _ := filepath.Glob(filepath.Join(run, "store.db*"))
				if len(list) == 0 {
					t.Fatal("there is no standby")
				}
				for _, f := range list {
					if err := os.Truncate(f, 0); err != nil {
						t.Fatal(err)
					}
				}
				full()
			}
			put(5)
			after, events, err := s.Pending(100)
			if err != nil || len(events) == 0 {
				t.Fatal(err, events)
			}
			if after == before && events[0].Seq <= 20 && len(events) < 20 {
				t.Errorf("event %d again, in the same epoch (%v)", events[0].Seq, s.Health())
			}
			if after != before && s.Health().Lost == "" {
				t.Errorf("the loss is not said: %+v", s.Health())
			}
		})
	}
}

// full makes a store meet what SQLite says on a full disk, once: the standby carries on.
func full(t *testing.T, s *Store) {
	t.Helper()
	once := false
	if err := s.file.Do(func(db *sql.DB) error {
		if once {
			return nil
		}
		once = true
		_, err := db.Exec(`PRAGMA max_page_count = 1; CREATE TABLE more (v); INSERT INTO more SELECT zeroblob(1000000)`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// Whatever befalls the file, a number is never used twice in one epoch: the server would take the second event for
// one that it has.
func TestEpochsAfterAnyLoss(t *testing.T) {
	for name, befall := range map[string]func(t *testing.T, disk, run string){
		"a reboot while the disk was full": func(t *testing.T, _, run string) {
			if err := os.RemoveAll(run); err != nil {
				t.Fatal(err)
			}
		},
		"an older copy put back": nil,
		"nothing":                func(*testing.T, string, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			disk, run := t.TempDir(), filepath.Join(t.TempDir(), "run")
			path := filepath.Join(disk, "store.db")
			told := map[string]string{} // epoch and number, to what happened
			twice := 0
			begin := func() *Store {
				s, err := Open(path, run)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			happens := func(s *Store, what string) {
				if _, err := s.Append(enforce.Event{At: time.Now(), Kind: "x", Reason: what}); err != nil {
					t.Fatal(err)
				}
			}
			// deliver acts as the server: it stores events that it does not have.
			deliver := func(s *Store) {
				for {
					epoch, list, err := s.Pending(7)
					if err != nil {
						t.Fatal(err)
					}
					if len(list) == 0 {
						return
					}
					for _, e := range list {
						k := fmt.Sprint(epoch, e.Seq)
						if had, is := told[k]; is && had != e.Reason {
							twice++
							t.Errorf("%q is taken for %q", e.Reason, had)
						}
						told[k] = e.Reason
					}
					if err := s.Ack(epoch, list[len(list)-1].Seq); err != nil {
						t.Fatal(err)
					}
				}
			}
			s := begin()
			happens(s, "first")
			deliver(s)
			var old []byte
			if befall == nil {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				var err error
				if old, err = os.ReadFile(path); err != nil {
					t.Fatal(err)
				}
				s = begin()
			}
			if strings.HasPrefix(name, "a reboot") {
				full(t, s)
				if s.Health().Standby == "" {
					t.Fatal("there is no standby")
				}
			}
			for i := range 34 {
				happens(s, fmt.Sprint("second ", i))
			}
			deliver(s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if befall != nil {
				befall(t, disk, run)
			} else if err := os.WriteFile(path, old, 0o600); err != nil {
				t.Fatal(err)
			}
			s = begin()
			defer s.Close()
			for i := range 40 {
				happens(s, fmt.Sprint("third ", i))
			}
			deliver(s)
			if len(told) != 1+34+40 || twice > 0 {
				t.Errorf("%d of 75 events reached the server, %d of them under another's number", len(told), twice)
			}
		})
	}
}

// Events kept elsewhere are moved back while the store is open, and a reboot then loses none.
func TestHome(t *testing.T) {
	disk, run := t.TempDir(), filepath.Join(t.TempDir(), "run")
	path := filepath.Join(disk, "store.db")
	s, err := Open(path, run)
	if err != nil {
		t.Fatal(err)
	}
	put := func() {
		if _, err := s.Append(event("x")); err != nil {
			t.Fatal(err)
		}
	}
	put()
	full(t, s)
	for range 34 {
		put()
	}
	// A directory in the way is a disk that cannot be written.
	_ = os.Remove(path)
	if err := os.MkdirAll(path+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if back, err := s.Home(); back || err == nil || s.Health().Standby == "" {
		t.Fatalf("%v %v %+v", back, err, s.Health())
	}
	put()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if back, err := s.Home(); !back || err != nil || !s.Health().OK() {
		t.Fatalf("%v %v %+v", back, err, s.Health())
	}
	put()
	if err := os.RemoveAll(run); err != nil { // a reboot
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, run); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.Backlog(); n != 37 || err != nil {
		t.Errorf("%d of 37 events are there (%v)", n, err)
	}
}

// An event dated by a wrong clock is kept as long as any other.
func TestKeptFromItsAcknowledgement(t *testing.T) {
	s := open(t)
	for _, at := range []time.Time{time.Unix(0, 0), time.Now(), time.Now().AddDate(40, 0, 0)} {
		if _, err := s.Append(enforce.Event{At: at, Kind: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	epoch, list, err := s.Pending(10)
	if err != nil || len(list) != 3 {
		t.Fatal(err, list)
	}
	if err := s.Ack(epoch, list[2].Seq); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		list, err := s.Events(0, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := left(); n != 3 {
		t.Errorf("%d of 3 events are kept", n)
	}
	at := func(now time.Time) {
		if err := s.file.Do(func(db *sql.DB) error { return prune(db, now) }); err != nil {
			t.Fatal(err)
		}
	}
	at(time.Now().Add(29 * 24 * time.Hour))
	at(time.Unix(1e6, 0)) // a clock that was never set decides nothing
	if n := left(); n != 3 {
		t.Errorf("%d of 3 events are kept after 29 days", n)
	}
	at(time.Now().Add(31 * 24 * time.Hour))
	if n := left(); n != 0 {
		t.Errorf("%d events are kept after 31 days", n)
	}
}
