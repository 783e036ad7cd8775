package media

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/mountinfo"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/platform/quarantine"
)

// disk is a file system that a taker watches.
type watchedDisk struct {
	t     *testing.T
	at    string
	mount mountinfo.Mount
	store *quarantine.Store
	taker *taker

	mu  sync.Mutex
	all []taken
	in  atomic.Pointer[func()] // called while a file is being kept
}

const takerLimit = 1 << 20

// newWatchedDisk mounts a new file system, and watches it.
func newWatchedDisk(t *testing.T) *watchedDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		platformtest.Cannot(t, "it mounts a disk, which needs root")
	}
	d := &watchedDisk{t: t, at: filepath.Join(t.TempDir(), "disk")}
	image := filepath.Join(filepath.Dir(d.at), "image")
	script := `truncate -s 64M "$0" && mkfs.ext4 -q "$0" && mkdir -p "$1" && mount -o loop "$0" "$1"`
	if out, err := exec.Command("sh", "-c", script, image, d.at).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", d.at).CombinedOutput(); err != nil { // nothing of ours keeps it busy
			t.Errorf("%v: %s", err, out)
		}
	})
	d.store = quarantine.Open(filepath.Join(filepath.Dir(image), "quarantine"), quarantine.Bounds{Bytes: 32 << 20, Items: 100})
	d.watch()
	return d
}

// watch has a taker watch the disk.
func (d *watchedDisk) watch() {
	t := d.t
	t.Helper()
	d.taker = &taker{own: filepath.Join(d.at, "quarantine"), log: slog.New(slog.DiscardHandler), on: func(uint64) string { return "a disk" }, died: func() { t.Error("it watches no more") },
		hand: func(x taken) { d.mu.Lock(); d.all = append(d.all, x); d.mu.Unlock() },
		keep: func(ctx context.Context, f *os.File, about func() platform.Kept, undisturbed func() bool) (string, func(), error) {
			if in := d.in.Swap(nil); in != nil {
				(*in)()
			}
			x, err := d.store.Keep(ctx, f, func(x *quarantine.Item) error {
				k := about()
				x.Path, x.Reason = k.Path, k.Reason
				return nil
			}, undisturbed)
			return x.ID, func() { _ = d.store.Purge(x.ID) }, err
		}}
	if err := d.taker.start(takerLimit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.taker.stop)
	all, err := (&Media{proc: "/proc"}).mounts()
	at := slices.IndexFunc(all, func(m mountinfo.Mount) bool { return m.Point == d.at })
	if err != nil || at < 0 {
		t.Fatalf("%s is not mounted: %v", d.at, err)
	}
	d.mount = all[at]
	if err := d.taker.mark(d.mount, true); err != nil {
		t.Fatal(err)
	}
	if is, err := d.taker.watched(); err != nil || !is[d.mount.Dev] {
		t.Fatalf("%s is not watched: %v %v", d.mount.Dev, is, err)
	}
}

// sh runs a script in the disk.
func (d *watchedDisk) sh(script string) {
	d.t.Helper()
	c := exec.Command("sh", "-c", script)
	c.Dir = d.at
	if out, err := c.CombinedOutput(); err != nil {
		d.t.Errorf("%s: %v: %s", script, err, out)
	}
}

// wait waits until something is so.
func (d *watchedDisk) wait(what string, f func() bool) {
	d.t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			list, _, _ := d.store.List()
			d.t.Fatalf("it did not come to this: %s; told %+v; kept %+v; left %v", what, d.events(), list, d.taker.remaining())
		}
	}
}

func (d *watchedDisk) events() []taken {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]taken(nil), d.all...)
}

func (d *watchedDisk) kept() int {
	list, _, _ := d.store.List()
	return len(list)
}

