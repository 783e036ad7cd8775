//go:build linux

package formats

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// packages returns the packages of a format, of this version and of the next: WARDER_PACKAGES names the two
// directories, as "make test" builds them.
func packages(t *testing.T, pattern string) (now, next []string) {
	t.Helper()
	dirs := strings.Split(os.Getenv("WARDER_PACKAGES"), ":")
	if len(dirs) != 2 {
		unable(t, "WARDER_PACKAGES does not name the packages (make test does)")
	}
	for i, dir := range dirs {
		list, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(list) != 2 {
			t.Fatalf("%s: %v %v, want the agent's and the server's", filepath.Join(dir, pattern), list, err)
		}
		if i == 0 {
			now = list
		} else {
			next = list
		}
	}
	return now, next
}

// unable says why a test cannot run here; in CI that is a failure.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, tool+" is not installed")
		}
	}
	if os.Getuid() != 0 {
		unable(t, "to run a package's scripts in a root directory takes root")
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// root is a directory in which packages are installed: busybox for the scripts, the libraries that the programs need,
// and a service manager that records its commands. running lists the services that it reports as running.
type root struct {
	t   *testing.T
	dir string
}

func newRoot(t *testing.T, manager string) *root {
	r := &root{t, t.TempDir()}
	for _, dir := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "etc", "tmp", "run", "dev", "proc", "var/lib", "lib64"} {
		r.check(os.MkdirAll(filepath.Join(r.dir, dir), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	r.check(err)
	r.copy(busybox, "bin/busybox")
	for _, name := range []string{"sh", "id", "touch", "rm", "mkdir", "chown", "chmod", "cat", "echo", "grep", "stat"} {
		r.check(os.Symlink("busybox", filepath.Join(r.dir, "bin", name)))
	}
	r.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
	r.write("etc/group", "root:x:0:\n", 0o644)
	r.write("dev/null", "", 0o666)
	// As in shadow and busybox, as far as the scripts use them.
	user := "#!/bin/sh\nfor last; do :; done\necho \"$last:x:990:990::/var/lib/$last:/sbin/nologin\" >>/etc/passwd\necho " +
		"\"$last:x:990:\" >>/etc/group\n"
	if manager == "openrc" {
		r.write("usr/sbin/adduser", user, 0o755)
		r.write("usr/sbin/addgroup", "#!/bin/sh\nexit 0\n", 0o755)
	} else {
		r.write("usr/sbin/useradd", user, 0o755)
		r.write("usr/sbin/groupadd", "#!/bin/sh\nexit 0\n", 0o755)
	}
	log := "#!/bin/sh\necho \"${0##*/} $*\" >>/calls\n"
	switch manager {
	case "systemd":
		r.check(os.MkdirAll(filepath.Join(r.dir, "run/systemd/system"), 0o755))
		r.write("bin/systemctl", log+`case "$*" in
is-active*) test -e /running; exit ;;
start*) touch /running ;;
restart*) test -e /run/warder/keep && echo "kept for the next program" >>/calls ;;
esac
exit 0
`, 0o755)
	case "openrc":
		r.check(os.MkdirAll(filepath.Join(r.dir, "run/openrc"), 0o755))
		r.write("sbin/rc-update", log, 0o755)
		r.write("sbin/rc-service", log+`case "$*" in
*status) test -e /running; exit ;;
*" start") touch /running ;;
*restart) test -e /run/warder/keep && echo "kept for the next program" >>/calls ;;
esac
exit 0
`, 0o755)
	}
	return r
}

func (r *root) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *root) write(path, text string, mode os.FileMode) {
	r.t.Helper()
	path = filepath.Join(r.dir, path)
	r.check(os.MkdirAll(filepath.Dir(path), 0o755))
	r.check(os.WriteFile(path, []byte(text), mode))
	r.check(os.Chmod(path, mode))
}

func (r *root) copy(from, to string) {
	r.t.Helper()
	b, err := os.ReadFile(from)
	r.check(err)
	r.write(to, string(b), 0o755)
}

// libraries copies what a package's program needs from the loader.
func (r *root) libraries(program string) {
	r.t.Helper()
	for _, word := range strings.Fields(run(r.t, "ldd", program)) {
		if strings.HasPrefix(word, "/") {
			r.copy(word, word)
		}
	}
}

// calls returns the service manager's commands since the last time.
func (r *root) calls() string {
	r.t.Helper()
	path := filepath.Join(r.dir, "calls")
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	_ = os.Remove(path)
	return string(b)
}

func (r *root) has(paths ...string) {
	r.t.Helper()
	for _, p := range paths {
		if list, _ := filepath.Glob(filepath.Join(r.dir, p)); len(list) == 0 {
			r.t.Errorf("%s is not there", p)
		}
	}
}

func (r *root) lacks(paths ...string) {
	r.t.Helper()
	for _, p := range paths {
		if list, _ := filepath.Glob(filepath.Join(r.dir, p)); len(list) > 0 {
			r.t.Errorf("%v is left", list)
		}
	}
}

// in checks that the service manager received these commands, in this order.
func in(t *testing.T, when, got string, want ...string) {
	t.Helper()
	rest := got
	for _, w := range want {
		_, after, found := strings.Cut(rest, w+"\n")
		if !found {
			t.Errorf("%s: %q is not there, or not in its place:\n%s", when, w, got)
			return
		}
		rest = after
	}
}

// life installs, upgrades and removes, and checks the service manager's commands.
func life(t *testing.T, r *root, now, next []string, install, upgrade func(files []string), remove func()) {
	t.Helper()
	install(now)
	r.has("usr/bin/warder", "usr/bin/warder-server", "usr/lib/warder/package", "usr/lib/warder/last-resort",
		"usr/share/man/man1/warder.1.gz", "usr/share/man/man8/warder-server-policy-apply.8.gz",
		"usr/share/bash-completion/completions/warder", "usr/share/zsh/*/_warder-server", "usr/share/fish/vendor_completions.d/warder.fish",
		"usr/share/doc/warder/examples/warder.toml", "etc/warder", "var/lib/warder-server")
	if f, err := elf.Open(filepath.Join(r.dir, "usr/bin/warder")); err == nil && f.Section(".interp") != nil {
		r.libraries(filepath.Join(r.dir, "usr/bin/warder"))
	}
	passwd, err := os.ReadFile(filepath.Join(r.dir, "etc/passwd"))
	if err != nil || !strings.Contains(string(passwd), "warder-server:") {
		t.Errorf("the server's user: %s %v", passwd, err)
	}
	if info, err := os.Stat(filepath.Join(r.dir, "var/lib/warder-server")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the server's directory: %v %v", info, err)
	}
	first := r.calls()
	if os.Getenv("WARDER_VERBOSE") != "" {
		t.Log(first)
	}
	openrc := strings.Contains(first, "rc-service")
	if openrc {
		in(t, "installed", first, "rc-update -q add warder default", "rc-service -q warder start")
	} else {
		in(t, "installed", first, "systemctl enable --quiet warder.service", "systemctl start warder.service")
	}
	if strings.Contains(first, "systemctl start warder-server") || strings.Contains(first, "warder-server start") {
		t.Errorf("a new server is started before anybody has chosen its address:\n%s", first)
	}
	upgrade(next)
	second := r.calls()
	if openrc {
		in(t, "upgraded", second, "rc-service -q warder restart", "kept for the next program")
	} else {
		in(t, "upgraded", second, "systemctl restart warder.service", "kept for the next program")
	}
	if strings.Contains(second, "stop") || strings.Contains(second, "disable") || strings.Contains(second, " del ") {
		t.Errorf("an upgrade gives the machine back:\n%s", second)
	}
	r.lacks("run/warder/keep")
	r.write("etc/warder/early", "the policy of the next start", 0o600)
	remove()
	third := r.calls()
	if openrc {
		in(t, "removed", third, "rc-service -q warder stop", "rc-update -q del warder default")
	} else {
		in(t, "removed", third, "systemctl stop warder.service warder-early.service", "systemctl disable --quiet warder.service")
	}
	r.lacks("usr/bin/warder", "usr/bin/warder-server", "usr/lib/warder/*", "etc/warder/early", "run/warder", "usr/share/man/man1/warder*")
	r.has("var/lib/warder-server") // the keys that devices trust
}

func TestRPM(t *testing.T) {
	need(t, "rpm", "busybox")
	now, next := packages(t, "*.rpm")
	for _, p := range now {
		if text := run(t, "rpm", "-qp", "--requires", p); !strings.Contains(text, "glibc >= 2.") {
			t.Errorf("%s depends on no version of the C library: %s", p, text)
		}
	}
	r := newRoot(t, "systemd")
	base := []string{"--root", r.dir, "--dbpath", "/var/lib/rpm"}
	run(t, "rpm", append(base, "--initdb")...)
	do := func(how string, files []string) {
		// What it depends on is not in this root.
		if out := run(t, "rpm", append(append(base, how, "--nodeps"), files...)...); strings.Contains(out, "scriptlet failed") {
			t.Errorf("rpm %s: %s", how, out)
		}
	}
	life(t, r, now, next, func(f []string) { do("-i", f) }, func(f []string) { do("-U", f) },
		func() { do("-e", []string{"warder", "warder-server"}) })
}

func TestArch(t *testing.T) {
	need(t, "pacman", "busybox")
	now, next := packages(t, "*.pkg.tar.zst")
	r := newRoot(t, "systemd")
	for _, dir := range []string{"var/lib/pacman", "var/cache/pacman/pkg"} {
		r.check(os.MkdirAll(filepath.Join(r.dir, dir), 0o755))
	}
	r.write("etc/pacman.conf", "[options]\nArchitecture = auto\nSigLevel = Never\nLocalFileSigLevel = Never\n", 0o644)
	do := func(args ...string) {
		out := run(t, "pacman", append([]string{"--root", r.dir, "--dbpath", filepath.Join(r.dir, "var/lib/pacman"), "--config",
			filepath.Join(r.dir, "etc/pacman.conf"),
			"--cachedir", filepath.Join(r.dir, "var/cache/pacman/pkg"), "--hookdir", filepath.Join(r.dir, "none"), "--noconfirm"},
			args...)...)
		if strings.Contains(out, "error:") {
			t.Errorf("pacman %v: %s", args, out)
		}
	}
	life(t, r, now, next, func(f []string) { do(append([]string{"-Udd"}, f...)...) },
		func(f []string) { do(append([]string{"-Udd"}, f...)...) },
		func() { do("-Rdd", "warder", "warder-server") })
}

// TestAPK does by hand what apk does, because apk is not available here: unpack, and run the scripts by their names.
func TestAPK(t *testing.T) {
	need(t, "busybox", "tar")
	now, next := packages(t, "*.apk")
	r := newRoot(t, "openrc")
	scripts := map[string]string{}
	unpack := func(files []string) {
		for _, f := range files {
			// Signature, control and data are three archives, one after the other.
			run(t, "tar", "--ignore-zeros", "-xzf", f, "-C", r.dir, "--warning=no-unknown-keyword")
			for _, s := range []string{"post-install", "post-upgrade", "pre-deinstall", "post-deinstall"} {
				path := filepath.Join(r.dir, "."+s)
				if b, err := os.ReadFile(path); err == nil {
					scripts[s+filepath.Base(f)[:8]] = string(b)
					_ = os.Remove(path)
				}
			}
		}
	}
	call := func(s string) {
		for name, text := range scripts {
			if !strings.HasPrefix(name, s) {
				continue
			}
			r.write("tmp/script", text, 0o755)
			run(t, "chroot", r.dir, "/tmp/script")
		}
	}
	life(t, r, now, next, func(f []string) {
		unpack(f)
		static(t, filepath.Join(r.dir, "usr/bin/warder"))
		static(t, filepath.Join(r.dir, "usr/bin/warder-server"))
		r.has("etc/init.d/warder", "etc/init.d/warder-server", "etc/conf.d/warder-server")
		r.lacks("usr/lib/systemd", "lib/systemd")
		call("post-install")
	}, func(f []string) { unpack(f); call("post-upgrade") }, func() {
		call("pre-deinstall")
		for _, p := range []string{"usr/bin/warder", "usr/bin/warder-server", "usr/lib/warder", "usr/share/man"} {
			r.check(os.RemoveAll(filepath.Join(r.dir, p)))
		}
		call("post-deinstall")
	})
	for _, name := range []string{"warder", "warder-server"} {
		run(t, "sh", "-n", filepath.Join(r.dir, "etc/init.d", name))
	}
}

// static refuses a program that needs a loader: Alpine's differs from the build machine's.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s asks for a loader", path)
		}
	}
}

