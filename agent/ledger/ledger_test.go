package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// What the ledger remembers of its file is what the file says, whatever was done to it.
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
			return Row{Key: key.Draw(rt, "key"), Life: platform.Disk, Baseline: reading.Draw(rt, "baseline"), Last: reading.Draw(rt, "last"),
				Next: reading.Draw(rt, "next"), By: []enforce.Setting{"usb.x"}, Phase: rapid.SampledFrom([]enforce.Phase{0, enforce.Close, enforce.Open}).Draw(rt, "phase")}
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
				_, _ = l.Rows() // read before the next step, so that there is something to remember
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
