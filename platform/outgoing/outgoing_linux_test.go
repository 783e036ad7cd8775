package outgoing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/mountinfo"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/platform/platformtest/stuckfs"
	"github.com/warderd/warder/platform/quarantine"
)

const secret = "CANARY-4711"

// policy is what a policy says here.
type policy struct {
	mode enforce.Mode
	late bool // is free
	days int
}

func (p policy) CanDeny() bool               { return p.HoldsSensitive() }
func (p policy) SensitiveMode() enforce.Mode { return p.mode }
func (p policy) HoldsSensitive() bool        { return p.mode == enforce.Enforce }
func (p policy) SensitiveKey() string        { return fmt.Sprint(p) }
func (p policy) LateIsFree() bool            { return p.late || !p.HoldsSensitive() }
func (p policy) PlainPaths() bool            { return false }
func (p policy) KeepDays() int               { return max(1, p.days) }
func (p policy) SensitiveReason(enforce.Verdict, *fact.Sensitive) (reason, nearest string) {
	return "it has a canary", ""
}

func (p policy) Sensitive(x *fact.Sensitive) enforce.Verdict {
	bad := len(x.Found) > 0 || x.Late && !p.LateIsFree()
	rule := enforce.Rule{Setting: setting, Line: 11}
	if bad && p.mode < enforce.Enforce {
		return enforce.Verdict{Allow: true, Would: rule, WouldDeny: true, WouldMode: p.mode}
	}
	return enforce.Verdict{Allow: !bad, Rule: rule, Would: rule}
}

// lab is a disk and a home directory with a sync folder, on a file system of their own.
type lab struct {
	t     *testing.T
	g     *Guard
	at    string // the disk
	home  string
	sync  string // the folder
	store *quarantine.Store
	mount mountinfo.Mount

	mu    sync.Mutex
	said  []platform.Decision
	looks atomic.Int32
	slow  atomic.Int64 // nanoseconds that looking takes
	fails atomic.Bool
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		platformtest.Cannot(t, "it mounts a disk, which needs root")
	}
	base := t.TempDir()
	l := &lab{t: t, at: filepath.Join(base, "disk"), home: filepath.Join(base, "home")}
	for _, x := range []string{l.at, l.home} {
		out, err := exec.Command("sh", "-c", `truncate -s 64M "$0.img" && mkfs.ext4 -q "$0.img" && mkdir -p "$0" && mount -o loop "$0.img" "$0"`, x).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", x).CombinedOutput(); err != nil { // nothing of ours keeps it busy
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	l.sync = filepath.Join(l.home, "anna", "Nextcloud")
	l.sh(`mkdir -p $home/anna/Nextcloud/deep/er $home/anna/.config/Nextcloud $home/anna/other
printf '[Accounts]\n0\\Folders\\1\\localPath=%s/\n' $sync >$home/anna/.config/Nextcloud/nextcloud.cfg; chown -R 1000:1000 $home/anna; echo 'anna:x:1000:1000::'$home'/anna:/bin/sh' >$home/passwd`)
	l.store = quarantine.Open(filepath.Join(base, "quarantine"), quarantine.Bounds{Bytes: 32 << 20, Items: 100})
	l.read()
	l.begin()
	return l
}

// read finds the disk in the list of mounts.
func (l *lab) read() {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		l.t.Fatal(err)
	}
	all, _, _ := mountinfo.Parse(bytes.NewReader(b))
	for _, m := range all {
		if m.Point == l.at {
			l.mount = m
		}
	}
	if l.mount.ID == 0 {
		l.t.Fatal("the disk is not mounted")
	}
}

// begin starts an agent.
func (l *lab) begin() {
	c := quarantine.Capability(platform.Host{Quarantine: filepath.Join(filepath.Dir(l.at), "quarantine")})
	l.g = &Guard{log: slog.New(slog.DiscardHandler), proc: "/proc", passwd: l.home + "/passwd", homes: l.home, until: filepath.Join(filepath.Dir(l.at), "until"), finding: make(chan struct{}, 1),
		outside: func() ([]platform.OutsideDisk, error) {
			return []platform.OutsideDisk{{Name: "disk sdz", Mounts: []mountinfo.Mount{l.mount}}}, nil
		},
		look: func(ctx context.Context, f *os.File, _ string) (platform.Seen, error) {
			l.looks.Add(1)
			select {
			case <-time.After(time.Duration(l.slow.Load())):
			case <-ctx.Done():
				return platform.Seen{Late: true}, nil
			}
			if l.fails.Load() {
				return platform.Seen{}, errors.New("the scanner ended")
			}
			st, err := f.Stat()
			if err != nil {
				return platform.Seen{}, err
			}
			b, err := io.ReadAll(io.NewSectionReader(f, 0, st.Size()))
			if n := bytes.Count(b, []byte(secret)); n > 0 {
				return platform.Seen{Kind: "text", Found: []fact.SensitiveFound{{Pattern: "canary", Setting: string(setting), Count: n, Mark: "aa"}}}, err
			}
			if bytes.HasPrefix(b, []byte("sealed")) {
				why := []string{"encrypted"}
				if n := strings.Fields(string(b)); len(n) > 1 {
					why = append(why, n[1]) // another reason each time
				}
				return platform.Seen{Kind: "zip", Unread: why}, err
			}
			return platform.Seen{Kind: "text"}, err
		}}
	if err := platform.Join([]platform.Capability{c, {Uses: []platform.Port{
		platform.Borrow(platform.PortKeepData, func(f platform.KeepData) { l.g.keep = f }),
		platform.Borrow(platform.PortExpire, func(f platform.Expire) { l.g.expire = f })}}}); err != nil {
		l.t.Fatal(err)
	}
	c.Start()
	l.g.Listen(func(d platform.Decision) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.said = append(l.said, d)
	}, nil)
	l.t.Cleanup(l.g.Stop)
}

