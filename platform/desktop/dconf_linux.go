package desktop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/owned"
)

const (
	dconfProgram = "/usr/bin/dconf"
	// dconfWait is how long dconf may take.
	dconfWait = 10 * time.Second
	busWait   = 5 * time.Second
	// maxDatabase bounds what is read of a database, in bytes.
	maxDatabase = 16 << 20
)

// dconf runs dconf with a profile, without a user's own database.
func (s *Settings) dconf(ctx context.Context, profile string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dconfWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, dconfProgram, args...)
	// As directories of its own it would make them.
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/dev/null", "XDG_RUNTIME_DIR=/dev/null", "DCONF_PROFILE=" + profile, "LC_ALL=C"}
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{b: &out}, &limited{b: &bad}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("dconf %s: %w: %.200s", args[0], err, bad.String())
	}
	return out.String(), nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, owned.MaxText-l.b.Len()))])
	return len(p), nil
}

// effective is the profile of a login session.
func (s *Settings) effective() string {
	for _, p := range profiles {
		if s.isThere(p) {
			return s.at(p)
		}
	}
	return s.at(ownProfile)
}

// inForce reports whether dconf itself says that no key takes pictures, and that no user can change that.
func (s *Settings) inForce(ctx context.Context) (bool, error) {
	now := s.what()
	if now != "" && now == s.checked {
		return true, nil
	}
	s.checked = ""
	locks, err := s.dconf(ctx, s.effective(), "list-locks", "/")
	if err != nil {
		return false, err
	}
	have := strings.Fields(locks)
	for _, g := range gnomeKeys {
		dump, err := s.dconf(ctx, s.effective(), "dump", "/"+g.dir+"/")
		if err != nil {
			return false, err
		}
		_, first, _ := strings.Cut(dump, "[/]\n") // what is in this directory itself comes first
		first, _, _ = strings.Cut(first, "\n[")
		values := strings.Split(first, "\n")
		for _, k := range g.keys {
			if !slices.Contains(have, "/"+g.dir+"/"+k) || !slices.Contains(values, k+"=@as []") {
				return false, nil
			}
		}
	}
	s.checked = now
	return true, nil
}

// what is what dconf reads, by the files and their times: the profiles, and every database.
func (s *Settings) what() string {
	out := stats(filepath.Join(s.at(databases), "*"))
	for _, p := range profiles {
		out += stats(s.at(p))
	}
	return out
}

// stats are the regular files of a pattern, with what changes when they do.
func stats(pattern string) string {
	var b strings.Builder
	list, _ := filepath.Glob(pattern)
	for _, path := range list {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			fmt.Fprintln(&b, path, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
		}
	}
	return b.String()
}

// compile makes a database of its sources, and tells the programs that read it. (dconf update would make every database anew, and fail with
// any of them.)
func (s *Settings) compile(ctx context.Context, db string) error {
	path := s.compiledAt(db)
	old, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == nil {
		defer old.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := s.made(ctx, s.sources(db))
	if err != nil {
		return err
	}
	if err := durable.Write(path, b, 0o644); err != nil {
		return err
	}
	if old != nil {
		invalid(old)
	}
	s.tell(db)
	return nil
}

// made is what dconf makes of the sources of a database. It leaves parts of files where it is killed: here, a boot removes them.
func (s *Settings) made(ctx context.Context, sources string) ([]byte, error) {
	dir, err := os.MkdirTemp(s.run, "dconf")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	fresh := filepath.Join(dir, "made")
	if _, err := s.dconf(ctx, s.effective(), "compile", fresh, sources); err != nil {
		return nil, err
	}
	f, err := os.Open(fresh)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDatabase+1))
	if err == nil && len(b) > maxDatabase {
		err = fmt.Errorf("what is made of %s has more than %d bytes", sources, maxDatabase)
	}
	return b, err
}

