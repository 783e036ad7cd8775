package ledger

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

func reads(v enforce.Value) enforce.Reading {
	return enforce.Reading{Value: v, State: enforce.Present}
}

// What the early start wrote becomes the ledger's, with its baselines.
func TestEarlyIsTakenOver(t *testing.T) {
	dir, key := t.TempDir(), enforce.Key{Kind: "usb.param", ID: "authorized_default"}
	e, err := OpenEarly(dir, "boot1")
	if err != nil {
		t.Fatal(err)
	}
	if e.Changed() {
		t.Error("changed before anything was")
	}
	row := Row{Key: key, Life: platform.Boot, Baseline: reads("-1"), Last: reads("-1"), Next: reads("0"), Phase: enforce.Close}
	if err := e.Intend([]Row{row}); err != nil {
		t.Fatal(err)
	}
	row.Baseline, row.Last, row.Next = reads("0"), reads("0"), enforce.Reading{}
	if err := e.Settle([]Row{row}, nil); err != nil {
		t.Fatal(err)
	}
	// It was killed, and continues.
	again, err := OpenEarly(dir, "boot1")
	if err != nil {
		t.Fatal(err)
	}
	if rows, _ := again.Rows(); len(rows) != 1 || !rows[key].Baseline.Is("-1") || !rows[key].Last.Is("0") || !again.Changed() {
		t.Errorf("%+v", rows)
	}
	l, err := Open(filepath.Join(dir, "ledger.db"), dir, "boot1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Lost() {
		t.Error("what is not taken over yet counts as lost")
	}
	if err := l.TakeOver(); err != nil {
		t.Fatal(err)
	}
	rows, err := l.Rows()
	if err != nil || len(rows) != 1 || !rows[key].Baseline.Is("-1") || !rows[key].Last.Is("0") || l.Lost() || !l.Changed() {
		t.Fatalf("%+v %v, lost %v", rows, err, l.Lost())
	}
	if _, err := os.Stat(filepath.Join(dir, earlyName)); !os.IsNotExist(err) {
		t.Errorf("the file stays: %v", err)
	}
	if err := l.Settle(nil, []enforce.Key{key}); err != nil {
		t.Fatal(err)
	}
	if l.marked.Load() {
		t.Error("all is given back, and the mark stands")
	}
	if _, err := OpenEarly(dir, "boot1"); !errors.Is(err, ErrTaken) {
		t.Errorf("an early start after an agent: %v", err)
	}
}

// What cannot be read counts as lost, not as nothing; another boot's file is nothing.
func TestEarlyDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"half":      `{"boot":"boot1","rows":[{"Key":{"Kind":"usb.pa`,
		"no key":    `{"boot":"boot1","rows":[{}]}`,
		"not ours":  `[]`,
		"other":     `{"boot":"boot0","rows":[{"Key":{"Kind":"k","ID":"i"}}]}`,
		"directory": "",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, earlyName)
			if name == "directory" {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := Open(filepath.Join(dir, "ledger.db"), dir, "boot1")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := l.TakeOver(); err != nil {
				t.Fatal(err)
			}
			if got, want := l.Lost(), name != "other"; got != want {
				t.Errorf("lost: %v", got)
			}
			if rows, _ := l.Rows(); len(rows) != 0 {
				t.Errorf("%v", rows)
			}
		})
	}
}

func FuzzEarly(f *testing.F) {
	b, _ := json.Marshal(earlyFile{Boot: "b", Rows: []Row{{Key: enforce.Key{Kind: "k", ID: "i"}, Baseline: reads("1")}}})
	f.Add(b)
	f.Add([]byte(`{"boot":"b","rows":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := parseEarly(b, "b")
		if err != nil && rows != nil || len(rows) > maxEarlyRows {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		for _, r := range rows {
			if r.Key.Kind == "" || r.Key.ID == "" {
				t.Fatalf("%+v", r)
			}
		}
	})
}
