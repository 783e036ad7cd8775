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
	var b strings.Builder
	list, err := filepath.Glob(filepath.Join(s.at(databases), "*"))
	if err != nil {
		return ""
	}
	for _, p := range profiles {
		list = append(list, s.at(p))
	}
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
	fresh := filepath.Join(s.at(databases), "."+db+".warder")
	defer os.Remove(fresh)
	if _, err := s.dconf(ctx, s.effective(), "compile", fresh, s.sources(db)); err != nil {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = errors.Join(f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return err
	}
	if old != nil {
		invalid(old)
	}
	s.tell(db)
	return nil
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

// compiledFrom reports whether a database says what its sources say now.
func (s *Settings) compiledFrom(db string) bool {
	var st unix.Stat_t
	if unix.Stat(s.sources(db), &st) != nil {
		return false
	}
	now := fmt.Sprintln(s.what(), st.Mtim)
	if now == s.compared {
		return s.sameAs
	}
	says := func(path string) (string, error) {
		of := filepath.Join(s.run, "dconf-profile")
		if err := os.WriteFile(of, []byte("user-db:none\nfile-db:"+path+"\n"), 0o600); err != nil {
			return "", err
		}
		defer os.Remove(of)
		ctx := context.Background()
		dump, err := s.dconf(ctx, of, "dump", "/")
		if err != nil {
			return "", err
		}
		locks, err := s.dconf(ctx, of, "list-locks", "/")
		list := strings.Fields(locks)
		slices.Sort(list)
		return dump + strings.Join(list, "\n"), err
	}
	fresh := filepath.Join(s.run, "dconf-compiled")
	defer os.Remove(fresh)
	_, err := s.dconf(context.Background(), s.effective(), "compile", fresh, s.sources(db))
	a, err1 := says(fresh)
	b, err2 := says(s.compiledAt(db))
	s.compared, s.sameAs = now, err == nil && err1 == nil && err2 == nil && a == b
	return s.sameAs
}

// locked reports whether all of our locks are in a database, whatever it was made of.
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
	if err != nil {
		return false
	}
	for _, g := range gnomeKeys {
		for _, k := range g.keys {
			if !bytes.Contains(b, []byte("/"+g.dir+"/"+k)) {
				return false
			}
		}
	}
	return true
}