// A file that is too large is taken once it was written, whole and with all its names; smaller ones and others stay.
func TestTaker(t *testing.T) {
	d := newWatchedDisk(t)
	d.sh("head -c 1048576 /dev/urandom >fits; head -c 1048577 /dev/urandom | tee ../copy >large; cp fits copied")
	d.wait("it is taken", func() bool { return d.kept() == 1 && len(d.events()) == 1 && len(d.taker.remaining()) == 0 })
	if _, err := os.Stat(filepath.Join(d.at, "large")); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	d.sh("test $(stat -c %s fits) = 1048576 && cmp fits copied")
	e := d.events()[0]
	list, _, _ := d.store.List()
	if e.id != list[0].ID || e.size != 1048577 || e.path != filepath.Join(d.at, "large") || list[0].Path != e.path || e.who.program == "" {
		t.Errorf("%+v %+v", e, list)
	}
	to := filepath.Join(t.TempDir(), "back")
	if _, err := d.store.Release(t.Context(), e.id, to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cmp", to, filepath.Join(filepath.Dir(d.at), "copy")).CombinedOutput(); err != nil {
		t.Errorf("it is not what it was: %s", out)
	}
	// By other ways of writing.
	d.sh("dd if=/dev/zero of=a bs=64k count=20 status=none; truncate -s 2M b; cp a c 2>/dev/null; fallocate -l 2M d; mkdir -p 'sub dir'; mv a 'sub dir/e' 2>/dev/null; true")
	d.sh("python3 -c 'import mmap, os; f = os.open(\"m\", os.O_RDWR | os.O_CREAT); os.ftruncate(f, 3 << 20); m = mmap.mmap(f, 0); m[:4] = b\"abcd\"'")
	d.wait("nothing larger is left", func() bool {
		out, _ := exec.Command("find", d.at, "-size", "+1048576c").Output()
		return len(out) == 0
	})
	d.sh("exec 3>n; head -c 2M /dev/urandom >&3; ln n o; exec 3>&-")
	d.wait("its other name has nothing of it", func() bool {
		st, err := os.Stat(filepath.Join(d.at, "o"))
		return err == nil && st.Size() == 0
	})
	if d.taker.missed() {
		t.Error("notices were lost")
	}
}