// set puts a policy in force, and waits until its places are watched.
func (l *lab) set(p policy) fact.Outgoing {
	l.t.Helper()
	if err := l.g.Load(p); err != nil {
		l.t.Fatal(err)
	}
	var out fact.Machine
	l.wait("its places are watched", func() bool {
		l.g.mu.Lock()
		l.g.found = time.Time{}
		l.g.mu.Unlock()
		if err := l.g.Observe(l.t.Context(), &out); err != nil || !out.Outgoing.OK {
			return false
		}
		n := 0
		for _, x := range out.Outgoing.V.Places {
			if x.Watched && x.Holds == p.HoldsSensitive() && x.Why == "" {
				n++
			}
		}
		return n == 2
	})
	return out.Outgoing.V
}

func (l *lab) now() fact.Outgoing {
	var out fact.Machine
	_ = l.g.Observe(l.t.Context(), &out)
	return out.Outgoing.V
}

func (l *lab) places() []*place {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return l.g.all()
}

// sh has another program do something.
func (l *lab) sh(script string) string {
	l.t.Helper()
	out, err := l.try(script)
	if err != nil {
		l.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return out
}

func (l *lab) try(script string) (string, error) {
	c := exec.Command("sh", "-c", script)
	c.Env = append(os.Environ(), "disk="+l.at, "sync="+l.sync, "home="+l.home, "secret="+secret)
	out, err := c.CombinedOutput()
	return string(out), err
}

func (l *lab) wait(what string, is func() bool) {
	l.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var notes []string
	for _, d := range l.said[max(0, len(l.said)-2):] {
		notes = append(notes, d.Note)
	}
	l.g.mu.Lock()
	var items []string
	for _, p := range l.g.places {
		p.mu.Lock()
		items = append(items, fmt.Sprintf("%s: armed %v, why %q, behind %v, walking %v, coming %d", p.name, p.armed, p.why, p.behind, p.walking, p.coming.Load()))
		for _, it := range p.items {
			items = append(items, fmt.Sprintf("%s %d %s", it.path, it.state, it.why))
		}
		p.mu.Unlock()
	}
	l.g.mu.Unlock()
	l.t.Fatalf("not so: %s; told: %q; kept: %v; known: %q", what, notes, l.kept(), items)
}

// kept is what the quarantine has, by the names of the files.
func (l *lab) kept() (out []string) {
	list, damaged, err := l.store.List()
	if err != nil || len(damaged) > 0 {
		l.t.Errorf("%v %v", damaged, err)
	}
	for _, x := range list {
		out = append(out, filepath.Base(x.Path))
	}
	slices.Sort(out)
	return out
}

// told counts decisions that were handed over since.
func (l *lab) told(words string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.said {
		b, _ := json.Marshal(d.Fact)
		reason, _ := d.Reason()
		if all := fmt.Sprint(d.Subject, d.Note, reason, string(b), d.Done.Value); strings.Contains(all, words) {
			n++
		}
		if all := fmt.Sprint(d.Subject, d.Note, reason, string(b)); strings.Contains(all, secret) || strings.Contains(all, "anna/") {
			l.t.Errorf("an event says what nobody may know: %s", all)
		}
	}
	return n
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// What is written to a disk or a sync folder is looked into; sensitive data is in the quarantine then, and nowhere else.
func TestTaken(t *testing.T) {
	l := newLab(t)
	l.sh("echo before $secret >$disk/before; echo before $secret >$sync/before; sleep 3.5")
	out := l.set(policy{mode: enforce.Enforce, late: true})
	if len(out.Places) != 2 || out.Places[0].Name != "Nextcloud's folder of user 1000" || out.Places[0].App != "nextcloud" || out.Places[1].Name != "disk sdz" {
		t.Errorf("%+v", out)
	}
	if got := l.sh("cat $disk/before $sync/before"); got != "before "+secret+"\nbefore "+secret+"\n" {
		t.Errorf("what was there before: %q", got)
	}
	for i, way := range []string{
		"echo $secret >$disk/FILE",
		"echo $secret >$disk/new; mv $disk/new $disk/FILE",
		"mkdir -p $disk/a/b; echo $secret >$disk/a/b/FILE",
		"exec 3>$disk/FILE; echo $secret >&3; sleep 0.2",
		"echo harmless >$disk/FILE; echo $secret >>$disk/FILE",
		"echo harmless >$disk/FILE; sleep 0.1; echo $secret | dd of=$disk/FILE conv=notrunc status=none",
		"python3 -c 'import mmap,os,sys\nf=open(sys.argv[1],\"w+b\"); f.truncate(4096)\nm=mmap.mmap(f.fileno(),4096); f.close(); m[:11]=sys.argv[2].encode(); m.close()' $disk/FILE $secret",
		"echo $secret >$sync/FILE",
		"echo $secret >$sync/deep/er/FILE",
		"mkdir -p $sync/new/dir && echo $secret >$sync/new/dir/FILE",
		"echo $secret >$home/anna/other/FILE; mv $home/anna/other/FILE $sync/",
		"mkdir $home/anna/other/d; echo $secret >$home/anna/other/d/FILE; mv $home/anna/other/d $sync/moved",
		"echo $secret >$home/anna/other/FILE; ln $home/anna/other/FILE $sync/FILE",
		"cp $disk/before $sync/FILE",
		"exec 3>$sync/part; echo $secret >&3; mv $sync/part $sync/FILE; sleep 0.2",
	} {
		name := fmt.Sprintf("way%d", i)
		l.sh(strings.ReplaceAll(way, "FILE", name))
		l.wait(way+": it is in the quarantine", func() bool { return len(l.kept()) == i+1 })
		l.wait(way+": it is nowhere else", func() bool {
			out, _ := l.try("grep -rl $secret $disk $sync | grep -v /before")
			return out == ""
		})
		l.wait(way+": it is told", func() bool { return l.told("is in quarantine as") == i+1 })
	}
	// While it is still being looked at whether it has left, it is refused.
	l.wait("a file that has a name elsewhere can be read there", func() bool {
		got, err := l.try("cat $home/anna/other/way12")
		return err == nil && got == secret+"\n"
	})
	// Nothing is kept twice, and nothing is left to be done.
	if n := len(l.kept()); n != 15 {
		t.Errorf("%d files: %v", n, l.kept())
	}
	if out := l.now(); out.Held != 0 || out.Late != 0 {
		t.Errorf("%+v", out)
	}
	// What is harmless stays, and is looked into once.
	l.sh("echo harmless >$disk/harmless; echo harmless >$sync/harmless; sleep 0.2; cat $disk/harmless $sync/harmless")
	before := l.looks.Load()
	l.sh("sleep 0.1; cat $disk/harmless $sync/harmless; cat $disk/harmless $sync/harmless")
	if n := l.looks.Load(); n > before+2 {
		t.Errorf("it is looked into %d times more", n-before)
	}
}

// Who opens a file waits until it was looked into: a sync client that is told of it at once never gets it.
func TestHeld(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	l.slow.Store(int64(300 * time.Millisecond))
	for i := range 3 {
		for _, at := range []string{"$disk", "$sync"} {
			name := fmt.Sprintf("f%d", i)
			out, err := l.try("echo $secret >" + at + "/" + name + "; cat " + at + "/" + name)
			if err == nil || strings.Contains(out, secret) || !strings.Contains(out, "not permitted") {
				t.Errorf("%s: %v %q", at, err, out)
			}
			if out := l.sh("echo harmless >" + at + "/h" + name + "; cat " + at + "/h" + name); out != "harmless\n" {
				t.Errorf("%s: %q", at, out)
			}
		}
	}
	// While it is still open, and moved there.
	for _, way := range []string{"exec 3>$sync/open; echo $secret >&3; cat $sync/open", "echo $secret >$home/anna/other/m; mv $home/anna/other/m $sync/m; cat $sync/m",
		"mkdir $sync/fresh; sleep 0.2; echo $secret >$sync/fresh/x; cat $sync/fresh/x"} {
		if out, err := l.try(way); err == nil || strings.Contains(out, secret) {
			t.Errorf("%s: %v %q", way, err, out)
		}
	}
	l.wait("all are in the quarantine", func() bool { return len(l.kept()) == 9 })
	// Somebody who had it open before keeps it from being taken away, but nobody else gets it.
	l.slow.Store(0)
	l.sh("echo x >$disk/busy; sleep 0.2")
	c := exec.Command("sh", "-c", "exec 3<$disk/busy; echo ready; read line; true")
	c.Env = append(os.Environ(), "disk="+l.at)
	in, _ := c.StdinPipe()
	ready, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = ready.Read(make([]byte, 1))
	l.sh("echo $secret >$disk/busy")
	l.wait("it is held", func() bool { return l.now().Held == 1 })
	if out, err := l.try("cat $disk/busy"); err == nil || strings.Contains(out, secret) {
		t.Errorf("%v %q", err, out)
	}
	if out := l.now(); !strings.Contains(out.HeldWhy, "another program has it open") && !strings.Contains(out.HeldWhy, "it is being taken away") {
		t.Errorf("%+v", out)
	}
	l.sh("mv $disk/busy $disk/busier") // under whatever name
	_ = in.Close()
	_ = c.Wait()
	l.wait("it is taken away", func() bool { return len(l.kept()) == 10 && size(t, l.at+"/busier") == 0 })
}

// Below enforce nothing is done, nobody waits, and it is told.
func TestWatched(t *testing.T) {
	for _, mode := range []enforce.Mode{enforce.Monitor, enforce.Warn} {
		l := newLab(t)
		l.set(policy{mode: mode})
		l.slow.Store(int64(100 * time.Millisecond))
		if out := l.sh("echo $secret >$disk/a; cat $disk/a; echo $secret >$sync/b; cat $sync/b"); out != secret+"\n"+secret+"\n" {
			t.Errorf("%s: %q", mode, out)
		}
		l.wait("it is told", func() bool { return l.told(`"canary"`) == 2 })
		if got := l.kept(); len(got) != 0 {
			t.Errorf("%s: %v", mode, got)
		}
		l.g.Stop()
	}
}

// What cannot be looked into in time is let through, or not, as the policy says; and nobody is kept for longer.
func TestLate(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	l.fails.Store(true)
	if out := l.sh("echo text >$disk/a; cat $disk/a"); out != "text\n" {
		t.Errorf("%q", out)
	}
	l.wait("it is told", func() bool { return l.told("could not be looked into in time") == 1 })
	if out := l.now(); out.Late != 1 || out.Held != 0 {
		t.Errorf("%+v", out)
	}
	l.set(policy{mode: enforce.Enforce})
	if out, err := l.try("echo text >$disk/b; cat $disk/b"); err == nil {
		t.Errorf("%q", out)
	}
	if out := l.now(); out.Held != 1 || !strings.Contains(out.HeldWhy, "the scanner ended") {
		t.Errorf("%+v", out)
	}
	l.fails.Store(false)
	l.sh("echo more >$disk/b || true")            // who opens it is refused, also to write
	l.set(policy{mode: enforce.Enforce, days: 2}) // other rules
	l.wait("it is looked into again", func() bool { out, err := l.try("cat $disk/b"); return err == nil && out == "text\n" })
	// With the policy gone nobody is kept.
	l.slow.Store(int64(time.Hour))
	done := make(chan string, 1)
	go func() { out, _ := l.try("echo text >$disk/c; cat $disk/c"); done <- out }()
	l.wait("somebody waits", func() bool {
		n := 0
		for _, p := range l.places() {
			p.mu.Lock()
			n += p.asks
			p.mu.Unlock()
		}
		return n == 1
	})
	go func() { _ = l.g.Load(nil) }()
	select {
	case out := <-done:
		if out != "text\n" {
			t.Errorf("%q", out)
		}
	case <-time.After(20 * time.Second):
		t.Error("it waits for ever")
	}
}

// A file that has a name outside the folder, too, is free there once its name in the folder is gone: what we do to remove that one is no
// reason to look into it again.
func TestElsewhere(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	for i := range 30 {
		file := fmt.Sprintf("$home/anna/other/f%d", i)
		l.sh(fmt.Sprintf("echo $secret >%s; ln %[1]s $sync/", file))
		l.wait("it is taken", func() bool {
			known := 0
			for _, p := range l.places() {
				p.mu.Lock()
				known += len(p.items)
				p.mu.Unlock()
			}
			return len(l.kept()) == i+1 && known == 0
		})
		for range 4 {
			if got, err := l.try("cat " + file); err != nil || got != secret+"\n" {
				t.Errorf("round %d: %q, %v", i, got, err)
			}
		}
	}
}

// quiet waits until all that was written has been looked into.
func (l *lab) quiet() {
	l.t.Helper()
	l.wait("all is looked into", func() bool {
		return !slices.ContainsFunc(l.places(), func(p *place) bool { return !p.quiet() })
	})
}

// python runs a program as the user whose the folder is.
func (l *lab) python(script string, args ...string) {
	l.t.Helper()
	for dir := l.sync; dir != "/" && dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) //nolint:gosec // of a test
	}
	c := exec.Command("setpriv", append(append([]string{"--reuid", "1000", "--regid", "1000", "--clear-groups"}, args...), script)...)
	c.Env = append(os.Environ(), "sync="+l.sync, "home="+l.home, "secret="+secret)
	if out, err := c.CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
}

