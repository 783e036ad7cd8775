package media

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	d.taker = &taker{free: func(path string) bool { return filepath.Base(path) == "excepted" }, own: filepath.Join(d.at, "quarantine"), log: slog.New(slog.DiscardHandler), on: func(uint64) string { return "a disk" }, died: func() { t.Error("it watches no more") },
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

// still is why a file is still there; "" if it is not known to be.
func (d *watchedDisk) still(name string) string {
	for _, j := range d.taker.remaining() {
		if j.path == filepath.Join(d.at, name) {
			return j.why
		}
	}
	return ""
}

// empty reports whether nothing is left of a file but its name.
func (d *watchedDisk) empty(name string) bool {
	st, err := os.Stat(filepath.Join(d.at, name))
	return err == nil && st.Size() == 0
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
	if !d.empty("large") {
		t.Error("something of it is still there")
	}
	d.sh("test $(stat -c %s fits) = 1048576 && cmp fits copied")
	e := d.events()[0]
	list, _, _ := d.store.List()
	if e.id != list[0].ID || e.size != 1048577 || e.path != filepath.Join(d.at, "large") || list[0].Path != e.path || e.who.Program == "" {
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
	d.sh("head -c 2M /dev/urandom >excepted; dd if=/dev/zero of=a bs=64k count=20 status=none; truncate -s 2M b; cp a c 2>/dev/null; fallocate -l 2M d; mkdir -p 'sub dir'; mv a 'sub dir/e' 2>/dev/null; true")
	d.sh("python3 -c 'import mmap, os; f = os.open(\"m\", os.O_RDWR | os.O_CREAT); os.ftruncate(f, 3 << 20); m = mmap.mmap(f, 0); m[:4] = b\"abcd\"'")
	d.wait("nothing larger is left", func() bool {
		out, _ := exec.Command("find", d.at, "-size", "+1048576c").Output()
		return string(out) == filepath.Join(d.at, "excepted")+"\n"
	})
	d.sh("test $(stat -c %s excepted) = 2097152")
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
	d.wait("it is taken", func() bool { return d.kept() == 1 && d.empty("open") })
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.sh("head -c 3M /dev/urandom >>open")
	d.wait("it is told that it is still there", func() bool { return strings.Contains(d.still("open"), "has it open") })
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
	d.wait("it is told", func() bool { return strings.Contains(d.still("huge"), "no room") && len(d.events()) == 1 })
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
	t.Run("held by its path alone", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh(`exec python3 - <<'X'
import ctypes, os, time
f = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600); os.write(f, b"x" * 3000000); g = os.open("/proc/self/fd/%d" % f, os.O_PATH); os.close(f); time.sleep(3)
assert ctypes.CDLL(None).linkat(-100, b"/proc/self/fd/%d" % g, -100, b"named", 0x400) == 0
X`)
		d.wait("it is taken", func() bool { return large(d) == "" && d.kept() == 1 })
		// One that nobody names any more is no file of anybody's.
		d.sh(`python3 -c 'import os; f = os.open("x", os.O_RDWR | os.O_CREAT); os.write(f, b"x" * 3000000); os.unlink("x")'`)
		d.wait("it is forgotten", func() bool { d.taker.mu.Lock(); defer d.taker.mu.Unlock(); return len(d.taker.left) == 0 })
		if d.kept() != 1 {
			t.Error("a file that was removed is kept")
		}
	})
	t.Run("under a name of the agent's", func(t *testing.T) {
		d := newWatchedDisk(t)
		at := filepath.Join(t.TempDir(), "socket")
		l, err := net.Listen("unix", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d.sh(`mkdir -p p quarantine; exec unshare -m sh -c 'mount --bind p quarantine && exec python3 -c "
import array, os, socket
f = os.open(\"quarantine/big\", os.O_RDWR | os.O_CREAT); os.write(f, b\"x\" * 3000000)
s = socket.socket(socket.AF_UNIX); s.connect(\"` + at + `\"); s.sendmsg([b\"x\"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array(\"i\", [f]))]); os.close(f)
"'`)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Read(make([]byte, 1)) // and nobody takes the file, which is closed with that
		_ = c.Close()
		d.wait("it is taken", func() bool { return large(d) == "" && d.kept() == 1 })
		if list, _, _ := d.store.List(); list[0].Path != filepath.Join(d.at, "p", "big") {
			t.Errorf("it was at %s", list[0].Path)
		}
	})
	t.Run("many leases", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh(`exec python3 - <<'X'
import fcntl, os, signal
signal.signal(signal.SIGIO, signal.SIG_IGN); all = []
for i in range(2 * 100):
    f = os.open("l%d" % i, os.O_RDWR | os.O_CREAT); os.write(f, b"x"); os.close(f)
    f = os.open("l%d" % i, os.O_RDWR); all.append(f)
    try: fcntl.fcntl(f, 1024, fcntl.F_WRLCK)
    except BlockingIOError: pass # its notice is being looked at
X`)
		d.sh("head -c 3M /dev/urandom >large")
		d.wait("it is taken", func() bool { return large(d) == "" && d.kept() == 1 })
	})
	t.Run("something mounted over the disk", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh("head -c 33M /dev/zero >huge")
		d.wait("it is known", func() bool { return d.still("huge") != "" })
		d.sh("mount -t tmpfs none " + d.at)
		time.Sleep(4 * firstAgain)
		if err := exec.Command("umount", d.at).Run(); err != nil {
			t.Fatal(err)
		}
		if d.still("huge") == "" {
			t.Error("it is forgotten")
		}
	})
	t.Run("unmounted at once", func(t *testing.T) {
		d := newWatchedDisk(t)
		d.sh("exec 4>large; exec 3<large; head -c 3M /dev/urandom >&4; exec 4>&-; sleep 0.3; sleep 60 >/dev/null 2>&1 & echo $! >../held")
		d.wait("it is known", func() bool { return d.still("large") != "" })
		d.taker.keepOnly(nil)
		if e := d.events(); len(e) != 1 || !strings.Contains(e[0].why, "unmounted before it could be taken") {
			t.Errorf("told %+v", e)
		}
		if out, err := exec.Command("sh", "-c", "kill $(cat "+filepath.Join(filepath.Dir(d.at), "held")+"); sleep 0.2").CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
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
	d.sh("head -c 2M /dev/urandom >large; for i in $(seq 3000); do test -s large || break; echo line >>log; sleep 0.01; done; head -c 3M /dev/urandom >larger")
	d.wait("both are taken", func() bool { return d.kept() == 2 && len(d.taker.remaining()) == 0 })
	time.Sleep(2 * firstAgain)
	if list, damaged, err := d.store.List(); len(list) != 2 || len(damaged) != 0 || err != nil || len(d.events()) != 2 {
		t.Errorf("%v %v %v; told %+v", list, damaged, err, d.events())
	}
}

// Who appends to a file while it is being taken loses nothing: the line is in the quarantine, or in what has the name now.
func TestTakerAppended(t *testing.T) {
	d := newWatchedDisk(t)
	d.taker.stop()
	d.store = quarantine.Open(filepath.Join(filepath.Dir(d.at), "quarantine"), quarantine.Bounds{Bytes: 1 << 30, Items: 1000})
	d.watch()
	tries := 150
	if os.Getenv("WARDER_SOAK") != "" {
		tries = 900
	}
	for i := range tries {
		name, line := filepath.Join(d.at, fmt.Sprintf("f%d", i)), fmt.Sprintf("line %d;", i)
		if err := os.WriteFile(name, make([]byte, 1_100_000), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i%20) * time.Millisecond / 2)
		c := exec.Command("python3", "-c", `import os, sys; f = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND); os.write(f, sys.argv[2].encode())`, name, line)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		d.wait("it is taken", func() bool {
			st, err := os.Stat(name)
			return err == nil && st.Size() < takerLimit && len(d.taker.remaining()) == 0
		})
		on, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list, _, _ := d.store.List()
		found := bytes.Contains(on, []byte(line))
		for _, x := range list {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(d.at), "quarantine", x.ID, "file"))
			found = found || err == nil && bytes.HasSuffix(b, []byte(line))
			if err := errors.Join(err, d.store.Purge(x.ID)); err != nil {
				t.Fatal(err)
			}
		}
		if !found {
			t.Errorf("line %d is nowhere", i)
		}
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
