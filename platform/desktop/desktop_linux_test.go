package desktop

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// user is who sits at the desktop.
const user = 65534

// onEtc runs the rest of a test with an /etc of its own, which is this machine's at first: dconf and KDE read nowhere else. It returns
// false in the process that does not.
func onEtc(t *testing.T, programs ...string) bool {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			platformtest.Cannot(t, p+" is not installed (packaging/dev/deps.sh test)")
		}
	}
	if !platformtest.InNetwork(t) {
		return false
	}
	dir := t.TempDir()
	sh(t, `set -e; mount -t tmpfs none %[1]s; mkdir %[1]s/up %[1]s/work; mkdir -m 755 %[1]s/home; mount -t overlay -o lowerdir=/etc,upperdir=%[1]s/up,workdir=%[1]s/work none /etc
mount -t tmpfs -o mode=755 none /run; mkdir -p /run/dbus; mount --bind %[1]s/home /home; mkdir -m 700 /home/u /run/u; chown %[2]d:%[2]d /home/u /run/u
rm -rf /etc/dconf /etc/xdg/kglobalshortcutsrc /etc/xdg/xdg-desktop-portal`, dir, user)
	t.Cleanup(func() { sh(t, "umount -l /home /run /etc %s", dir) })
	return true
}

func sh(t *testing.T, script string, args ...any) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf(script, args...)).CombinedOutput() //nolint:gosec // a test's script
	if err != nil {
		t.Fatalf("%s: %v\n%s", fmt.Sprintf(script, args...), err, out)
	}
	return strings.TrimSpace(string(out))
}

// as runs a script as the user.
func as(t *testing.T, script string) string {
	t.Helper()
	return sh(t, `setpriv --reuid %[1]d --regid %[1]d --clear-groups env -u XDG_CONFIG_DIRS HOME=/home/u XDG_RUNTIME_DIR=/run/u XDG_DATA_DIRS=/usr/share dbus-run-session -- sh -c '%[2]s' 2>/dev/null`, user, script)
}

// desks are the user's session.
type desks struct{ platform.Desks }

func (desks) List(string) []platform.Desk {
	return []platform.Desk{{ID: "1", UID: user, Type: "wayland"}}
}

func settings(root string) *Settings {
	return newSettings(root, platform.Host{Proc: "/proc", Gate: func(enforce.Change) error { return nil }, Desks: desks{}})
}

func keyOf(id string) enforce.Key { return enforce.Key{Kind: kind, ID: id} }

// is fails unless the setting of a desktop is read back as value; "" for nothing.
func is(t *testing.T, s *Settings, id, value string) {
	t.Helper()
	list, err := s.List(t.Context())
	if r := list[keyOf(id)]; err != nil || string(r.Value) != value || value != "" && r.State != enforce.Present {
		t.Fatalf("%s is %+v, %v; not %q", id, r, err, value)
	}
}

// change has a setting be so, or absent.
func change(t *testing.T, s *Settings, id, value string) {
	t.Helper()
	to := enforce.Reading{State: enforce.Absent}
	if value != "" {
		to = enforce.Reading{State: enforce.Present, Value: enforce.Value(value)}
	}
	if failed := s.Apply(t.Context(), []enforce.Change{{Key: keyOf(id), To: to}}); len(failed) > 0 {
		t.Fatal(failed)
	}
}

// tree lists the files below a directory, with their contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	return sh(t, `if test -d %[1]s; then cd %[1]s && find . | sort && find . -type f -path '*.d/*' -exec sha256sum {} +; fi`, dir)
}

const (
	reads = `gsettings get org.gnome.shell.keybindings show-screenshot-ui; gsettings writable org.gnome.shell.keybindings show-screenshot-ui`
	freed = "['Print']\ntrue"
	off   = "@as []\nfalse"
)