// A file that is written under a name which is gone by then has another one in the folder, and is looked into by that; whatever the name
// was, also one as we give.
func TestUnlinked(t *testing.T) {
	const unlinked = `
import os, time
d, secret = os.environ["sync"], os.environ["secret"].encode()
w = os.open(d + "/NAME", os.O_WRONLY | os.O_CREAT, 0o644)
os.link(d + "/NAME", d + "/report")
os.unlink(d + "/NAME")
time.sleep(0.3)
os.write(w, secret)
os.close(w)`
	for _, name := range []string{".warder-a", "plain"} {
		for _, mode := range []enforce.Mode{enforce.Monitor, enforce.Enforce} {
			l := newLab(t)
			l.set(policy{mode: mode, late: true})
			l.python(strings.ReplaceAll(unlinked, "NAME", name), "/usr/bin/python3", "-c")
			l.wait(name+": it is told", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return slices.ContainsFunc(l.said, func(d platform.Decision) bool { return len(d.Fact.(*fact.Sensitive).Found) > 0 })
			})
			if mode == enforce.Enforce {
				l.wait(name+": it is taken", func() bool { return len(l.kept()) == 1 && size(t, l.sync+"/report") == 0 })
			}
		}
	}
	// The same by another mount of one's own, where our paths lead nowhere.
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	l.python(`mkdir -p $home/anna/box; mount --bind $sync $home/anna/box && { sleep 0.3; echo $secret; } >$home/anna/box/.warder-x`, "unshare", "-Urm", "sh", "-c")
	l.wait("it is taken", func() bool { return len(l.kept()) == 1 })
}

