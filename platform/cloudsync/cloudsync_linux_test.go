package cloudsync

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
)

// What the programs keep has the same form on both sides.
func TestForms(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(bpf.CloudSync.Object))
	if err != nil {
		t.Fatal(err)
	}
	entries := 0
	for i := range fact.Clients {
		entries += len(fact.Clients[i].Programs)
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

// Every program of the table has one place in the kernel's, and IDs fit.
func TestTitles(t *testing.T) {
	seen := map[title]string{}
	for i := range fact.Clients {
		c := &fact.Clients[i]
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
	if a, b := titles(&fact.Client{Programs: []string{"x"}})[0], titles(&fact.Client{Programs: []string{"x*"}})[0]; a.Bits != 16 || b.Bits != 8 {
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
	c := &Clients{proc: proc(t, map[int][3]string{
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
		got[p.pid] = fmt.Sprintf("%s %s %s %d", p.client.ID, p.program, p.started, p.uid)
	}
	want := map[int]string{10: "rclone rclone 1000 1000", 11: "dropbox dropbox 1100 1000", 12: "dropbox maestral 1200 1000", 17: "nextcloud Nextcloud-3.1.AppImage 1700 1000"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	var m fact.Machine
	if err := c.Observe(t.Context(), &m); err != nil || !m.Clients.OK || len(m.Clients.V) != 3 {
		t.Errorf("%+v, %v", m.Clients, err)
	}
	if _, err := (&Clients{proc: "/nowhere"}).running(); err == nil {
		t.Error("no error without a list of processes")
	}
}

// Which files are taken for a client's program.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if os.Getuid() != 0 {
		t.Skip("only root's files are taken for programs")
	}
	client, _ := fact.ClientOf("rclone")
	essential := write("sh", "essential", 0o755)
	f, err := os.Open(essential)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	print, _, _ := printOf(f)
	one := write("rclone", strings.Repeat("program", 100), 0o755)
	theirs := write("theirs", "theirs", 0o755)
	if err := os.Chown(theirs, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	twice := write("twice", "has two names", 0o755)
	if err := os.Link(twice, twice+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(one, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		one: true, theirs: false, twice: false, dir + "/link": false, write("group", "group", 0o775): false, write("copy", "essential", 0o755): false,
		write("empty", "", 0o755): false, dir: false, dir + "/none": false, write("small", "#!/bin/sh\n", 0o755): true,
	} {
		prints, files := map[fingerprint]id{}, map[known]id{}
		look(path, client, map[fingerprint]bool{print: true}, prints, files)
		if got := len(prints) == 1 && len(files) == 1; got != want {
			t.Errorf("%s: %v %v", path, prints, files)
		}
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

// The sum of a file's beginning is the kernel programs': of 32 numbers of 64 bits, each in this order.
func TestHeadSum(t *testing.T) {
	var a, b [headSize]byte
	b[headSize-1] = 1
	if headSum(&a) == headSum(&b) || headSum(&a) != headSum(&[headSize]byte{}) {
		t.Error("the sum does not depend on all of it")
	}
}