// GNOME's keys do nothing, as a program of the user's reads them by dconf itself, and are as before afterwards.
func TestGNOME(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	before := tree(t, "/etc/dconf")
	if got := as(t, reads); got != freed {
		t.Fatalf("without us: %s", got)
	}
	is(t, s, gnome, "")
	if p, _ := s.part(gnome); p.taken() != "" {
		t.Fatal(p.taken())
	}
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	if got := as(t, `gsettings set org.gnome.shell.keybindings show-screenshot-ui "[\"<Super>s\"]"; `+reads); !strings.HasSuffix(got, off) {
		t.Errorf("with us: %s", got)
	}
	if got := as(t, `dconf write /org/gnome/desktop/interface/clock-show-seconds true && dconf read /org/gnome/desktop/interface/clock-show-seconds`); got != "true" {
		t.Errorf("other keys: %s", got)
	}
	// What another program makes of it is something else, and mended.
	for _, by := range []string{"rm /etc/dconf/db/warder", "rm /etc/dconf/profile/user", "rm /etc/dconf/db/warder.d/locks/zz-warder", "rm -r /etc/dconf/db/warder.d; sleep 1; dconf update",
		"printf '[org/gnome/shell/keybindings]\\nscreenshot=[\"<Super>a\"]\\n' >/etc/dconf/db/warder.d/zzz; sleep 1; touch /etc/dconf/db/warder.d; dconf update"} {
		sh(t, "%s", by)
		if !slices.Contains(s.others(t.Context()), gnome) {
			t.Errorf("%s is not noticed", by)
		}
		is(t, s, gnome, other)
		sh(t, "rm -f /etc/dconf/db/warder.d/zzz")
		change(t, s, gnome, fact.NoScreenshots)
		is(t, s, gnome, fact.NoScreenshots)
		if others := s.others(t.Context()); slices.Contains(others, gnome) {
			t.Errorf("%s: it is not mended", by)
		}
	}
	change(t, s, gnome, "")
	is(t, s, gnome, "")
	if after := tree(t, "/etc/dconf"); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	if got := as(t, reads); got != freed {
		t.Errorf("afterwards: %s", got)
	}
}

// Where the machine has a profile, our keys are beside the administrator's, and theirs stay.
func TestGNOMEProfile(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	sh(t, `mkdir -p /etc/dconf/profile /etc/dconf/db/local.d/locks; printf 'user-db:user\nsystem-db:local # ours\nsystem-db:site\n' >/etc/dconf/profile/user
printf '[org/gnome/desktop/screensaver]\nlock-enabled=true\n' >/etc/dconf/db/local.d/00-lock; printf '/org/gnome/desktop/screensaver/lock-enabled\n' >/etc/dconf/db/local.d/locks/00-lock; dconf update`)
	const theirs = `gsettings writable org.gnome.desktop.screensaver lock-enabled`
	before := tree(t, "/etc/dconf")
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	if got := as(t, reads+"; "+theirs); got != off+"\nfalse" {
		t.Errorf("with us: %s", got)
	}
	// The administrator's profile comes to name another database.
	sh(t, `mkdir -p /etc/dconf/db/more.d; printf 'user-db:user\nsystem-db:more\nsystem-db:local\n' >/etc/dconf/profile/user; dconf update`)
	is(t, s, gnome, other)
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	sh(t, `printf 'user-db:user\nsystem-db:local # ours\nsystem-db:site\n' >/etc/dconf/profile/user`)
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	change(t, s, gnome, "")
	sh(t, "rm -r /etc/dconf/db/more*")
	if after := tree(t, "/etc/dconf"); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	if got := as(t, reads+"; "+theirs); got != freed+"\nfalse" {
		t.Errorf("afterwards: %s", got)
	}
	for profile, why := range map[string]string{"user-db:user\n": "names no database", "user-db:user\nsystem-db:../x\n": "names no database", "user-db:user\nsystem-db:bare\n": "was made without"} {
		sh(t, `printf '%s' >/etc/dconf/profile/user; touch /etc/dconf/db/bare`, profile)
		p, _ := s.part(gnome)
		if got := p.taken(); !strings.Contains(got, why) {
			t.Errorf("%q: %q", profile, got)
		}
		if failed := s.Apply(t.Context(), []enforce.Change{{Key: keyOf(gnome), To: enforce.Reading{State: enforce.Present, Value: fact.NoScreenshots}}}); len(failed) == 0 {
			t.Errorf("%q is written to", profile)
		}
	}
}