// A directory that came while too much came to be told of is looked into, however old it is; what was there before the folder was watched
// is not.
func TestCameUnnoticed(t *testing.T) {
	l := newLab(t)
	l.sh("mkdir $home/anna/old $sync/flood $sync/before; for i in 1 2 3; do echo $secret >$home/anna/old/doc$i; done; echo before $secret >$sync/before/doc; sleep 0.5")
	l.set(policy{mode: enforce.Enforce, late: true})
	l.sh(`sleep 0.5; /usr/bin/python3 - <<'E'
import os, time
s, pids = os.environ["sync"], []
for k in range(3):
    p = os.fork()
    if p == 0:
        end, n = time.time() + 1.1, s + "/flood/%d" % k
        os.close(os.open(n, os.O_CREAT | os.O_WRONLY))
        while time.time() < end:
            os.rename(n, n + "x")
            os.rename(n + "x", n)
        os._exit(0)
    pids.append(p)
time.sleep(0.6)
os.rename(os.environ["home"] + "/anna/old", s + "/old")
for p in pids:
    os.waitpid(p, 0)
E`)
	l.wait("all of it is taken", func() bool { return len(l.kept()) == 3 })
	l.quiet()
	if got := l.sh("cat $sync/before/doc"); got != "before "+secret+"\n" {
		t.Errorf("what was there before: %q", got)
	}
}

