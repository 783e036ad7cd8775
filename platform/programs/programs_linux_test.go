package programs

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
)

// What the programs keep has the same form on both sides.
func TestForms(t *testing.T) {
	for _, g := range []*group{&clients, &tools} {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(g.set.Object))
		if err != nil {
			t.Fatal(err)
		}
		entries := 0
		for i := range g.apps {
			entries += len(g.apps[i].Programs)
		}
		for name, c := range map[string]struct{ key, value any }{
			"config": {uint32(0), config{}}, "names": {title{}, id{}}, "prints": {fingerprint{}, id{}}, "files": {known{}, id{}},
		} {
			m := spec.Maps[name]
			if m == nil || int(m.KeySize) != binary.Size(c.key) || int(m.ValueSize) != binary.Size(c.value) {
				t.Errorf("%s: %v; here %d and %d bytes", name, m, binary.Size(c.key), binary.Size(c.value))
			} else if name != "config" && int(m.MaxEntries) < max(entries, maxFound) {
				t.Errorf("%s has room for %d", name, m.MaxEntries)
			}
		}
	}
}

// Every program of the table has one place in the kernel's, and IDs fit.
func TestTitles(t *testing.T) {
	for _, g := range []*group{&clients, &tools} {
		seen := map[title]string{}
		for i := range g.apps {
			c := &g.apps[i]
			if len(c.ID) >= len(id{}) || idOf(c.ID).String() != c.ID {
				t.Errorf("%q does not fit", c.ID)
			}
			for j, n := range titles(c) {
				p := c.Programs[j]
				if seen[n] != "" || len(strings.TrimSuffix(p, "*")) >= len(n.Text) || int(n.Bits) > 8*len(n.Text) {
					t.Errorf("program %q of %s: %v, also of %q", p, c.ID, n, seen[n])
				}
				seen[n] = c.ID
			}
		}
	}
	if a, b := titles(&fact.App{Programs: []string{"x"}})[0], titles(&fact.App{Programs: []string{"x*"}})[0]; a.Bits != 16 || b.Bits != 8 {
		t.Errorf("%d and %d bits", a.Bits, b.Bits)
	}
}

// A record of a refusal.
func TestRefusal(t *testing.T) {
	b := make([]byte, refusalSize)
	binary.NativeEndian.PutUint32(b, 1000)
	binary.NativeEndian.PutUint32(b[4:], 42)
	binary.NativeEndian.PutUint32(b[8:], asCopy)
	copy(b[16:], "rclone")
	copy(b[32:], "holiday")
	copy(b[64:], "bash")
	if r, ok := readRefusal(b); !ok || r != (refusal{1000, 42, asCopy, "rclone", "holiday", "bash"}) {
		t.Errorf("%+v %v", r, ok)
	}
	if _, ok := readRefusal(b[:refusalSize-1]); ok {
		t.Error("a short record is read")
	}
}

// proc makes a directory of processes.
func proc(t *testing.T, list map[int][3]string) string {
	t.Helper()
	dir := t.TempDir()
	for pid, p := range list { // exe, name, state
		at := filepath.Join(dir, fmt.Sprint(pid))
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		stat := fmt.Sprintf("%d (%s) %s 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 1 1", pid, p[1], p[2], pid*100)
		if p[0] != "" {
			_ = os.Symlink(p[0], at+"/exe")
		}
		_ = os.WriteFile(at+"/stat", []byte(stat), 0o600)
		_ = os.WriteFile(at+"/status", []byte("Name:\tx\nUid:\t1000\t1000\t1000\t1000\n"), 0o600)
	}
	return dir
}

// Which processes are clients'.
func TestRunning(t *testing.T) {
	c := &Control{group: &clients, proc: proc(t, map[int][3]string{
		10: {"/usr/bin/rclone", "rclone", "S"}, 11: {"/home/a/.dropbox-dist/dropbox-lnx.x86_64-1/dropbox (deleted)", "dropbox", "S"},
		12: {"/usr/bin/python3.11", "maestral", "S"}, 13: {"/usr/bin/python3.11", "notes", "S"}, 14: {"/usr/bin/vim", "rclone", "S"},
		15: {"/opt/rclone", "x) S 1 (", "Z"}, 16: {"", "rclone", "S"}, 17: {"/tmp/.mount_x/Nextcloud-3.1.AppImage", "a) b (c", "R"}, 18: {"/usr/bin/bashful", "insync", "S"}, 1: {"/usr/bin/rclone", "rclone", "S"},
	})}
	list, err := c.running()
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]string{}
	for _, p := range list {
		got[p.pid] = fmt.Sprintf("%s %s %s %d", p.app.ID, p.program, p.started, p.uid)
	}
	want := map[int]string{10: "rclone rclone 1000 1000", 11: "dropbox dropbox 1100 1000", 12: "dropbox maestral 1200 1000", 17: "nextcloud Nextcloud-* 1700 1000"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	var m fact.Machine
	if err := c.Observe(t.Context(), &m); err != nil || !m.Clients.OK || len(m.Clients.V) != 3 {
		t.Errorf("%+v, %v", m.Clients, err)
	}
	if _, err := (&Control{group: &clients, proc: "/nowhere"}).running(); err == nil {
		t.Error("no error without a list of processes")
	}
}

