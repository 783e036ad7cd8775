//go:build unix

package server

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// What root makes in a data directory belongs to whom the directory belongs to: the server, which runs as somebody else,
// has to read it and to write it.
func TestRootMakesFilesForTheServer(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can give files away")
		}
		t.Skip("only root can give files away")
	}
	const user = 64123
	dir := t.TempDir()
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s, err := OpenStore(context.Background(), dir, "", now)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := LoadCA(dir, now); err != nil {
		t.Fatal(err)
	}
	k, err := LoadKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.RotatePolicy(nil, now); err != nil {
		t.Fatal(err)
	}
	if err := k.RotateAdmin(false); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Issue("ann", "admin", "root", time.Hour, now); err != nil {
		t.Fatal(err)
	}
	n := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n++
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != user || st.Gid != user {
			t.Errorf("%s belongs to %d", path, st.Uid)
		}
		return nil
	})
	if err != nil || n < 9 {
		t.Errorf("%d files, %v", n, err)
	}
}