// However many are held, what was not noticed is looked for.
func TestManyHeld(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	go l.try(`/usr/bin/python3 - <<'E'
import os, time
files = []
for i in range(300):
    f = open(os.environ["sync"] + "/h%d" % i, "w+")
    files += [f, open(os.environ["sync"] + "/h%d" % i)]
    f.write(os.environ["secret"])
    f.close()
for i in range(1200):
    if os.path.exists(os.environ["home"] + "/over"): break
    time.sleep(0.05)
E`) //nolint:errcheck // it may have been refused by then
	l.wait("they are held", func() bool { return l.now().Held >= 290 })
	for _, p := range l.places() {
		p.lost("a test")
	}
	l.wait("it is looked for", func() bool {
		return !slices.ContainsFunc(l.places(), func(p *place) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.behind || p.walking
		})
	})
	l.sh("touch $home/over")
}

// Who wrote is the file's user if nobody knows any more.
func TestWriter(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Monitor})
	l.python(`import os
f = os.open(os.environ["sync"] + "/c", os.O_WRONLY | os.O_CREAT)
os.write(f, os.environ["secret"].encode())
os._exit(0)`, "/usr/bin/python3", "-c")
	l.wait("it is told", func() bool { return l.told("user 1000") > 0 })
	if l.told("user 0") > 0 {
		t.Error("it is told as root's")
	}
}

// What leaves and could not be read whole is told, once in a while of each reason, and nothing is done about it; however much of it there is,
// what has sensitive data is told of, too.
func TestUnread(t *testing.T) {
	for _, mode := range []enforce.Mode{enforce.Enforce, enforce.Monitor} {
		l := newLab(t)
		l.set(policy{mode: mode})
		for i := range 3 {
			if out := l.sh(fmt.Sprintf("echo sealed >$disk/%[1]d; echo sealed >$sync/%[1]d; cat $disk/%[1]d $sync/%[1]d", i)); out != "sealed\nsealed\n" {
				t.Errorf("%s: %q", mode, out)
			}
		}
		l.wait("all are looked into", func() bool { return l.looks.Load() >= 6 && l.told("parts of it were not read: encrypted") >= 2 })
		l.quiet()
		time.Sleep(200 * time.Millisecond) // they are told in the background
		if n := l.told(""); n != 2 {
			t.Errorf("%s: %d events", mode, n)
		}
		l.mu.Lock()
		for _, d := range l.said {
			x := d.Fact.(*fact.Sensitive)
			if !d.Verdict.Allow || d.Verdict.WouldDeny || d.Taken || x.Late || len(x.Found) > 0 || len(x.Unread) != 1 || x.Unread[0] != "encrypted" {
				t.Errorf("%+v %+v", d, x)
			}
		}
		l.mu.Unlock()
		for i := range 30 {
			l.sh(fmt.Sprintf("echo sealed %d >$disk/more%[1]d; cat $disk/more%[1]d >/dev/null", i))
		}
		l.sh("echo $secret >$disk/secret")
		l.wait("what was found is told", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return slices.ContainsFunc(l.said, func(d platform.Decision) bool { return len(d.Fact.(*fact.Sensitive).Found) > 0 })
		})
	}
}

