package desktop

import (
	"context"
	"errors"
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
	sh(t, "mount -t tmpfs -o mode=1777 none /tmp") // a session's bus is there, whatever this machine's is like
	dir := t.TempDir()
	sh(t, `set -e; mount -t tmpfs none %[1]s; mkdir %[1]s/up %[1]s/work; mkdir -m 755 %[1]s/home; mount -t overlay -o lowerdir=/etc,upperdir=%[1]s/up,workdir=%[1]s/work none /etc
mount -t tmpfs -o mode=755 none /run; mkdir -p /run/dbus /run/warder-test; mount --bind %[1]s/home /home; mkdir -m 700 /home/u /run/u; chown %[2]d:%[2]d /home/u /run/u
rm -rf /etc/dconf /etc/xdg/xdg-desktop-portal`, dir, user)
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
	return newSettings(root, platform.Host{Proc: "/proc", Run: "/run/warder-test", Gate: func(enforce.Change) error { return nil }, Desks: desks{}})
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
	if p, _ := s.part(gnome); p.taken(t.Context()) != "" {
		t.Fatal(p.taken(t.Context()))
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
		if got := p.taken(t.Context()); !strings.Contains(got, why) {
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
	bin := t.TempDir()
	s.shell = bin + "/gnome-shell"
	sh(t, "chmod 755 %[1]s $(dirname %[1]s); cp $(readlink -f /usr/bin/python3) %[1]s/gnome-shell", bin)
	shell := func() (out string) { // what GNOME Shell does about its keys
		t.Helper()
		dir := t.TempDir()
		sh(t, `chmod 755 %[1]s $(dirname %[1]s); cat >%[1]s/keys <<'E'
import gi
from gi.repository import Gio, GLib
s = Gio.Settings(schema_id="org.gnome.shell.keybindings")
def show(*a): print(s.get_strv("show-screenshot-ui"), s.is_writable("show-screenshot-ui"), flush=True)
s.connect("changed::show-screenshot-ui", show); s.connect("writable-changed::show-screenshot-ui", show); show()
GLib.MainLoop().run()
E
: >%[1]s/out; chmod 666 %[1]s/out`, dir)
		cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(user), "--regid", fmt.Sprint(user), "--clear-groups", "env", "HOME=/home/u", "XDG_RUNTIME_DIR=/run/u", "PYTHONHOME=/usr", "dbus-run-session", "--",
			"sh", "-c", s.shell+" "+dir+"/keys >"+dir+"/out 2>&1")
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

// portalProgram puts something there that is taken for a program of portals that reads preferences.
func portalProgram(t *testing.T, root string) {
	t.Helper()
	sh(t, "mkdir -p %[1]s/usr/libexec; echo %%s-portals.conf >%[1]s/usr/libexec/xdg-desktop-portal", root)
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
	if why := p.taken(t.Context()); !strings.Contains(why, "1.18") {
		t.Errorf("an old one: %q", why)
	}
	write("/usr/libexec/xdg-desktop-portal", "it reads %s-portals.conf")
	write("/usr/share/xdg-desktop-portal/gnome-portals.conf", "# c\n[preferred]\ndefault=gnome;gtk;\norg.freedesktop.impl.portal.Screenshot = gnome\norg.freedesktop.impl.portal.Secret=gnome-keyring;\n")
	write("/usr/share/xdg-desktop-portal/kde-portals.conf", "[other]\norg.freedesktop.impl.portal.Screenshot=x\n[preferred]\ndefault=kde")
	write("/etc/xdg-desktop-portal/kde-portals.conf", "[preferred]\ndefault=other\n")
	if why := p.taken(t.Context()); why != "" || !p.here() {
		t.Fatal(why)
	}
	before := all()
	change(t, s, portal, fact.NoScreenshots)
	is(t, s, portal, fact.NoScreenshots)
	const none = "org.freedesktop.impl.portal.Screenshot=none\norg.freedesktop.impl.portal.ScreenCast=none\n"
	for file, want := range map[string]string{
		"portals.conf":       "[preferred]\n" + none,
		"gnome-portals.conf": "[preferred]\n" + none + "default=gnome;gtk;\norg.freedesktop.impl.portal.Secret=gnome-keyring;\n",
		"kde-portals.conf":   "[preferred]\n" + none + "default=other\n", // the first of two
	} {
		b, err := os.ReadFile(filepath.Join(root, portalDir, file))
		if text, _, _, ok := unstamped(b); err != nil || !ok || text != note+want {
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
	if why := p.taken(t.Context()); !strings.Contains(why, "somebody else's") {
		t.Error(why)
	}
	change(t, s, portal, "")
	if _, err := os.Stat(filepath.Join(root, portalDir, "portals.conf")); err != nil {
		t.Error("an administrator's file is gone")
	}
}

// An administrator's preferences for any desktop outrank a vendor's for one, and a file that cannot be read is passed over.
func TestPortalPrecedence(t *testing.T) {
	root := t.TempDir()
	s := settings(root)
	portalProgram(t, root)
	for path, text := range map[string]string{"/etc/xdg-desktop-portal/portals.conf": "[preferred]\ndefault=gtk\norg.freedesktop.impl.portal.FileChooser=none\n",
		"/usr/share/xdg-desktop-portal/gnome-portals.conf": "[preferred]\ndefault=gnome\n", "/usr/local/share/xdg-desktop-portal/sway-portals.conf": "[preferred]\ndefault=wlr\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil { //nolint:gosec // a test's directory
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil { //nolint:gosec // others read it
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/nowhere", filepath.Join(root, "/usr/share/xdg-desktop-portal/kde-portals.conf")); err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfifo %s/usr/share/xdg-desktop-portal/lxqt-portals.conf", root)
	change(t, s, portal, fact.NoScreenshots)
	is(t, s, portal, fact.NoScreenshots)
	for _, base := range []string{"portals.conf", "gnome-portals.conf", "sway-portals.conf"} {
		if b, err := os.ReadFile(filepath.Join(root, portalDir, base)); err != nil || !strings.Contains(string(b), "FileChooser=none") {
			t.Errorf("%s: %s %v", base, b, err)
		}
	}
	for _, base := range []string{"kde-portals.conf", "lxqt-portals.conf"} {
		if _, err := os.Stat(filepath.Join(root, portalDir, base)); err == nil {
			t.Errorf("%s was made", base)
		}
	}
}

// Only who was started before a file was written has not read it. One that is not whole is written again; one of which something else has
// changed keeps its time.
func TestWritten(t *testing.T) {
	root := t.TempDir()
	s := settings(root)
	portalProgram(t, root)
	now, since := bootNow()
	for _, c := range []struct {
		boot string
		at   time.Duration
		late bool
	}{{now, since + time.Hour, true}, {now, 0, false}, {"other", since + time.Hour, false}} {
		s.stamp = func() (string, time.Duration) { return c.boot, c.at }
		sh(t, "rm -rf %s/etc", root)
		change(t, s, portal, fact.NoScreenshots)
		b, err := os.ReadFile(filepath.Join(root, portalDir, anyDesktop))
		if err != nil {
			t.Fatal(err)
		}
		_, boot, at, ok := unstamped(b)
		if !ok || boot != c.boot || at != c.at {
			t.Errorf("%q", b)
		}
		s.stamp = bootNow
		if late, err := s.before(os.Getpid(), boot, at); err != nil || late != c.late {
			t.Errorf("%+v: %t %v", c, late, err)
		}
	}
	path := filepath.Join(root, portalDir, anyDesktop)
	for _, b := range []string{note, note + "x", note + writtenAt, note + writtenAt + "boot", note + writtenAt + "boot x\n", note + writtenAt + " 1s\n"} {
		if err := os.WriteFile(path, []byte(b), 0o644); err != nil { //nolint:gosec // others read it
			t.Fatal(err)
		}
		is(t, s, portal, other)
	}
	change(t, s, portal, fact.NoScreenshots)
	is(t, s, portal, fact.NoScreenshots)
	first, _ := os.ReadFile(path)
	_, _, before, _ := unstamped(first)
	s.stamp = func() (string, time.Duration) { return now, since + 2*time.Hour }
	sh(t, "echo '# more' >>%s", path)
	is(t, s, portal, other)
	change(t, s, portal, fact.NoScreenshots)
	if b, _ := os.ReadFile(path); string(b) != string(first) {
		t.Errorf("%s, before at %s", b, before)
	}
	sh(t, "sed -i s/=none/=wlr/ %s", path)
	change(t, s, portal, fact.NoScreenshots)
	if b, _ := os.ReadFile(path); !strings.Contains(string(b), writtenAt+now+" "+(since+2*time.Hour).String()) {
		t.Errorf("%s", b)
	}
}

// What an administrator's own files have in them that dconf does not understand keeps nobody from anything.
func TestOthersErrors(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	sh(t, `mkdir -p /etc/dconf/db/site.d; echo '[[[ no' >/etc/dconf/db/site.d/00`)
	before := tree(t, "/etc/dconf")
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	if got := as(t, reads); got != off {
		t.Errorf("with us: %s", got)
	}
	change(t, s, gnome, "")
	is(t, s, gnome, "")
	if after := tree(t, "/etc/dconf"); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
}

// A database that the profile names, and that has no sources yet, is ours while it is needed; again and again.
func TestBareDatabase(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	sh(t, `mkdir -p /etc/dconf/profile; printf 'user-db:user\nsystem-db:local\n' >/etc/dconf/profile/user`)
	before := tree(t, "/etc/dconf")
	for range 3 {
		if p, _ := s.part(gnome); p.taken(t.Context()) != "" {
			t.Fatal(p.taken(t.Context()))
		}
		change(t, s, gnome, fact.NoScreenshots)
		is(t, s, gnome, fact.NoScreenshots)
		if got := as(t, reads); got != off {
			t.Errorf("with us: %s", got)
		}
		change(t, s, gnome, "")
		is(t, s, gnome, "")
		if after := tree(t, "/etc/dconf"); after != before {
			t.Errorf("before: %s\nafter: %s", before, after)
		}
	}
	// Its sources are removed, and it stays: that is seen, and mended both ways.
	for _, to := range []string{fact.NoScreenshots, ""} {
		change(t, s, gnome, fact.NoScreenshots)
		sh(t, "rm /etc/dconf/db/local.d/zz-warder /etc/dconf/db/local.d/locks/zz-warder")
		is(t, s, gnome, other)
		change(t, s, gnome, to)
		is(t, s, gnome, to)
	}
	if got := as(t, reads); got != freed {
		t.Errorf("afterwards: %s", got)
	}
	// Without dconf the keys cannot be taken out of somebody else's database, and nothing is pretended.
	sh(t, "mkdir -p /etc/dconf/db/local.d; touch /etc/dconf/db/local.d/00; dconf update")
	change(t, s, gnome, fact.NoScreenshots)
	sh(t, "mount --bind /dev/null /usr/bin/dconf") // it is there, and does not run
	if failed := s.Apply(t.Context(), []enforce.Change{{Key: keyOf(gnome), To: enforce.Reading{State: enforce.Absent}}}); len(failed) == 0 {
		t.Error("it says that they are gone")
	}
	sh(t, "umount /usr/bin/dconf")
	is(t, s, gnome, other)
	change(t, s, gnome, "")
	is(t, s, gnome, "")
	if got := as(t, reads); got != freed {
		t.Errorf("afterwards: %s", got)
	}
}

// A program that waits for ever, or says no end of things, is not waited for longer than ten seconds.
func TestDconfHangs(t *testing.T) {
	if !onEtc(t, "dconf") {
		return
	}
	s := settings("/")
	change(t, s, gnome, fact.NoScreenshots)
	fake := filepath.Join(t.TempDir(), "dconf")
	for script, most := range map[string]time.Duration{"exec sleep 600": 30 * time.Second, "exec yes": 30 * time.Second} {
		if err := os.WriteFile(fake, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
		sh(t, "mount --bind %s /usr/bin/dconf; touch /etc/dconf/db/warder", fake)
		begun := time.Now()
		list, err := s.List(t.Context())
		if r := list[keyOf(gnome)]; err != nil || r.State == enforce.Present && r.Value == fact.NoScreenshots {
			t.Errorf("%s: %+v %v", script, r, err)
		}
		if took := time.Since(begun); took > most {
			t.Errorf("%s: %s", script, took)
		}
		sh(t, "umount /usr/bin/dconf")
	}
	is(t, s, gnome, fact.NoScreenshots)
}

// What changes is noticed, also in directories that were not there before.
func TestWatch(t *testing.T) {
	root := t.TempDir()
	s := settings(root)
	portalProgram(t, root)
	if err := os.MkdirAll(filepath.Join(root, "/etc"), 0o755); err != nil { //nolint:gosec // a test's directory
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	touched, over := make(chan enforce.Key, 16), make(chan error, 1)
	go func() { over <- s.Watch(ctx, func(x platform.Touch) { touched <- x.Key }) }()
	change(t, s, portal, fact.NoScreenshots)
	for end := time.Now().Add(30 * time.Second); ; {
		if err := os.WriteFile(filepath.Join(root, portalDir, "portals.conf"), []byte(note+time.Now().String()), 0o644); err != nil { //nolint:gosec // others read it
			t.Fatal(err)
		}
		select {
		case k := <-touched:
			if k != keyOf(portal) {
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

// What dconf says to root counts only if it says the same to users.
func TestUsersRead(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	for _, by := range []string{"chmod 600 /etc/dconf/db/warder", "chmod 600 /etc/dconf/profile/user", "chmod 700 /etc/dconf/db", "chmod 700 /etc/dconf"} {
		change(t, s, gnome, fact.NoScreenshots)
		is(t, s, gnome, fact.NoScreenshots)
		sh(t, "%s", by)
		is(t, s, gnome, other)
		p, _ := s.part(gnome)
		if dir := strings.Contains(by, "700"); dir != strings.Contains(p.taken(t.Context()), "users cannot read") {
			t.Errorf("after %s: %q", by, p.taken(t.Context()))
		} else if dir {
			sh(t, "%s", strings.Replace(by, "700", "755", 1))
		}
		change(t, s, gnome, fact.NoScreenshots)
		is(t, s, gnome, fact.NoScreenshots)
		if got := as(t, reads); got != off {
			t.Errorf("after %s: %s", by, got)
		}
	}
	change(t, s, gnome, "")
}

// Whatever others have put beside ours: they keep it, ours goes, and is not put where theirs would be lost.
func TestBeside(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	const local = `mkdir -p /etc/dconf/profile /etc/dconf/db/local.d/locks; printf 'user-db:user\nsystem-db:local\n' >/etc/dconf/profile/user; `
	for _, c := range []struct {
		what, before, during string
		taken                string // why nothing is done; "" if it is
		fails                bool   // for another reason
		stays                string // what is true afterwards
	}{
		{"a file of theirs in our database", "true", `printf '[x]\ny=1\n' >/etc/dconf/db/warder.d/theirs`, "", false, "test -e /etc/dconf/db/warder.d/theirs && ! ls /etc/dconf/db/warder.d/*zz* /etc/dconf/db/warder.d/locks/zz* 2>/dev/null"},
		{"marks are lost", "true", `cp -r /etc/dconf /etc/copy; rm -r /etc/dconf; mv /etc/copy /etc/dconf`, "", false, "! find /etc/dconf -type f | grep ."},
		{"a line more in our profile", "true", `echo system-db:site >>/etc/dconf/profile/user`, "", false, `test "$(cat /etc/dconf/profile/user)" = "$(printf 'user-db:user\nsystem-db:site')"`},
		{"another database cannot be made", "mkdir -p /etc/dconf/db/gdm.d; echo '[[' >/etc/dconf/db/gdm.d/0", "true", "", false, "test ! -e /etc/dconf/db/warder"},
		{"made elsewhere", local + "printf '[x]\\ny=1\\n' >/etc/dconf/db/local.d/0; dconf update; rm /etc/dconf/db/local.d/0", "true", "was not made of what is in local.d now", false, "DCONF_PROFILE=/etc/dconf/profile/user dconf read /x/y | grep -qx 1"},
		{"a link", local + "touch /etc/dconf/other; ln -s ../other /etc/dconf/db/local", "true", "is a link", false, "test -L /etc/dconf/db/local && test ! -s /etc/dconf/other"},
		{"a pipe", "mkdir -p /etc/dconf/profile; mkfifo /etc/dconf/profile/user; exec 7<>/etc/dconf/profile/user; (sleep 30 <&7 >/dev/null 2>&1 &)", "true", "no regular file", false, "test -p /etc/dconf/profile/user"},
		{"the same locks of theirs", local + `printf '[x]\ny=1\n' >/etc/dconf/db/local.d/0; for k in screenshot screenshot-window show-screen-recording-ui show-screenshot-ui; do echo /org/gnome/shell/keybindings/$k; done >/etc/dconf/db/local.d/locks/0; dconf update`, "true", "", false,
			"DCONF_PROFILE=/etc/dconf/profile/user dconf list-locks / | wc -l | grep -qx 4"},
		{"edited since", local + `printf '[x]\ny=1\n' >/etc/dconf/db/local.d/0; dconf update; printf '[x]\ny=7\n' >/etc/dconf/db/local.d/0`, "true", "was not made of what is in local.d now", false, "DCONF_PROFILE=/etc/dconf/profile/user dconf read /x/y | grep -qx 1"},
		{"put there since", local + `printf '[x]\ny=1\n' >/etc/dconf/db/local.d/0; dconf update`, `mkdir /etc/o.d; printf '[x]\nz=2\n' >/etc/o.d/0; dconf compile /etc/dconf/db/local /etc/o.d`, "", false, "DCONF_PROFILE=/etc/dconf/profile/user dconf read /x/z | grep -qx 2"},
		{"a closed profile", local + `chmod 640 /etc/dconf/profile/user`, "true", "users cannot read /etc/dconf/profile/user", false, "true"},
		{"a closed directory of sources", local + `chmod 750 /etc/dconf/db/local.d`, "true", "", false, "true"},
		{"somebody else's keys", local + `mkdir -p /etc/dconf/db/site.d/locks; printf 'user-db:user\nsystem-db:local\nsystem-db:site\n' >/etc/dconf/profile/user; printf '[org/gnome/shell/keybindings]\nscreenshot=["x"]\n' >/etc/dconf/db/site.d/0; echo /org/gnome/shell/keybindings/screenshot >/etc/dconf/db/site.d/locks/0; dconf update`,
			"true", "", true, "test ! -e /etc/dconf/db/local.d/zz-warder && DCONF_PROFILE=/etc/dconf/profile/user dconf list-locks / | wc -l | grep -qx 1"},
	} {
		t.Run(c.what, func(t *testing.T) {
			sh(t, "rm -rf /etc/dconf; %s", c.before)
			s := settings("/")
			p, _ := s.part(gnome)
			if why := p.taken(t.Context()); !strings.Contains(why, c.taken) || c.taken == "" && why != "" {
				t.Fatalf("taken: %q", why)
			}
			failed := s.Apply(t.Context(), []enforce.Change{{Key: keyOf(gnome), To: enforce.Reading{State: enforce.Present, Value: fact.NoScreenshots}}})
			if (len(failed) > 0) != (c.taken != "" || c.fails) {
				t.Fatal(failed)
			}
			sh(t, "%s", c.during)
			change(t, s, gnome, "")
			is(t, s, gnome, "")
			sh(t, "%s", c.stays)
		})
	}
}

// A line that somebody adds to our profile breaks nothing, whatever has to be mended afterwards.
func TestProfileEdited(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	change(t, s, gnome, fact.NoScreenshots)
	sh(t, "echo '# by me' >>/etc/dconf/profile/user; echo '# x' >>/etc/dconf/db/warder.d/zz-warder")
	is(t, s, gnome, other)
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	if got := as(t, reads); got != off {
		t.Errorf("with us: %s", got)
	}
	change(t, s, gnome, "")
	if got := as(t, reads); got != freed {
		t.Errorf("afterwards: %s", got)
	}
}

// Killed while a database that was made for us goes, it is still known as ours.
func TestKilledBetween(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	sh(t, `mkdir -p /etc/dconf/profile; printf 'user-db:user\nsystem-db:more\n' >/etc/dconf/profile/user`)
	change(t, s, gnome, fact.NoScreenshots)
	sh(t, `mkdir -p /etc/dconf/db/local.d; printf 'user-db:user\nsystem-db:local\nsystem-db:more\n' >/etc/dconf/profile/user; dconf update; rm /etc/dconf/db/more`) // as far as withdraw comes
	is(t, s, gnome, other)
	change(t, s, gnome, "")
	is(t, s, gnome, "")
	if got := as(t, reads); got != freed {
		t.Errorf("afterwards: %s", got)
	}
	if got := sh(t, "find /etc/dconf/db /run/warder-test -mindepth 1 | sort"); got != "/etc/dconf/db/local\n/etc/dconf/db/local.d" {
		t.Errorf("left: %s", got)
	}
}

// A profile of a vendor's that comes after ours counts, and ours goes.
func TestVendorsProfile(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	vendor := t.TempDir() + "/user"
	s := settings("/")
	s.root = "/"
	change(t, s, gnome, fact.NoScreenshots)
	sh(t, `mkdir -p /usr/local/share/dconf/profile /etc/dconf/db/corp.d/locks; printf 'user-db:user\nsystem-db:corp\n' >%[1]s; touch /usr/local/share/dconf/profile/user; mount --bind %[1]s /usr/local/share/dconf/profile/user
printf '[org/gnome/desktop/screensaver]\nlock-enabled=true\n' >/etc/dconf/db/corp.d/0; echo /org/gnome/desktop/screensaver/lock-enabled >/etc/dconf/db/corp.d/locks/0; dconf update`, vendor)
	t.Cleanup(func() {
		sh(t, "umount /usr/local/share/dconf/profile/user; rm -r /usr/local/share/dconf")
	})
	is(t, s, gnome, other)
	change(t, s, gnome, fact.NoScreenshots)
	is(t, s, gnome, fact.NoScreenshots)
	if got := sh(t, "ls /etc/dconf/profile /etc/dconf/db 2>&1; true"); strings.Contains(got, "warder") || strings.Contains(got, "user") {
		t.Errorf("ours is there: %s", got)
	}
	change(t, s, gnome, "")
	if got := sh(t, "DCONF_PROFILE=/usr/local/share/dconf/profile/user dconf list-locks /"); got != "/org/gnome/desktop/screensaver/lock-enabled" {
		t.Errorf("afterwards: %s", got)
	}
}

// A database of somebody else's that cannot be compiled keeps our keys, which is seen until it can be; a kill in between is.
func TestTakenOutLate(t *testing.T) {
	if !onEtc(t, "dconf", "gsettings", "dbus-run-session") {
		return
	}
	s := settings("/")
	sh(t, `mkdir -p /etc/dconf/profile /etc/dconf/db/local.d; printf 'user-db:user\nsystem-db:local\n' >/etc/dconf/profile/user; printf '[x]\ny=1\n' >/etc/dconf/db/local.d/0; dconf update`)
	change(t, s, gnome, fact.NoScreenshots)
	sh(t, "echo '[[' >/etc/dconf/db/local.d/1")
	if failed := s.Apply(t.Context(), []enforce.Change{{Key: keyOf(gnome), To: enforce.Reading{State: enforce.Absent}}}); len(failed) == 0 {
		t.Error("it says that they are gone")
	}
	is(t, s, gnome, other)
	sh(t, "rm /etc/dconf/db/local.d/1")
	change(t, s, gnome, "")
	is(t, s, gnome, "")
	if got := as(t, reads); got != freed {
		t.Errorf("afterwards: %s", got)
	}
}

// What a user's processes are called, or have in their memory, keeps nobody from anything.
func TestImitations(t *testing.T) {
	s := settings(t.TempDir())
	s.proc = t.TempDir()
	s.last[gnome], s.last[portal] = fact.NoScreenshots, fact.NoScreenshots
	process := func(pid int, comm, exe, maps string) {
		t.Helper()
		dir := filepath.Join(s.proc, fmt.Sprint(pid))
		if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // a test's directory
			t.Fatal(err)
		}
		for name, text := range map[string]string{"comm": comm + "\n", "maps": maps, "stat": "1 (x) S " + strings.Repeat("1 ", 30)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Symlink(exe, dir+"/exe"), os.Chown(dir, user, user)); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("x", 100_000)
	process(10, "gnome-shell", "/home/u/gnome-shell", long)
	process(11, "xdg-desktop-por", "/usr/libexec/xdg-desktop-portal-wlr", "")
	process(12, "bash", "/usr/bin/gnome-shell", "")
	process(13, "gnome-shell", "/usr/bin/gnome-shell", "1-2 r--p 0 0:0 1 /"+long+"\n3-4 r--s 0 0:0 1 /etc/dconf/db/warder\n")
	process(14, "gnome-shell", "/usr/bin/gnome-shell (deleted)", strings.Repeat("1-2 r--p 0 0:0 1 /x\n", 1000)+"3-4 r--s 0 0:0 1 /etc/dconf/db/warder")
	list, err := s.late(t.Context())
	if err != nil || len(list) != 1 || list[0] != "GNOME: gnome-shell of user 65534 was started before" { // 14, whose database is (deleted) or cut off
		t.Errorf("%q %v", list, err)
	}
	for pid := 100; pid < 100+3*maxAsked; pid++ {
		process(pid, "gnome-shell", "/usr/bin/gnome-shell", "")
	}
	if list, err := s.late(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%q %v", list, err)
	}
}
