package programs

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/mountinfo"
)

// TestDoorman: installed clients cannot be started, whoever tries and by whatever name of the file; all else can, and everything once the
// doorman is gone.
func TestDoorman(t *testing.T) {
	top := t.TempDir()
	for _, d := range []string{top, filepath.Dir(top)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	install := func(name string) string {
		path := filepath.Join(top, name)
		// As a package manager does it: a new file in the place of the old one.
		if err := errors.Join(os.WriteFile(path+".new", append(b, name...), 0o755), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rclone, drive := install("rclone"), install("onedrive")
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts, _, err := mountinfo.Parse(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{"rclone", "onedrive"}
	installed := func() contents {
		has, err := clients.search(ids, map[string]int{top: 0}, mounts)
		if err != nil || len(has.files) != len(ids) || len(has.paths) != len(ids) {
			t.Fatalf("%+v %v", has, err)
		}
		return has
	}
	var mu sync.Mutex
	told := map[string]int{}
	d := &doorman{log: slog.New(slog.NewTextHandler(os.Stderr, nil)), died: func() { t.Error("it died") }, outdated: func() {}, hand: func(r refusal) {
		mu.Lock()
		defer mu.Unlock()
		if r.Why != byName || r.PID == 0 || r.Program == "" {
			t.Errorf("%+v", r)
		}
		told[r.App+" "+r.File]++
	}}
	defer d.stop()
	if err := d.start(ids, installed(), nil); err != nil {
		t.Fatal(err)
	}
	try := func(path string, as uint32) error {
		// By another program: while a Go program starts one, it can be that none of its goroutines runs, so not the doorman's.
		c := exec.Command("/bin/sh", "-c", `"$0"; exit $?`, path)
		c.Dir, c.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: as, Gid: as}}
		out, err := c.CombinedOutput()
		if strings.Contains(string(out), "Operation not permitted") {
			return unix.EPERM
		}
		return err
	}
	check := func(path string, starts bool) {
		t.Helper()
		for _, as := range []uint32{0, 65534} {
			if err := try(path, as); (err == nil) != starts || !starts && !errors.Is(err, unix.EPERM) {
				t.Errorf("%s as %d: %v, starts should be %v", filepath.Base(path), as, err, starts)
			}
		}
	}
	link, script, copied := filepath.Join(top, "link"), filepath.Join(top, "script"), filepath.Join(top, "copy")
	if err := errors.Join(os.Symlink(rclone, link), os.WriteFile(script, []byte("#!"+rclone+"\n"), 0o755), os.WriteFile(copied, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{rclone, drive, link, script} {
		check(path, false)
	}
	check("/bin/true", true)
	check(copied, true)
	if got, err := os.ReadFile(rclone); err != nil || !bytes.HasPrefix(got, b) {
		t.Errorf("it cannot be read: %v", err)
	}
	state := func(want string) {
		t.Helper()
		got, on, changed, err := d.state()
		if !on || err != nil || changed != "" || strings.Join(got, " ") != want {
			t.Errorf("%v, on %v, changed %q, %v, want %q", got, on, changed, err, want)
		}
	}
	state("rclone onedrive")
	// A new version is refused once it has been found.
	install("rclone")
	state("rclone onedrive") // that is no change that another program has made
	if err := d.renew([]string{"rclone"}, installed()); err != nil {
		t.Error(err)
	}
	check(rclone, true) // they were others'
	if err := d.renew(ids, installed()); err != nil {
		t.Error(err)
	}
	check(rclone, false)
	state("rclone onedrive")
	// What cannot be found leaves what was refused, and is no reason to say that all is well.
	if err := d.start(ids, contents{}, unix.EIO); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	check(rclone, false)
	if _, _, _, err := d.state(); !errors.Is(err, unix.EIO) {
		t.Errorf("nothing could be read, and it says %v", err)
	}
	bad := installed()
	bad.paths[known{Ino: 1}] = "/proc/self/mem/none"
	bad.files[known{Ino: 1}] = idOf("rclone")
	if err := d.start(ids, bad, nil); err == nil {
		t.Error("a mark that cannot be made is none")
	}
	if _, _, _, err := d.state(); err == nil {
		t.Error("a mark that could not be made is not missed")
	}
	if err := d.start(ids, installed(), nil); err != nil {
		t.Error(err)
	}
	state("rclone onedrive")
	// Somebody removes a mark: that takes the group itself, and is read back.
	if err := unix.FanotifyMark(d.group, unix.FAN_MARK_REMOVE, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, drive); err != nil {
		t.Fatal(err)
	}
	if _, _, changed, _ := d.state(); !strings.Contains(changed, drive) {
		t.Errorf("a mark is gone: %q", changed)
	}
	// An exception.
	ids = []string{"onedrive"}
	if err := d.start(ids, installed(), nil); err != nil {
		t.Error(err)
	}
	check(rclone, true)
	check(drive, false)
	// Many at once, while it is told otherwise and ends: each is refused or starts, and nobody waits for ever.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 40 {
				if err := try(drive, 0); err != nil && !errors.Is(err, unix.EPERM) {
					t.Error(err)
				}
			}
		})
	}
	has := installed()
	for range 10 {
		d.stop()
		if err := d.start(ids, has, nil); err != nil {
			t.Error(err)
		}
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("one waits for ever")
	}
	d.stop()
	check(drive, true)
	if _, on, _, err := d.state(); on || err != nil {
		t.Errorf("it is on after it was stopped: %v", err)
	}
	if err := d.renew(ids, has); err != nil {
		t.Error(err)
	}
	check(drive, true)
	time.Sleep(100 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if told["rclone rclone"] == 0 || told["onedrive onedrive"] == 0 || len(told) != 2 {
		t.Errorf("told: %v", told)
	}
}