// TestLintian: Debian's own checks find no error.
func TestLintian(t *testing.T) {
	if _, err := exec.LookPath("lintian"); err != nil {
		unable(t, "lintian is not installed")
	}
	now, _ := packages(t, "*.deb")
	for _, p := range now {
		cmd := exec.Command("lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", p)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(p), err, out.String())
		} else {
			t.Log(fmt.Sprint(filepath.Base(p), ": ", strings.Count(out.String(), "W: "), " warnings"))
		}
	}
}

// The programs of the packages for glibc are position-independent, and bound when they start.
func TestPIE(t *testing.T) {
	need(t, "dpkg-deb")
	now, _ := packages(t, "*.deb")
	for _, p := range now {
		dir := t.TempDir()
		run(t, "dpkg-deb", "-x", p, dir)
		list, _ := filepath.Glob(filepath.Join(dir, "usr/bin/*"))
		if len(list) != 1 {
			t.Errorf("%s has the programs %v", filepath.Base(p), list)
		}
		for _, program := range list {
			f, err := elf.Open(program)
			if err != nil {
				t.Fatal(err)
			}
			if f.Type != elf.ET_DYN {
				t.Errorf("%s is not position-independent", filepath.Base(program))
			}
			if flags, err := f.DynValue(elf.DT_FLAGS_1); err != nil || len(flags) != 1 || elf.DynFlag1(flags[0])&elf.DF_1_NOW == 0 {
				t.Errorf("%s is bound later than at its start: %v %v", filepath.Base(program), flags, err)
			}
			_ = f.Close()
		}
	}
}