// invalid marks a database that another one replaces, or that goes, as dconf does: programs that have it open look for the next one,
// instead of keeping this for good.
func invalid(f *os.File) {
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
		_, _ = f.WriteAt(make([]byte, 8), 0)
	}
}

// outdate marks a database that is about to go.
func (s *Settings) outdate(db string) {
	if f, err := os.OpenFile(s.compiledAt(db), os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
		invalid(f)
		_ = f.Close()
	}
}

// tell tells programs that read a database that all of it may be different, as dconf does. Without a bus there is nobody to tell.
func (s *Settings) tell(db string) {
	ctx, cancel := context.WithTimeout(context.Background(), busWait)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return
	}
	defer bus.Close()
	_ = bus.Emit(dbus.ObjectPath("/ca/desrt/dconf/Writer/"+strings.ReplaceAll(db, "-", "_")), "ca.desrt.dconf.Writer.WritabilityNotify", "/")
}

// compiledFrom reports whether a database says what its sources say now without ours.
func (s *Settings) compiledFrom(ctx context.Context, db string) (bool, error) {
	now := s.what() + stats(filepath.Join(s.sources(db), "*")) + stats(filepath.Join(s.sources(db), "locks", "*"))
	if now == s.compared {
		return s.sameAs, nil
	}
	dir, err := os.MkdirTemp(s.run, "dconf")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	sources := filepath.Join(dir, "sources")
	if err := theirs(s.sources(db), sources); err != nil {
		return false, err
	}
	b, err := s.made(ctx, sources)
	if err != nil {
		return false, err
	}
	fresh := filepath.Join(dir, "made")
	if err := os.WriteFile(fresh, b, 0o600); err != nil {
		return false, err
	}
	says := func(path string) (out [2]string, err error) {
		of := filepath.Join(dir, "profile")
		if err := os.WriteFile(of, []byte("user-db:none\nfile-db:"+path+"\n"), 0o600); err != nil {
			return out, err
		}
		for i, what := range []string{"dump", "list-locks"} {
			if out[i], err = s.dconf(ctx, of, what, "/"); err != nil {
				return out, err
			}
			if len(out[i]) >= owned.MaxText {
				return out, fmt.Errorf("%s says more than %d bytes", path, owned.MaxText)
			}
		}
		list := strings.Fields(out[1])
		slices.Sort(list)
		out[1] = strings.Join(list, "\n")
		return out, nil
	}
	x, err := says(fresh)
	if err != nil {
		return false, err
	}
	y, err := says(s.compiledAt(db))
	if err != nil {
		return false, err
	}
	s.compared, s.sameAs = now, x == y
	return s.sameAs, nil
}

// Bounds of the sources of a database: files, and bytes of each.
const (
	maxSources = 1024
	maxSource  = 4 << 20
)

// theirs copies the sources of a database without ours.
func theirs(from, to string) error {
	for _, dir := range []string{"", "locks"} {
		if err := os.Mkdir(filepath.Join(to, dir), 0o700); err != nil {
			return err
		}
		list, err := os.ReadDir(filepath.Join(from, dir))
		if gone(err) != nil {
			return err
		}
		if len(list) > maxSources {
			return fmt.Errorf("%s has more than %d files", from, maxSources)
		}
		for _, e := range list {
			if e.IsDir() || e.Name() == keysName || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			f, err := os.OpenFile(filepath.Join(from, dir, e.Name()), os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			st, err := f.Stat()
			var b []byte
			if err == nil && st.Mode().IsRegular() {
				b, err = io.ReadAll(io.LimitReader(f, maxSource))
			}
			if err = errors.Join(err, f.Close()); err == nil {
				err = os.WriteFile(filepath.Join(to, dir, e.Name()), b, 0o600)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// locked reports whether our keys are in a database, whatever it was made of.
func (s *Settings) locked(db string) bool {
	f, err := os.OpenFile(s.compiledAt(db), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return false
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDatabase))
	return err == nil && bytes.Contains(b, []byte(sign))
}