// A program that was started before there was a profile does not know of ours; one that has ours follows at once. Both are read from the
// program itself.
func TestGNOMERunning(t *testing.T) {
	if !onEtc(t, "dconf", "dbus-run-session", "dbus-daemon") {
		return
	}
	s := settings("/")
	pid := sh(t, "dbus-daemon --system --fork --print-pid") // by which dconf tells who reads a database
	t.Cleanup(func() { sh(t, "kill %s", pid) })
	shell := func() (out string) { // what GNOME Shell does about its keys
		t.Helper()
		dir := t.TempDir()
		sh(t, `chmod 755 %[1]s $(dirname %[1]s); ln -s /usr/bin/python3 %[1]s/gnome-shell; cat >%[1]s/keys <<'E'
import gi
from gi.repository import Gio, GLib
s = Gio.Settings(schema_id="org.gnome.shell.keybindings")
def show(*a): print(s.get_strv("show-screenshot-ui"), s.is_writable("show-screenshot-ui"), flush=True)
s.connect("changed::show-screenshot-ui", show); s.connect("writable-changed::show-screenshot-ui", show); show()
GLib.MainLoop().run()
E
: >%[1]s/out; chmod 666 %[1]s/out`, dir)
		cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(user), "--regid", fmt.Sprint(user), "--clear-groups", "env", "HOME=/home/u", "XDG_RUNTIME_DIR=/run/u", "dbus-run-session", "--",
			"sh", "-c", dir+"/gnome-shell "+dir+"/keys >"+dir+"/out 2>&1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			sh(t, "pkill -u %d -x gnome-shell; true", user)
			_ = cmd.Wait()
		})
		return dir + "/out"
	}
	comes := func(path, text string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			b, _ := os.ReadFile(path)
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			if lines[len(lines)-1] == text {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%q does not come: %s", text, b)
			}
		}
	}
	late := func(want int) {
		t.Helper()
		list, err := s.late(t.Context())
		if err != nil || len(list) != want {
			t.Fatalf("%q, %v; not %d", list, err, want)
		}
	}
	old := shell()
	comes(old, "['Print'] True")
	late(0) // nothing of ours is there
	change(t, s, gnome, fact.NoScreenshots)
	late(1)
	sh(t, "pkill -u %d -x gnome-shell", user)
	fresh := shell()
	comes(fresh, "[] False")
	late(0)
	change(t, s, gnome, "")
	comes(fresh, "['Print'] True")
	change(t, s, gnome, fact.NoScreenshots)
	comes(fresh, "[] False") // it goes on asking for our database
	late(0)
}

