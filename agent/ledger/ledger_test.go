package ledger

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// The ledger's cache is what the file says, whatever was done to the file.
func TestRemembered(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		open := func() *Ledger {
			l, err := Open(filepath.Join(dir, "ledger.db"), filepath.Join(dir, "run"), "boot")
			if err != nil {
				rt.Fatal(err)
			}
			return l
		}
		if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
			rt.Fatal(err)
		}
		l := open()
		reading := rapid.Custom(func(rt *rapid.T) enforce.Reading {
			return enforce.Reading{Value: enforce.Value(rapid.SampledFrom([]string{"0", "1"}).Draw(rt, "value")), State: enforce.Present}
		})
		key := rapid.Custom(func(rt *rapid.T) enforce.Key {
			return enforce.Key{Kind: "k", ID: fmt.Sprint(rapid.IntRange(0, 3).Draw(rt, "id"))}
		})
		rows := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) Row {
			return Row{Key: key.Draw(rt, "key"), Life: platform.Disk, Baseline: reading.Draw(rt, "baseline"),
				Last: reading.Draw(rt, "last"),
				Next: reading.Draw(rt, "next"), By: []enforce.Setting{"usb.x"},
				Phase: rapid.SampledFrom([]enforce.Phase{0, enforce.Close, enforce.Open}).Draw(rt, "phase")}
		}), 0, 3)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			var err error
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				err = l.Intend(rows.Draw(rt, "rows"))
			case 1:
				err = l.Note(rows.Draw(rt, "rows"))
			case 2:
				err = l.Settle(rows.Draw(rt, "rows"), rapid.SliceOfN(key, 0, 2).Draw(rt, "forget"))
			case 3:
				err = l.MarkLost()
			case 4:
				err = l.Found()
			case 5:
				_, _ = l.Rows() // read before the next step, to fill the cache
			}
			if err != nil {
				rt.Fatal(err)
			}
			had, err := l.Rows()
			if err != nil {
				rt.Fatal(err)
			}
			lost := l.Lost()
			l.forget()
			read, err := l.Rows()
			if diff := cmp.Diff(read, had); err != nil || diff != "" || lost != l.Lost() {
				rt.Fatalf("remembered otherwise than read (%v, lost %v and %v):\n%s", err, lost, l.Lost(), diff)
			}
		}
		if err := l.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// Rows that the file in use no longer has are written into the new one, which says that rows may be missing.
func TestRowsOutliveTheirFile(t *testing.T) {
	dir := t.TempDir()
	disk, run := filepath.Join(dir, "disk"), filepath.Join(dir, "run")
	for _, d := range []string{disk, run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Open(filepath.Join(disk, "ledger.db"), run, "boot")
	if err != nil {
		t.Fatal(err)
	}
	zero := enforce.Reading{Value: "0", State: enforce.Present}
	key := enforce.Key{Kind: "k", ID: "1"}
	if err := l.Intend([]Row{{Key: key, Life: platform.Disk, Baseline: enforce.Reading{Value: "1", State: enforce.Present},
		Last: zero}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Rows(); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(filepath.Join(disk, "ledger.db") + end)
	}
	// What SQLite returns on a full disk.
	_ = l.file.Do(func(db *sql.DB) error {
		_, err := db.Exec(`PRAGMA max_page_count = 1; CREATE TABLE more (v); INSERT INTO more SELECT zeroblob(1000000)`)
		return err
	})
	if l.Health().Standby == "" || l.Health().Lost == "" {
		t.Fatalf("health %+v", l.Health())
	}
	for _, how := range []string{"at once", "after a restart"} {
		rows, err := l.Rows()
		if r, ok := rows[key]; err != nil || !ok || !r.Baseline.Is("1") || !l.Lost() {
			t.Errorf("%s: %+v, lost %v (%v)", how, rows, l.Lost(), err)
		}
		if how == "at once" {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err = Open(filepath.Join(disk, "ledger.db"), run, "boot"); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = l.Close()
}