// A program that hangs says nothing; another one is asked.
func TestHung(t *testing.T) {
	l := newLab(t)
	look := l.g.look
	var hung atomic.Int32
	l.g.look = func(ctx context.Context, f *os.File, name string) (platform.Seen, error) {
		if hung.Add(1) == 1 {
			return platform.Seen{Late: true}, nil
		}
		return look(ctx, f, name)
	}
	l.set(policy{mode: enforce.Enforce, late: true})
	l.sh("echo $secret >$disk/a")
	l.wait("it is taken", func() bool { return len(l.kept()) == 1 })
}

// Killed at any time, nothing is lost and nothing is kept twice.
func TestAgain(t *testing.T) {
	l := newLab(t)
	// An agent that is killed between the copy and the removal.
	keep := l.g.keep
	l.g.keep = func(ctx context.Context, f *os.File, about func() platform.Kept, alone func() bool) (string, func(), func(), error) {
		id, _, _, err := keep(ctx, f, about, alone)
		if err == nil && len(l.kept()) >= 2 {
			time.Sleep(100 * time.Millisecond)
		}
		if err == nil {
			err = errors.New("killed")
		}
		return id, nil, nil, err
	}
	l.set(policy{mode: enforce.Enforce, late: true})
	l.wait("it has caught up", func() bool { _, err := os.Stat(l.g.until); return err == nil })
	l.sh("echo $secret >$disk/a; echo $secret >$sync/b")
	l.wait("both are copied", func() bool { return slices.Contains(l.kept(), "a") && slices.Contains(l.kept(), "b") })
	l.g.Stop()
	l.sh("echo $secret >$disk/meanwhile; echo $secret >$sync/meanwhile; grep -q $secret $disk/a")
	l.begin()
	l.set(policy{mode: enforce.Enforce, late: true})
	l.wait("all are taken away", func() bool {
		out, _ := l.try("grep -rl $secret $disk $sync")
		return out == ""
	})
	l.wait("each is kept once", func() bool { return len(l.kept()) == 4 })
	if got := l.kept(); !slices.Equal(got, []string{"a", "b", "meanwhile", "meanwhile"}) {
		t.Errorf("%v", got)
	}
}

// What is too much for the kernel's memory, and for ours, is found later.
func TestMany(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	l.slow.Store(int64(2 * time.Millisecond))
	l.sh("for i in $(seq 1500); do echo text >$disk/f$i; done; echo $secret >$disk/last; for i in $(seq 700); do echo text >$sync/f$i; done; echo $secret >$sync/last")
	l.wait("the last ones are found", func() bool { return len(l.kept()) == 2 })
	l.slow.Store(0)
	l.wait("all are looked into", func() bool { return l.now().Behind == 0 })
}

// What comes with a directory is looked into however old it is; and a folder that is put in the place of another one is watched.
func TestMoved(t *testing.T) {
	l := newLab(t)
	l.sh("mkdir -p $home/anna/old/deep; echo $secret >$home/anna/old/deep/x; echo harmless >$home/anna/old/y; sleep 0.3")
	l.set(policy{mode: enforce.Enforce, late: true})
	l.sh("sleep 1.2; mv $home/anna/old $sync/old")
	l.wait("it is taken", func() bool { return slices.Equal(l.kept(), []string{"x"}) })
	l.sh("mv $sync/old $home/anna/back; echo $secret >$home/anna/back/deep/y; sleep 0.3; cat $home/anna/back/deep/y") // it has left
	l.sh("mv $sync $home/anna/x; mkdir $sync; chown 1000:1000 $sync")
	l.set(policy{mode: enforce.Enforce, late: true})
	l.sh("echo $secret >$sync/new")
	l.wait("it is taken", func() bool { return slices.Equal(l.kept(), []string{"new", "x"}) })
	l.sh("echo $secret >$home/anna/x/free; sleep 0.3; cat $home/anna/x/free")
	if out := l.now(); out.Held != 0 {
		t.Errorf("%+v", out)
	}
}