// Nobody's work is lost: a file that somebody has open stays until they close it, and whoever opens one that is being taken has it.
func TestTakerWaits(t *testing.T) {
	d := newWatchedDisk(t)
	path := filepath.Join(d.at, "open")
	d.sh("head -c 2M /dev/zero >open.new; exec 3<open.new; mv open.new open; sleep 0.5; exec 3<&-") // its reader ends
	d.wait("it is taken", func() bool {
		_, err := os.Stat(path)
		return d.kept() == 1 && os.IsNotExist(err)
	})
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.sh("head -c 3M /dev/urandom >>open")
	d.wait("it is told that it is still there", func() bool {
		why := d.taker.remaining()[path]
		return strings.Contains(why, "has it open")
	})
	if _, err := f.WriteAt([]byte("more"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 5<<20+4 || d.kept() != 1 {
		t.Errorf("%v %v %d", st, err, d.kept())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d.wait("all of it is taken", func() bool {
		list, _, _ := d.store.List()
		return len(list) == 2 && list[1].Size == 5<<20+4 && len(d.taker.remaining()) == 0
	})
	// Who opens it while it is copied.
	inside, free := make(chan struct{}), make(chan struct{})
	in := func() { close(inside); <-free }
	d.in.Store(&in)
	d.sh("head -c 2M /dev/urandom >third")
	<-inside
	opened := make(chan error)
	go func() {
		g, err := os.OpenFile(filepath.Join(d.at, "third"), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = g.WriteString("and this")
			err = errors.Join(err, g.Close())
		}
		opened <- err
	}()
	time.Sleep(200 * time.Millisecond) // it waits in the kernel by then
	close(free)
	if err := <-opened; err != nil {
		t.Error(err)
	}
	d.wait("what was added is taken with it", func() bool {
		list, _, _ := d.store.List()
		return len(list) == 3 && list[2].Size == 2<<20+8
	})
	if d.taker.missed() {
		t.Error("notices were lost")
	}
}

// Without room, a file stays where it is, and that is said; so does one that was renamed or replaced meanwhile.
func TestTakerWithoutRoom(t *testing.T) {
	d := newWatchedDisk(t)
	d.sh("head -c 33M /dev/zero >huge")
	path := filepath.Join(d.at, "huge")
	d.wait("it is told", func() bool { return strings.Contains(d.taker.remaining()[path], "no room") && len(d.events()) == 1 })
	d.sh("test $(stat -c %s huge) = 34603008 && rm huge")
	d.wait("it is forgotten", func() bool { return len(d.taker.remaining()) == 0 })
	if d.kept() != 0 || len(d.events()) != 1 {
		t.Errorf("%d kept, told %+v", d.kept(), d.events())
	}
	// A link, put where the file was, is not followed.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d.sh("for i in $(seq 40); do head -c 1100000 /dev/zero >x; rm -f x; ln -s " + victim + " x; rm -f x; done; mkdir -p y; head -c 2M /dev/zero >y/f; mv y z; ln -s " + filepath.Dir(victim) + " y")
	d.sh("rm -rf y z; true")
	if st, err := os.Stat(victim); err != nil || st.Size() != 2<<20 {
		t.Errorf("the file behind a link: %v %v", st, err)
	}
}

// What somebody does so that nobody is told: each is taken, or it is known that something may be there.
func TestTakerEvaded(t *testing.T) {
	large := func(d *watchedDisk) string {
		out, _ := exec.Command("find", d.at, "-size", "+1048576c").Output()
		return string(out)
	}
	t.Run("a lease of their own", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh(`exec python3 - <<'X'
import fcntl, os
f = os.open("leased", os.O_RDWR | os.O_CREAT); os.write(f, b"x" * 3000000); fcntl.fcntl(f, 1024, fcntl.F_WRLCK)
for i in range(6000): fcntl.lockf(f, fcntl.LOCK_EX, 1, 2 * i)
os.close(f)
X`)
		d.wait("it is taken, or known", func() bool { return large(d) == "" || d.taker.missed() })
	})
	t.Run("closed by the agent", func(t *testing.T) {
		d := newWatchedDisk(t)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(d.at, "sent"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 3_000_000)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Close(), func() error { _, err := unix.Read(pair[1], make([]byte, 1)); return err }()); err != nil {
			t.Fatal(err)
		}
		d.wait("it is taken", func() bool { return large(d) == "" && d.kept() == 1 })
		_, _ = unix.Close(pair[0]), unix.Close(pair[1])
	})
	t.Run("named later", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh(`exec python3 - <<'X'
import ctypes, os, time
f = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600); os.write(f, b"x" * 3000000); g = os.open("/proc/self/fd/%d" % f, os.O_RDONLY); os.close(f); time.sleep(0.5)
assert ctypes.CDLL(None).linkat(-100, b"/proc/self/fd/%d" % g, -100, b"named", 0x400) == 0
X`)
		d.wait("it is taken", func() bool { return large(d) == "" && d.kept() == 1 })
	})
	t.Run("a mount that does not answer", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh("head -c 33M /dev/zero >huge")
		d.wait("it is known", func() bool { return len(d.taker.remaining()) == 1 })
		d.taker.keepOnly([]string{d.at}) // it is still mounted, whatever came of marking it
		if len(d.taker.remaining()) != 1 {
			t.Error("it is forgotten")
		}
		d.taker.keepOnly(nil)
		if len(d.taker.remaining()) != 0 {
			t.Error("it is known although its disk is not mounted any more")
		}
	})
}

