package store

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad reads what may be a backup: it gives an error or a database, and never runs SQL of its own.
func FuzzLoad(f *testing.F) {
	f.Add(`{"t":"meta","c":["name","value"]}` + "\n" + `{"r":["a","b"]}`)
	f.Add(`{"t":"diagnostics","c":["id","device","at","size","body"]}` + "\n" + `{"r":["a",1,2,3,{"b":"AAEC"}]}`)
	f.Add(`{"t":"meta","c":["name) VALUES (1); --"]}`)
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Open(ctx, filepath.Join(t.TempDir(), "x.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_ = s.Load(ctx, strings.NewReader(in))
		var n int
		if err := s.read.QueryRow(`SELECT count(*) FROM sqlite_master WHERE type = 'table'`).Scan(&n); err != nil || n < len(tables) {
			t.Fatalf("%d tables are left: %v", n, err)
		}
	})
}