// What ends while a directory is walked keeps nobody; what has the same number, another directory above it, or its old name again, is
// watched.
func TestReplaced(t *testing.T) {
	l := newLab(t)
	enforced := policy{mode: enforce.Enforce, late: true}
	l.set(enforced)
	for range 10 { // the agent itself opens files there, in a group that nobody listens to any more
		l.sh("mkdir $home/anna/d; for i in $(seq 30); do echo text >$home/anna/d/f$i; done; mv $home/anna/d $sync/d")
		_ = l.g.Load(nil)
		done := make(chan struct{})
		go func() { _, _ = l.try("timeout 20 cat $sync/d/f1"); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			t.Fatal("who opens a file waits, and nothing is looked for")
		}
		l.sh("rm -r $sync/d")
		l.set(enforced)
	}
	l.sh("rm -r $sync/deep; rmdir $sync; mkdir $sync; chown 1000:1000 $sync")
	l.set(enforced)
	l.sh("echo $secret >$sync/same")
	l.wait("it is taken", func() bool { return slices.Contains(l.kept(), "same") })
	l.sh("mv $sync $sync.2; mv $sync.2 $sync; sleep 0.2")
	l.set(enforced)
	l.sh("mkdir $sync/sub; sleep 0.3; mv $sync/sub $home/anna/sub; echo $secret >$home/anna/sub/out; sleep 0.5; grep -q $secret $home/anna/sub/out")
	l.sh("mv $home/anna $home/berta; ln -s berta $home/anna; echo $secret >$sync/above; sleep 0.2; ! cat $sync/above | grep $secret")
	l.set(enforced)
	l.wait("it is taken", func() bool { return slices.Contains(l.kept(), "above") })
}

// A directory that is moved out while a file in it is copied takes its file with it; and nobody makes us open what they like.
func TestOut(t *testing.T) {
	l := newLab(t)
	keep := l.g.keep
	in := make(chan struct{}, 10)
	l.g.keep = func(ctx context.Context, f *os.File, about func() platform.Kept, alone func() bool) (string, func(), func(), error) {
		in <- struct{}{}
		time.Sleep(500 * time.Millisecond)
		return keep(ctx, f, about, alone)
	}
	l.set(policy{mode: enforce.Enforce, late: true})
	l.sh("echo $secret >$sync/deep/m")
	<-in
	l.sh("mv $sync/deep $home/anna/other/deep; sleep 1; grep -q $secret $home/anna/other/deep/m; echo x >$home/victim; chmod 600 $home/victim")
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, l.home+"/victim", unix.IN_OPEN|unix.IN_CLOSE_WRITE); err != nil {
		t.Fatal(err)
	}
	l.sh("touch $sync/f; unshare -m sh -c 'mount --bind $sync/f $home/victim; exec 3<$home/victim; echo $secret >$home/victim; sleep 3'")
	if n, _ := unix.Read(fd, make([]byte, 4096)); n > 0 {
		t.Error("a file that somebody's mount was over has been opened")
	}
	l.wait("it is taken", func() bool { return size(t, l.sync+"/f") == 0 })
}

// By another mount, as a sandbox has it, and by a file that had no name, nothing gets past.
func TestByways(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Enforce, late: true})
	l.slow.Store(int64(200 * time.Millisecond))
	out, err := l.try("mkdir -p $home/anna/box; unshare -m sh -c 'mount --bind $sync $home/anna/box && echo $secret >$home/anna/box/f; cat $home/anna/box/f'")
	if err == nil || strings.Contains(out, secret) {
		t.Errorf("%v %q", err, out)
	}
	l.wait("it is taken", func() bool { return len(l.kept()) == 1 })
	l.slow.Store(0)
	l.sh(`python3 - <<'E'
import os, subprocess, time
d, s = os.environ["disk"], os.environ["secret"].encode()
w = os.open(d, os.O_TMPFILE | os.O_RDWR)
os.write(w, s)
r = os.open("/proc/self/fd/%d" % w, os.O_RDONLY)
os.close(w)
time.sleep(0.5)
subprocess.run(["ln", "-L", "/proc/%d/fd/%d" % (os.getpid(), r), d + "/named"], check=True)
E`)
	l.wait("it is taken", func() bool { return size(t, l.at+"/named") == 0 })
}

// What was known to be harmless by other rules is looked into again; and disks that cannot be listed for a moment stay watched.
func TestChanged(t *testing.T) {
	l := newLab(t)
	l.set(policy{mode: enforce.Monitor})
	l.sh("echo $secret >$sync/a; sleep 0.3; cat $sync/a >/dev/null")
	l.wait("it is told", func() bool { return l.told("canary") > 0 })
	l.set(policy{mode: enforce.Enforce, late: true})
	if out, err := l.try("cat $sync/a"); strings.Contains(out, secret) {
		l.mu.Lock()
		for _, d := range l.said {
			t.Log(d.Note, d.Verdict)
		}
		l.mu.Unlock()
		t.Errorf("%v %q %+v", err, out, l.now())
	}
	// What the kernel has not is told it again.
	seen := map[string]bool{}
	l.wait("that they are not watched is seen", func() bool { // unless the guard has told the kernel again by then, of one or the other
		for _, p := range l.places() {
			if err := errors.Join(unix.FanotifyMark(p.fan, unix.FAN_MARK_FLUSH, 0, unix.AT_FDCWD, "/"), unix.FanotifyMark(p.fan, unix.FAN_MARK_FLUSH|unix.FAN_MARK_FILESYSTEM, 0, unix.AT_FDCWD, "/")); err != nil {
				t.Fatal(err)
			}
		}
		for _, x := range l.now().Places {
			seen[x.Name] = seen[x.Name] || !x.Watched && !x.Holds
		}
		return len(seen) == 2 && !slices.Contains(slices.Collect(maps.Values(seen)), false)
	})
	l.set(policy{mode: enforce.Enforce, late: true})
	l.g.outside = func() ([]platform.OutsideDisk, error) { return nil, errors.New("no list") }
	if out := l.now(); len(out.Places) != 3 || out.Places[2].Why == "" || !out.Places[1].Watched {
		t.Errorf("%+v", out)
	}
	l.sh("echo $secret >$disk/b")
	l.wait("it is taken", func() bool { return slices.Contains(l.kept(), "b") })
}