// The quarantine may lie on the disk that is watched, and whoever writes the agent's log, too: nobody waits for anybody, and what
// is kept there is not taken again.
func TestTakerStoreInside(t *testing.T) {
	d := newWatchedDisk(t)
	d.taker.stop()
	d.store = quarantine.Open(filepath.Join(d.at, "quarantine"), quarantine.Bounds{Bytes: 32 << 20, Items: 100})
	d.watch()
	d.sh("head -c 2M /dev/urandom >large; while sleep 0.01; do test -e large || break; echo line >>log; done; head -c 3M /dev/urandom >larger")
	d.wait("both are taken", func() bool { return d.kept() == 2 && len(d.taker.remaining()) == 0 })
	time.Sleep(2 * firstAgain)
	if list, damaged, err := d.store.List(); len(list) != 2 || len(damaged) != 0 || err != nil || len(d.events()) != 2 {
		t.Errorf("%v %v %v; told %+v", list, damaged, err, d.events())
	}
}

// It is killed again and again: whatever somebody wrote is whole on the disk or whole in the quarantine, and nothing counts that is
// not.
func TestTakerKilled(t *testing.T) {
	if at := os.Getenv("WARDER_TAKER"); at != "" {
		d := &watchedDisk{t: t, at: filepath.Join(at, "disk"), store: quarantine.Open(filepath.Join(at, "quarantine"), quarantine.Bounds{Bytes: 1 << 30, Items: 1000})}
		d.store.Sweep()
		d.watch()
		if _, err := os.Stdout.WriteString("watching\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		return
	}
	d := newWatchedDisk(t)
	d.taker.stop()
	kills := 15
	if os.Getenv("WARDER_SOAK") != "" {
		kills = 200
	}
	dir := filepath.Dir(d.at)
	for i := range kills {
		c := exec.Command("/proc/self/exe", "-test.run", "^TestTakerKilled$")
		c.Env = append(os.Environ(), "WARDER_TAKER="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		texts := map[string][]byte{}
		for n := range 3 {
			b := bytes.Repeat([]byte(fmt.Sprintf("%d %d\n", i, n)), 400_000)
			name := fmt.Sprintf("f%d", n)
			if err := os.WriteFile(filepath.Join(d.at, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			texts[name] = b
		}
		time.Sleep(time.Duration(i%15) * 2 * time.Millisecond)
		_ = c.Process.Kill()
		_ = c.Wait()
		list, damaged, err := d.store.List()
		if err != nil || len(damaged) > 0 {
			t.Fatalf("%v %v", damaged, err)
		}
		in := map[string]int{}
		for _, x := range list {
			b, err := os.ReadFile(filepath.Join(dir, "quarantine", x.ID, "file"))
			if name := filepath.Base(x.Path); err == nil && bytes.Equal(b, texts[name]) {
				in[name]++
			}
		}
		for name, b := range texts {
			is, err := os.ReadFile(filepath.Join(d.at, name))
			if on := err == nil && bytes.Equal(is, b); !on && in[name] != 1 {
				t.Errorf("kill %d: %s is not on the disk (%d bytes, %v), and %d times in the quarantine", i, name, len(is), err, in[name])
			}
		}
		for _, x := range list {
			if err := d.store.Purge(x.ID); err != nil {
				t.Fatal(err)
			}
		}
		d.sh("rm -f f*")
	}
}

func TestParseMarks(t *testing.T) {
	got, err := parseMarks(strings.NewReader("pos:\t0\nflags:\t04002\nfanotify flags:0 event-flags:8000\nfanotify sdev:800011 mflags:0 mask:8 ignored_mask:0\n" +
		"fanotify sdev:10300001 mflags:0 mask:20 ignored_mask:0\n"))
	if err != nil || len(got) != 1 || !got["8:17"] {
		t.Errorf("%v %v", got, err)
	}
	if _, err := parseMarks(strings.NewReader("fanotify sdev:x mflags:0 mask:8\n")); err == nil {
		t.Error("nonsense is read")
	}
}