// KDE's keys, as KDE's own program reads them.
func TestKDE(t *testing.T) {
	if !onEtc(t, "kreadconfig5", "kwriteconfig5", "dbus-run-session") {
		return
	}
	s := settings("/")
	before := sh(t, "find /etc/xdg | sort")
	key := func(group, key string) string {
		return as(t, "kreadconfig5 --file kglobalshortcutsrc "+group+" --key "+key)
	}
	const old, six = "--group org.kde.spectacle.desktop", "--group services --group org.kde.spectacle.desktop"
	change(t, s, kde, fact.NoScreenshots)
	is(t, s, kde, fact.NoScreenshots)
	as(t, "kwriteconfig5 --file kglobalshortcutsrc "+old+" --key _launch Print,Print,x; kwriteconfig5 --file kglobalshortcutsrc --group other --key mine Print; true")
	sh(t, `printf '[org.kde.spectacle.desktop]\n_launch=Print,Print,x\n[services][org.kde.spectacle.desktop]\n_launch=Print\n' >>/home/u/.config/kglobalshortcutsrc`)
	if a, b := key(old, "_launch"), key(six, "_launch"); a != "none,none,_launch" || b != "none" {
		t.Errorf("%q and %q", a, b)
	}
	if got := key("--group other", "mine"); got != "Print" {
		t.Errorf("other keys: %q", got)
	}
	sh(t, "echo x=y >>"+shortcutsFile)
	is(t, s, kde, other)
	change(t, s, kde, fact.NoScreenshots)
	// Only who starts afterwards has read it.
	for _, boot := range []string{"", "-other"} {
		now, since := bootNow()
		s.stamp = func() (string, time.Duration) { return now + boot, since + time.Hour }
		sh(t, "rm "+shortcutsFile)
		change(t, s, kde, fact.NoScreenshots)
		s.stamp = bootNow
		if late, err := s.before(os.Getpid(), shortcutsFile); err != nil || late != (boot == "") {
			t.Errorf("%q: %t %v", boot, late, err)
		}
	}
	sh(t, "setfattr -x user.warder.written %s 2>/dev/null || python3 -c 'import os; os.removexattr(\"%s\", \"user.warder.written\")'", shortcutsFile, shortcutsFile)
	if late, err := s.before(os.Getpid(), shortcutsFile); err != nil || !late {
		t.Errorf("without a note: %t %v", late, err)
	}
	change(t, s, kde, "")
	if got := key(old, "_launch"); got != "Print,Print,x" {
		t.Errorf("afterwards: %q", got)
	}
	if after := sh(t, "find /etc/xdg | sort"); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	// Somebody else's is let be.
	for _, by := range []string{"echo [x] >" + shortcutsFile, "ln -s /nowhere " + shortcutsFile} {
		sh(t, "%s", by)
		if p, _ := s.part(kde); p.taken() == "" {
			t.Errorf("after %s it is taken for ours", by)
		}
		is(t, s, kde, "")
		if failed := s.Apply(t.Context(), []enforce.Change{{Key: keyOf(kde), To: enforce.Reading{State: enforce.Present, Value: fact.NoScreenshots}}}); len(failed) == 0 {
			t.Error("it is written over")
		}
		change(t, s, kde, "")
		sh(t, "test -e %[1]s || test -L %[1]s; rm %[1]s", shortcutsFile)
	}
}

// Files of preferences for portals: one for each of the vendors', of which nothing but the two portals changes.
func TestPortals(t *testing.T) {
	root := t.TempDir()
	s := settings(root)
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil { //nolint:gosec // a test's directory
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil { //nolint:gosec // others read it
			t.Fatal(err)
		}
	}
	all := func() (out string) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			out += strings.TrimPrefix(path, root) + "\n"
			return err
		})
		return out
	}
	p, _ := s.part(portal)
	write("/usr/libexec/xdg-desktop-portal", "an old one")
	if why := p.taken(); !strings.Contains(why, "1.18") {
		t.Errorf("an old one: %q", why)
	}
	write("/usr/libexec/xdg-desktop-portal", "it reads %s-portals.conf")
	write("/usr/share/xdg-desktop-portal/gnome-portals.conf", "# c\n[preferred]\ndefault=gnome;gtk;\norg.freedesktop.impl.portal.Screenshot = gnome\norg.freedesktop.impl.portal.Secret=gnome-keyring;\n")
	write("/usr/share/xdg-desktop-portal/kde-portals.conf", "[other]\norg.freedesktop.impl.portal.Screenshot=x\n[preferred]\ndefault=kde")
	write("/etc/xdg-desktop-portal/kde-portals.conf", "[preferred]\ndefault=other\n")
	if why := p.taken(); why != "" || !p.here() {
		t.Fatal(why)
	}
	before := all()
	change(t, s, portal, fact.NoScreenshots)
	is(t, s, portal, fact.NoScreenshots)
	const none = "org.freedesktop.impl.portal.Screenshot=none\norg.freedesktop.impl.portal.ScreenCast=none\n"
	for file, want := range map[string]string{
		"portals.conf":       "[preferred]\n" + none,
		"gnome-portals.conf": "[preferred]\n" + none + "default=gnome;gtk;\norg.freedesktop.impl.portal.Secret=gnome-keyring;\n",
		"kde-portals.conf":   "[preferred]\n" + none + "default=other\n",
	} {
		if b, err := os.ReadFile(filepath.Join(root, portalDir, file)); err != nil || string(b) != note+want {
			t.Errorf("%s: %s %v", file, b, err)
		}
	}
	if got := withoutPortals("[other]\norg.freedesktop.impl.portal.Screenshot=x\n[preferred]\ndefault=kde"); got != note+"[other]\norg.freedesktop.impl.portal.Screenshot=x\n[preferred]\n"+none+"default=kde\n" {
		t.Error(got)
	}
	// A desktop comes, and one goes.
	write("/usr/share/xdg-desktop-portal/sway-portals.conf", "[preferred]\ndefault=wlr\n")
	is(t, s, portal, other)
	change(t, s, portal, fact.NoScreenshots)
	is(t, s, portal, fact.NoScreenshots)
	if err := os.Remove(filepath.Join(root, "/usr/share/xdg-desktop-portal/sway-portals.conf")); err != nil {
		t.Fatal(err)
	}
	is(t, s, portal, other)
	change(t, s, portal, fact.NoScreenshots)
	is(t, s, portal, fact.NoScreenshots)
	change(t, s, portal, "")
	is(t, s, portal, "")
	if after := all(); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	write(portalDir+"/portals.conf", "[preferred]\ndefault=gtk\n")
	if why := p.taken(); !strings.Contains(why, "somebody else's") {
		t.Error(why)
	}
	change(t, s, portal, "")
	if _, err := os.Stat(filepath.Join(root, portalDir, "portals.conf")); err != nil {
		t.Error("an administrator's file is gone")
	}
}