// Files that take long, and that nobody waits for, do not keep who waits for another one.
func TestPatience(t *testing.T) {
	l := newLab(t)
	look := l.g.look
	turn := make(chan struct{}, 1) // one program looks into all
	l.g.look = func(ctx context.Context, f *os.File, name string) (platform.Seen, error) {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return platform.Seen{Late: true}, nil
		}
		defer func() { <-turn }()
		if strings.HasPrefix(name, "long") {
			<-ctx.Done()
			return platform.Seen{Late: true}, nil
		}
		return look(ctx, f, name)
	}
	l.set(policy{mode: enforce.Enforce})
	l.sh("for i in 1 2 3; do echo text >$disk/long$i; done; sleep 0.2")
	if out := l.sh("echo text >$sync/a; cat $sync/a; echo text >$disk/b; cat $disk/b"); out != "text\ntext\n" {
		t.Errorf("%q", out)
	}
}

// A disk whose file system answers nobody keeps no other place, and the finding says so.
func TestStuck(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	fs, err := stuckfs.Mount(dir)
	if err != nil {
		platformtest.Cannot(t, err.Error())
	}
	defer fs.Close()
	fs.Mute.Store(true)
	disk := l.mount
	was := l.at
	l.at, l.mount = dir, mountinfo.Mount{}
	l.read()
	stuck := l.mount
	l.at, l.mount = was, disk
	l.g.outside = func() ([]platform.OutsideDisk, error) {
		return []platform.OutsideDisk{{Name: "disk sdz", Mounts: []mountinfo.Mount{disk}}, {Name: "stuck", Mounts: []mountinfo.Mount{stuck}}}, nil
	}
	_ = l.g.Load(policy{mode: enforce.Enforce, late: true})
	l.wait("the others are watched", func() bool {
		n := 0
		for _, x := range l.now().Places {
			if x.Holds {
				n++
			}
		}
		return n >= 2
	})
	c := exec.Command("timeout", "-s", "KILL", "60", "cat", dir+"/file")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Wait() }()
	time.Sleep(time.Second)
	if out := l.sh("echo text >$sync/a; cat $sync/a; echo text >$disk/b; cat $disk/b"); out != "text\ntext\n" {
		t.Errorf("%q", out)
	}
	l.sh("echo $secret >$disk/c; echo $secret >$sync/d")
	l.wait("both are taken", func() bool { return len(l.kept()) == 2 })
	fs.Close()
}

// A user's own configuration leads nowhere that is not theirs.
func TestFolders(t *testing.T) {
	l := newLab(t)
	l.sh(`mkdir -p $home/root $home/anna/.dropbox $home/anna/Dropbox $home/bert/x; chown 1001:1001 $home/bert $home/bert/x; mknod $home/anna/dev c 1 3
printf '{"personal":{"path":"'$home'/anna/Dropbox"},"business":{"path":"'$home'/root"},"other":{"path":"/etc"},"more":{"path":"'$home'/bert/x"}}' >$home/anna/.dropbox/info.json
mkdir -p $home/anna/.config/syncthing $home/anna/real; ln -s $home/anna/real $home/anna/link; printf '<configuration><folder id="a" path="~/link"/><folder path="/"/></configuration>' >$home/anna/.config/syncthing/config.xml
mkdir -p $home/anna/.config/onedrive; ln -s ../../dev $home/anna/.config/onedrive/config; mkfifo $home/anna/.ccnet; chown -Rh 1000:1000 $home/anna`)
	var got []string
	for _, f := range l.g.folders() {
		got = append(got, f.app.ID+" "+strings.TrimPrefix(f.path, l.home))
	}
	if want := []string{"dropbox /anna/Dropbox", "nextcloud /anna/Nextcloud", "syncthing /anna/real"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// A removed name is that of the file, or stays.
func TestUnlink(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "a")
	if err := errors.Join(os.WriteFile(at, []byte("x"), 0o600), os.WriteFile(at+"2", []byte("y"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		t.Fatal(err)
	}
	if err := unlink(at+"2", inode{st.Dev, st.Ino}); err == nil {
		t.Error("another file is removed")
	}
	if err := unlink(at, inode{st.Dev, st.Ino}); err != nil {
		t.Error(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 || list[0].Name() != "a2" {
		t.Error(list)
	}
}
