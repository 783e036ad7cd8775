package ledger

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warderd/warder/enforce"
)

// What was given back is known to the next agent of the same boot, and to no other one.
func TestGivenBack(t *testing.T) {
	dir := t.TempDir()
	open := func(boot string) *Ledger {
		l, err := Open(filepath.Join(dir, "ledger.db"), dir, boot)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	key := enforce.Key{Kind: "hub", ID: "usb1"}
	g := GivenBack{At: time.Unix(1000, 5).UTC(), Rows: []Row{{Key: key, Baseline: reads("1")}},
		There: []enforce.Key{{Kind: "dev", ID: "1-1@2"}}}
	if err := open("a").GiveBack(g); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(g, open("a").LastGivenBack()); diff != "" {
		t.Error(diff)
	}
	if got := open("b").LastGivenBack(); len(got.Rows) != 0 || !got.At.IsZero() {
		t.Errorf("another boot has %+v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, backName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := open("a").LastGivenBack(); len(got.Rows) != 0 || !got.At.IsZero() {
		t.Errorf("a damaged file is %+v", got)
	}
}

func FuzzGivenBack(f *testing.F) {
	b, _ := json.Marshal(backFile{"b", GivenBack{Rows: []Row{{Key: enforce.Key{Kind: "k", ID: "i"}, Baseline: reads("1")}}}})
	f.Add(b)
	f.Add([]byte(`{"boot":"b","at":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := parseBack(b, "b")
		if err != nil && (g.Rows != nil || g.There != nil) || len(g.Rows) > maxEarlyRows || len(g.There) > maxEarlyRows {
			t.Fatalf("%d and %d rows, %v", len(g.Rows), len(g.There), err)
		}
	})
}