// What changes is noticed, also in directories that were not there before.
func TestWatch(t *testing.T) {
	root := t.TempDir()
	s := settings(root)
	if err := os.MkdirAll(filepath.Join(root, "/etc"), 0o755); err != nil { //nolint:gosec // a test's directory
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	touched, over := make(chan enforce.Key, 16), make(chan error, 1)
	go func() { over <- s.Watch(ctx, func(x platform.Touch) { touched <- x.Key }) }()
	change(t, s, kde, fact.NoScreenshots)
	for end := time.Now().Add(30 * time.Second); ; {
		if err := os.WriteFile(filepath.Join(root, shortcutsFile), []byte(note+time.Now().String()), 0o644); err != nil { //nolint:gosec // others read it
			t.Fatal(err)
		}
		select {
		case k := <-touched:
			if k != keyOf(kde) {
				t.Fatal(k)
			}
			cancel()
			if err := <-over; err != nil {
				t.Fatal(err)
			}
			return
		case <-time.After(200 * time.Millisecond): // it may not have been watched yet
		}
		if time.Now().After(end) {
			t.Fatal("it is not noticed")
		}
	}
}

// Wherever the agent is killed, the next one finds out, and both ways lead out.
func TestHalfDone(t *testing.T) {
	if !onEtc(t, "dconf") {
		return
	}
	before := tree(t, "/etc/dconf")
	for _, leave := range []string{"rm -r /etc/dconf/profile", "rm /etc/dconf/profile/user /etc/dconf/db/warder", "rm /etc/dconf/db/warder.d/zz-warder", "rm /etc/dconf/db/warder.d/zz-warder /etc/dconf/db/warder.d/locks/zz-warder",
		"rm -r /etc/dconf/db", "rm -r /etc/dconf"} {
		for _, to := range []string{fact.NoScreenshots, ""} {
			s := settings("/")
			change(t, s, gnome, fact.NoScreenshots)
			sh(t, "%s", leave)
			list, err := s.List(t.Context())
			if r := list[keyOf(gnome)]; err != nil || string(r.Value) == fact.NoScreenshots || r.Value == "" != strings.HasSuffix(leave, "-r /etc/dconf") {
				t.Errorf("after %s: %+v %v", leave, r, err)
			}
			change(t, s, gnome, to)
			is(t, s, gnome, to)
			change(t, s, gnome, "")
			if after := tree(t, "/etc/dconf"); after != before {
				t.Fatalf("after %s: %s", leave, after)
			}
		}
	}
}
