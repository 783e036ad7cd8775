//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What root's commands create in another user's data directory belongs to that user, who runs the server. What that
// user has put there (links, a pipe) makes root neither write, nor give away, nor wait.
func TestRootInTheServersDirectory(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can try it")
		}
		t.Skip("only root can try it")
	}
	const user = 64123
	dir, err := os.MkdirTemp("/tmp", "warder-owner-") // others can go through /tmp
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	theirs := filepath.Join(dir, "data")
	roots := filepath.Join(dir, "roots")
	for _, d := range []string{theirs, roots} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, user, user); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "warder-server")
	build := exec.Command("go", "build", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := exec.Command(program, append(args, "--data", theirs)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		err := cmd.Wait()
		return out.String(), err
	}
	// Before a server has run there, nothing is created; and root's server does not run in another user's directory.
	for args, want := range map[string]string{"enrollment create": "no server has run", "token create": "no server has run",
		"keys rotate": "no server has run", "keys ca": "no server has run", "token rotate": "no server has run",
		"serve": "belongs to the user"} {
		out, err := run(strings.Fields(args)...)
		if list, _ := os.ReadDir(theirs); err == nil || !strings.Contains(out, want) || len(list) > 0 {
			t.Errorf("%s: %v %s, leaves %v", args, err, out, list)
		}
	}
	first := exec.Command(program, "serve", "--data", theirs, "--http", "--listen", "127.0.0.1:0")
	first.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	log, err := first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), "msg=serving") {
	}
	_ = first.Process.Signal(syscall.SIGTERM)
	_, _ = io.Copy(io.Discard, log)
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"enrollment", "create"}, {"token", "create"}, {"keys", "rotate"}, {"token", "rotate"},
		{"keys", "show"}} {
		if out, err := run(args...); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	n := 0
	_ = filepath.WalkDir(theirs, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has gone
		}
		n++
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != user || st.Gid != user {
			t.Errorf("%s belongs to %d", path, st.Uid)
		}
		return nil
	})
	if n < 9 {
		t.Errorf("only %d files", n)
	}
	if out, err := run("backup", "--to", filepath.Join(dir, "b.tar.gz")); err == nil || !strings.Contains(out, "belongs to the user") {
		t.Errorf("backup as root: %v %s", err, out)
	}
	// Now with links that lead to root's files.
	if err := os.RemoveAll(filepath.Join(theirs, "issued")); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"issued": roots, "server.db.migrating": filepath.Join(roots, "nologin")} {
		_ = os.Remove(filepath.Join(theirs, from))
		if err := os.Symlink(to, filepath.Join(theirs, from)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"token", "create"}, {"enrollment", "create"}} {
		_, _ = run(args...)
	}
	if list, err := os.ReadDir(roots); err != nil || len(list) > 0 {
		t.Errorf("root was made to write %v %v", list, err)
	}
}