// Which files are taken for a client's program: root's, in a directory of root's, under one name, and not what is installed under
// another name as well.
func TestSearch(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root's files are taken for programs: root runs this")
		}
		t.Skip("only root's files are taken for programs")
	}
	top := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := map[fingerprint]string{}
	takes := func(path, client string) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p, _, _ := printOf(f)
		want[p] = client
	}
	takes(write("bin/rclone", strings.Repeat("program", 100), 0o755), "rclone")
	takes(write("bin/maestral", "#!/bin/sh\n", 0o755), "dropbox")
	takes(write("deep/a/b/syncthing", "three levels", 0o755), "syncthing")
	write("deep/a/b/c/insync", "four levels", 0o755)
	write("bin/onedrive", "a shell under a client's name", 0o755)
	write("bin/zsh", "a shell under a client's name", 0o755)
	write("group/rclone", "of a group", 0o775)
	write("everybody/nextcloud", "in a directory of everybody", 0o755)
	_ = os.Chmod(filepath.Join(top, "everybody"), 0o777)
	theirs := write("theirs/owncloud", "somebody's", 0o755)
	write("own/megasync", "in somebody's directory", 0o755)
	_ = os.Chown(theirs, 65534, 65534)
	_ = os.Chown(filepath.Join(top, "own"), 65534, 65534)
	if err := os.Link(write("bin/pcloud", "has two names", 0o755), filepath.Join(top, "bin/x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("rclone", filepath.Join(top, "bin/seadrive")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(top, "own"), filepath.Join(top, "deep/link")); err != nil {
		t.Fatal(err)
	}
	write("bin/dropbox/file", "a directory of that name", 0o755)
	write("bin/rslsync", "", 0o755)
	var all []string
	for i := range fact.Clients {
		all = append(all, fact.Clients[i].ID)
	}
	in := map[string]int{top + "/none": 1}
	for _, d := range []string{"bin", "group", "everybody", "theirs", "own"} {
		in[filepath.Join(top, d)] = 0
	}
	in[filepath.Join(top, "deep")] = 2
	mounts := []mountinfo.Mount{{Point: "/", FS: "ext4"}}
	out, err := clients.search(all, in, mounts)
	if err != nil {
		t.Fatal(err)
	}
	got := map[fingerprint]string{}
	for p, c := range out.prints {
		got[p] = c.String()
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(out.files) < len(want) {
		t.Errorf("%v, want %v; files %v", got, want, out.files)
	}
	if out, err := clients.search([]string{"insync"}, in, mounts); err != nil || len(out.prints) != 0 {
		t.Errorf("%v %v", out, err)
	}
	if out, err := clients.search(all, in, []mountinfo.Mount{{Point: "/", FS: "nfs"}}); err != nil || len(out.prints) != 0 {
		t.Errorf("%v %v", out, err)
	}
}

// Programs are not looked for where a server may not answer.
func TestAnswers(t *testing.T) {
	mounts := []mountinfo.Mount{{Point: "/", FS: "ext4"}, {Point: "/opt", FS: "nfs4"}, {Point: "/opt/local", FS: "xfs"}, {Point: "/usr", FS: "ext4"}, {Point: "/usr", FS: "fuse.x"}}
	for path, want := range map[string]bool{"/bin": true, "/opt": false, "/opt/x": false, "/opt/local/bin": true, "/optional": true, "/usr/bin": false} {
		if answers(mounts, path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
	if answers(nil, "/usr/bin") {
		t.Error("what is not known is taken to answer")
	}
}

// The sum of a file's beginning is the kernel programs': of 32 numbers of 64 bits, in their order, as this processor has them.
func TestHeadSum(t *testing.T) {
	var head [headSize]byte
	for i := range head {
		head[i] = byte(i)
	}
	sum := uint64(14695981039346656037)
	for i := range 32 {
		sum ^= *(*uint64)(unsafe.Pointer(&head[8*i]))
		sum *= 1099511628211
	}
	if got := headSum(&head); got != sum {
		t.Errorf("%x, want %x", got, sum)
	}
}

// fixed are a section's, of which one client is refused.
type fixed struct {
	refuses string
	act     bool
}

func (r fixed) Clients() enforce.Judge[fact.Running] { return r }
func (r fixed) CanStop() bool                        { return r.act }
func (r fixed) AboutClients() bool                   { return r.refuses != "" }
func (r fixed) CanDeny() bool                        { return false }
func (r fixed) Judge(x *fact.Running) enforce.Verdict {
	no := x.App == r.refuses
	return enforce.Verdict{Allow: !no || !r.act, WouldDeny: no && !r.act, WouldMode: enforce.Monitor}
}
func (r fixed) Reason(enforce.Verdict, *fact.Running) (string, string) { return "why", "" }

// client starts a program under a client's name; deaf: one that does not stop when it is asked.
func client(t *testing.T, deaf bool) *exec.Cmd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rclone")
	text, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"600"}
	if deaf {
		if text, err = os.ReadFile("/bin/bash"); err != nil {
			t.Fatal(err)
		}
		// It starts nothing: a process that it had started would be the client, too, for a moment.
		args = []string{"-c", `trap "" TERM; echo up; while :; do read -t 60 -u 3 || :; done`}
	}
	if err := os.WriteFile(path, text, 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{r}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if deaf {
		_, _ = out.Read(make([]byte, 8))
	}
	return cmd
}

// A client that runs is asked to stop, and ended if it does not; in monitor mode it is left. A look is asked for when one has
// stopped, and never otherwise.
func TestGuard(t *testing.T) {
	var decisions []platform.Decision
	looks := 0
	gate := func(enforce.Change) error { return nil }
	c := &Control{group: &clients, proc: "/proc", gate: func(x enforce.Change) error { return gate(x) }, log: slog.New(slog.DiscardHandler), held: bpf.Hold(&bpf.CloudSync, "", clients.check)}
	g := newGuard(c)
	g.Listen(func(d platform.Decision) { decisions = append(decisions, d) }, func(bool) { looks++ })
	note := func() string {
		var list []string
		for _, d := range decisions {
			list = append(list, d.Note)
		}
		decisions = nil
		return strings.Join(list, "; ")
	}
	one := client(t, false)
	if err := g.Load(fixed{"rclone", false}); err != nil || len(decisions) != 1 || !decisions[0].Verdict.WouldDeny || decisions[0].Quiet || note() != "" {
		t.Fatalf("%v %+v", err, decisions)
	}
	if err := g.Load(fixed{"rclone", false}); err != nil || len(decisions) != 0 || looks != 0 {
		t.Errorf("the same once more: %v %+v, %d looks", err, decisions, looks)
	}
	gate = func(enforce.Change) error { return enforce.ErrContended }
	if err := g.Load(fixed{"rclone", true}); err != nil || len(decisions) != 0 {
		t.Errorf("contended: %v %+v", err, decisions)
	}
	gate = func(enforce.Change) error { return nil }
	if err := g.Load(fixed{"rclone", true}); err != nil || !strings.Contains(note(), fmt.Sprintf("it ran (pid %d, user %d) and was asked to stop", one.Process.Pid, os.Getuid())) || !g.waits() {
		t.Errorf("%v %+v", err, decisions)
	}
	if state, err := one.Process.Wait(); err != nil || state.Success() {
		t.Errorf("%v %v", state, err)
	}
	if err := g.pass(); err != nil || looks != 1 || g.waits() || len(decisions) != 0 {
		t.Errorf("%v, %d looks, %+v", err, looks, decisions)
	}
	two := client(t, true)
	g.told = bpf.Hourly{}
	if err := g.pass(); err != nil || !strings.Contains(note(), "was asked to stop") {
		t.Errorf("%v %+v", err, decisions)
	}
	g.mu.Lock()
	for who := range g.since {
		g.since[who] = g.since[who].Add(-patience)
	}
	g.mu.Unlock()
	if err := g.pass(); err != nil || !strings.Contains(note(), "it did not stop within 10s") {
		t.Errorf("%v %+v", err, decisions)
	}
	if state, err := two.Process.Wait(); err != nil || state.Success() {
		t.Errorf("%v %v", state, err)
	}
	// One that another has started gains no time by it, and is no news.
	three := client(t, true)
	if err := g.pass(); err != nil || note() != "" {
		t.Errorf("%v %+v", err, decisions)
	}
	if state, err := three.Process.Wait(); err != nil || state.Success() {
		t.Errorf("%v %v", state, err)
	}
	if err := g.pass(); err != nil || looks != 2 || g.waits() {
		t.Errorf("%v, %d looks", err, looks)
	}
	if err := g.Load(fixed{"", true}); err != nil || g.ruling.Load() != nil || g.seen != nil {
		t.Errorf("without rules about clients: %v %v", err, g.seen)
	}
	// Run asks for nothing by itself.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	time.Sleep(settles + 500*time.Millisecond)
	cancel()
	if err := <-done; err != nil || looks != 2 {
		t.Errorf("%v, %d looks", err, looks)
	}
}

// A process that cannot be read hides no other.
func TestUnreadable(t *testing.T) {
	dir := proc(t, map[int][3]string{10: {"/usr/bin/rclone", "rclone", "S"}, 12: {"/usr/bin/rclone", "rclone", "S"}})
	if err := os.MkdirAll(filepath.Join(dir, "11/exe"), 0o755); err != nil { // no link: EINVAL
		t.Fatal(err)
	}
	c := &Control{group: &clients, proc: dir}
	list, err := c.running()
	if len(list) != 2 || err == nil || !strings.Contains(err.Error(), "process 11 cannot be read") {
		t.Errorf("%+v %v", list, err)
	}
	var m fact.Machine
	if err := c.Observe(t.Context(), &m); err == nil || m.Clients.OK {
		t.Errorf("%+v, %v", m.Clients, err)
	}
}
