package desktop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/owned"
)

// Where dconf has its files.
const (
	dconfProgram = "/usr/bin/dconf"
	dconfDir     = "/etc/dconf"
	databases    = dconfDir + "/db"
	ownProfile   = dconfDir + "/profile/user"
	ownDatabase  = "warder"
	// keysName is our file in a database's directory: the last one counts.
	keysName = "zz-warder"
)

// profiles are where dconf looks for the profile of a login session, in its order.
var profiles = []string{ownProfile, "/usr/local/share/dconf/profile/user", "/usr/share/dconf/profile/user"}

// gnomeShell is the one program that takes GNOME's pictures of the screen.
const gnomeShell = "/usr/bin/gnome-shell"

var databaseName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// database names the database in which our keys are, or go: that of the machine's profile, or our own where there is none. ours says that
// the profile is.
func (s *Settings) database() (db string, ours bool, err error) {
	for _, path := range profiles {
		text, absent, err := owned.Read(s.at(path))
		if absent {
			continue
		}
		if err != nil {
			return "", false, fmt.Errorf("%s cannot be read: %w", path, err)
		}
		if path == ownProfile && string(text) == profile {
			return ownDatabase, true, nil
		}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			if db, is := strings.CutPrefix(strings.TrimSpace(line), "system-db:"); is && databaseName.MatchString(db) {
				return db, false, nil
			}
		}
		return "", false, fmt.Errorf("%s, which is somebody else's, names no database of the system", path)
	}
	return ownDatabase, true, nil
}

// gnome is GNOME: its keys do nothing, by dconf.
func (s *Settings) gnome() part {
	keys, locks := keyfile()
	dir := func(db string) string { return filepath.Join(s.at(databases), db+".d") }
	// files are ours in the directory of a database.
	files := func(db string) map[string]string {
		return map[string]string{filepath.Join(dir(db), keysName): keys, filepath.Join(dir(db), "locks", keysName): locks}
	}
	// everywhere are the databases in which there may be files of ours: the profile may have been another one when they were written.
	everywhere := func() (out []string) {
		list, _ := filepath.Glob(filepath.Join(s.at(databases), "*.d"))
		for _, d := range list {
			db := strings.TrimSuffix(filepath.Base(d), ".d")
			for path := range files(db) {
				if _, err := os.Lstat(path); err == nil && !slices.Contains(out, db) {
					out = append(out, db)
				}
			}
		}
		if own := databases + "/" + ownDatabase; !slices.Contains(out, ownDatabase) && (s.isThere(own) || s.isThere(own+".d")) {
			out = append(out, ownDatabase)
		}
		return out
	}
	return part{
		id: gnome, name: "GNOME", how: databases,
		here: func() bool { return s.isThere(gnomeShell) },
		taken: func() string {
			if !s.isThere(dconfProgram) {
				return "dconf is not installed (package dconf-cli)"
			}
			db, _, err := s.database()
			if err != nil {
				return err.Error()
			}
			_, compiled := os.Lstat(filepath.Join(s.at(databases), db))
			_, sources := os.Lstat(dir(db))
			if db != ownDatabase && compiled == nil && sources != nil {
				return fmt.Sprintf("%s/%s was made without %s.d, and would be lost", databases, db, db)
			}
			return ""
		},
		read: func(ctx context.Context) (string, error) {
			in := everywhere()
			text, absent, err := owned.Read(s.at(ownProfile))
			mine := err == nil && !absent && string(text) == profile
			db, ours, why := s.database()
			switch {
			case len(in) == 0 && !mine:
				return "", nil
			case why != nil || len(in) != 1 || in[0] != db || ours && !mine || !same(files(db)):
				return other, nil //nolint:nilerr // it is not as we would have it, whatever the profile is
			}
			ok, err := s.compiled(ctx)
			if err != nil {
				return "", err
			}
			if !ok {
				return other, nil
			}
			return fact.NoScreenshots, nil
		},
		write: func(ctx context.Context) error {
			db, ours, err := s.database()
			if err != nil {
				return err
			}
			for _, old := range everywhere() {
				if old != db {
					if err := s.withdraw(ctx, old, files(old)); err != nil {
						return err
					}
				}
			}
			if err := owned.MakeDir(filepath.Join(dir(db), "locks")); err != nil {
				return err
			}
			for path, text := range files(db) {
				if err := durable.Write(path, []byte(text), 0o644); err != nil {
					return err
				}
			}
			if err := s.update(ctx, db); err != nil {
				return err
			}
			if !ours { // the profile is there
				return nil
			}
			if err := owned.MakeDir(filepath.Dir(s.at(ownProfile))); err != nil { // last: a profile without its database says nothing
				return err
			}
			return durable.Write(s.at(ownProfile), []byte(profile), 0o644)
		},
		remove: func(ctx context.Context) error {
			var errs []error
			for _, db := range everywhere() { // first, so that programs that run with them hear that they are free
				errs = append(errs, s.withdraw(ctx, db, files(db)))
			}
			if text, absent, err := owned.Read(s.at(ownProfile)); err == nil && !absent && string(text) == profile {
				errs = append(errs, durable.Remove(s.at(ownProfile)))
			}
			owned.RemoveDir(s.root, filepath.Dir(s.at(ownProfile)))
			return errors.Join(errs...)
		},
		programs: []string{"gnome-shell"},
		late: func(pid int) (bool, error) {
			db, _, err := s.database()
			if err != nil {
				return false, nil //nolint:nilerr // nothing of ours is there
			}
			// Who has this database in its memory reads it.
			has, err := maps(s.proc, pid, databases+"/"+db)
			return !has, err
		},
		dirs: func() []string {
			out := []string{s.at(databases), filepath.Dir(s.at(ownProfile)), s.at(dconfDir)}
			if db, _, err := s.database(); err == nil {
				out = append(out, dir(db), filepath.Join(dir(db), "locks"))
			}
			return out
		},
	}
}

// withdraw takes our files out of a database. One that was ours alone goes.
func (s *Settings) withdraw(ctx context.Context, db string, files map[string]string) error {
	for path := range files {
		if err := durable.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if s.isThere(dconfProgram) { // else nothing here could have been compiled since
		if err := s.update(ctx, db); err != nil {
			return err
		}
	}
	dir := filepath.Join(s.at(databases), db+".d")
	if db == ownDatabase {
		list, err := filepath.Glob(filepath.Join(dir, "*"))
		if more, err2 := filepath.Glob(filepath.Join(dir, "locks", "*")); err == nil && err2 == nil && len(more) == 0 && (len(list) == 0 || len(list) == 1 && filepath.Base(list[0]) == "locks") {
			s.outdate(db)
			if err := durable.Remove(filepath.Join(s.at(databases), db)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	owned.RemoveDir(s.root, filepath.Join(dir, "locks")) // and those above it
	return nil
}

// outdate marks a database that is about to go, as dconf itself marks one that it replaces: programs that have it open look for the next
// one, instead of keeping this for good.
func (s *Settings) outdate(db string) {
	if f, err := os.OpenFile(filepath.Join(s.at(databases), db), os.O_WRONLY|unix.O_NOFOLLOW, 0); err == nil {
		_, _ = f.WriteAt(make([]byte, 8), 0)
		_ = f.Close()
	}
}

// update has dconf compile a database, and tell the programs that read it.
func (s *Settings) update(ctx context.Context, db string) error {
	// It compares times of whole seconds, and would pass over what was written in the same one.
	if path := filepath.Join(s.at(databases), db); s.isThere(databases + "/" + db) {
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			return err
		}
	}
	_, err := s.tool(ctx, s.root, "update", s.at(databases))
	return err
}

// compiled reports whether dconf itself says that no key takes pictures, and that no user can change that.
func (s *Settings) compiled(ctx context.Context) (bool, error) {
	locks, err := s.tool(ctx, s.root, "list-locks", "/")
	if err != nil {
		return false, err
	}
	have := strings.Fields(locks)
	for _, g := range gnomeKeys {
		dump, err := s.tool(ctx, s.root, "dump", "/"+g.dir+"/")
		if err != nil {
			return false, err
		}
		values := strings.Split(dump, "\n")
		for _, k := range g.keys {
			if !slices.Contains(have, "/"+g.dir+"/"+k) || !slices.Contains(values, k+"=@as []") {
				return false, nil
			}
		}
	}
	return true, nil
}

// dconfWait is how long dconf may take.
const dconfWait = 10 * time.Second

// dconf runs dconf, which reads what a login session would: without a user's own database.
func dconf(ctx context.Context, root string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dconfWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, dconfProgram, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "XDG_RUNTIME_DIR=/nonexistent", "DCONF_PROFILE=" + filepath.Join(root, ownProfile), "LC_ALL=C"}
	for _, p := range profiles {
		if _, err := os.Lstat(filepath.Join(root, p)); err == nil {
			cmd.Env[3] = "DCONF_PROFILE=" + filepath.Join(root, p)
			break
		}
	}
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{b: &out}, &limited{b: &bad}
	cmd.WaitDelay = time.Second
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

// KDE's file of keys.
const shortcutsFile = "/etc/xdg/kglobalshortcutsrc"

// kde is KDE Plasma: the keys of Spectacle do nothing.
func (s *Settings) kde() part {
	text := shortcuts()
	read := func() (string, bool, error) { return s.own(shortcutsFile, text) }
	return part{
		id: kde, name: "KDE Plasma", how: shortcutsFile,
		here: func() bool { return s.isThere("/usr/bin/kwin_wayland") },
		taken: func() string {
			if _, ours, err := read(); err != nil || !ours {
				return shortcutsFile + " is somebody else's"
			}
			return ""
		},
		read: func(context.Context) (string, error) {
			value, ours, err := read()
			if !ours {
				value = "" // nothing of ours is there
			}
			return value, err
		},
		write: func(context.Context) error {
			if err := owned.MakeDir(filepath.Dir(s.at(shortcutsFile))); err != nil {
				return err
			}
			return s.put(shortcutsFile, text)
		},
		remove:   func(context.Context) error { return s.drop(shortcutsFile) },
		programs: []string{"kglobalaccel5", "kglobalacceld", "kwin_wayland"},
		late:     func(pid int) (bool, error) { return s.before(pid, shortcutsFile) },
		dirs:     func() []string { return []string{filepath.Dir(s.at(shortcutsFile))} },
	}
}

// Portals.
const (
	portalDir = "/etc/xdg/xdg-desktop-portal"
	// anyDesktop is the file for desktops that have none of their own.
	anyDesktop = "portals.conf"
)

var (
	portalPrograms = []string{"/usr/libexec/xdg-desktop-portal", "/usr/lib/xdg-desktop-portal"}
	// portalVendors are where desktops put their preferences, which ours hide; of two with the same name the first counts.
	portalVendors = []string{"/etc/xdg-desktop-portal", "/usr/local/share/xdg-desktop-portal", "/usr/share/xdg-desktop-portal"}
)

// maxPortals bounds the files of preferences.
const maxPortals = 64

// portal is what gives programs pictures of the screen on Wayland: it does not any more.
func (s *Settings) portal() part {
	// files are ours, with their texts: one for each of the vendors', and one for any other desktop.
	files := func() (map[string]string, error) {
		out := map[string]string{anyDesktop: withoutPortals("")}
		from := map[string]bool{}
		for _, dir := range portalVendors {
			list, _ := filepath.Glob(filepath.Join(s.at(dir), "*"+anyDesktop))
			for _, path := range list[:min(len(list), maxPortals)] {
				base := filepath.Base(path)
				if from[base] {
					continue
				}
				text, err := os.ReadFile(path) // they may be links
				if err != nil {
					return nil, err
				}
				out[base], from[base] = withoutPortals(string(text[:min(len(text), owned.MaxText/2)])), true
			}
		}
		return out, nil
	}
	// there are the files in the directory, and which of them are ours.
	there := func() (ours, others []string) {
		list, _ := filepath.Glob(filepath.Join(s.at(portalDir), "*"+anyDesktop))
		for _, path := range list {
			if text, _, err := owned.Read(path); err == nil && strings.HasPrefix(string(text), note) {
				ours = append(ours, filepath.Base(path))
			} else {
				others = append(others, filepath.Base(path))
			}
		}
		return ours, others
	}
	return part{
		id: portal, name: "portals", how: portalDir,
		here: func() bool { return slices.ContainsFunc(portalPrograms, s.isThere) },
		taken: func() string {
			if _, others := there(); len(others) > 0 {
				return portalDir + "/" + others[0] + " is somebody else's"
			}
			for _, p := range portalPrograms {
				if b, err := os.ReadFile(s.at(p)); err == nil && bytes.Contains(b, []byte(anyDesktop)) {
					return ""
				}
			}
			return "this version of xdg-desktop-portal reads no preferences (1.18 does)"
		},
		read: func(context.Context) (string, error) {
			ours, _ := there()
			if len(ours) == 0 {
				return "", nil
			}
			want, err := files()
			if err != nil {
				return "", err
			}
			all := map[string]string{}
			for base, text := range want {
				all[s.at(portalDir+"/"+base)] = text
			}
			if len(ours) != len(want) || !same(all) {
				return other, nil
			}
			return fact.NoScreenshots, nil
		},
		write: func(context.Context) error {
			want, err := files()
			if err != nil {
				return err
			}
			if err := owned.MakeDir(s.at(portalDir)); err != nil {
				return err
			}
			ours, _ := there()
			for _, base := range ours {
				if _, is := want[base]; !is {
					if err := s.drop(portalDir + "/" + base); err != nil {
						return err
					}
				}
			}
			for base, text := range want {
				if old, absent, err := owned.Read(s.at(portalDir + "/" + base)); err == nil && !absent && string(old) == text {
					continue // it keeps its time
				}
				if err := s.put(portalDir+"/"+base, text); err != nil {
					return err
				}
			}
			return nil
		},
		remove: func(context.Context) error {
			ours, _ := there()
			for _, base := range ours {
				if err := s.drop(portalDir + "/" + base); err != nil {
					return err
				}
			}
			owned.RemoveDir(s.root, s.at(portalDir))
			return nil
		},
		programs: []string{filepath.Base(portalPrograms[0])},
		late: func(pid int) (bool, error) {
			exe, err := os.Readlink(filepath.Join(s.proc, strconv.Itoa(pid), "exe"))
			if err != nil || !slices.Contains(portalPrograms, strings.TrimSuffix(exe, " (deleted)")) {
				return false, err // the kernel's name of one that serves it is the same
			}
			ours, _ := there()
			for _, base := range ours {
				if late, err := s.before(pid, portalDir+"/"+base); late || err != nil {
					return late, err
				}
			}
			return false, nil
		},
		dirs: func() []string {
			out := []string{s.at(portalDir), filepath.Dir(s.at(portalDir))}
			for _, d := range portalVendors {
				out = append(out, s.at(d))
			}
			return out
		},
	}
}

// isThere reports whether a file is there.
func (s *Settings) isThere(path string) bool {
	_, err := os.Stat(s.at(path))
	return err == nil
}

// own reads a file that is ours with this text: NoScreenshots, or something else if it only begins like ours. ours is true where there is
// none.
func (s *Settings) own(path, text string) (value string, ours bool, err error) {
	b, absent, err := owned.Read(s.at(path))
	switch {
	case absent:
		return "", true, nil
	case errors.Is(err, unix.ELOOP):
		return "", false, nil
	case err != nil:
		return "", false, err
	case string(b) == text:
		return fact.NoScreenshots, true, nil
	}
	return other, strings.HasPrefix(string(b), note), nil
}

// same reports whether files have these texts.
func same(files map[string]string) bool {
	for path, text := range files {
		if b, absent, err := owned.Read(path); err != nil || absent || string(b) != text {
			return false
		}
	}
	return true
}

// put writes a file, and notes on it when that was.
func (s *Settings) put(path, text string) error {
	if err := durable.Write(s.at(path), []byte(text), 0o644); err != nil {
		return err
	}
	boot, since := s.stamp()
	_ = unix.Setxattr(s.at(path), written, []byte(boot+" "+since.String()), 0) // without it, who reads it has started before
	return nil
}

// drop removes a file of ours, and its directory if that was made for it.
func (s *Settings) drop(path string) error {
	text, _, err := owned.Read(s.at(path))
	if err != nil && !errors.Is(err, unix.ELOOP) {
		return err
	}
	if !strings.HasPrefix(string(text), note) {
		return nil // it is not there, or somebody else's
	}
	if err := durable.Remove(s.at(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	owned.RemoveDir(s.root, filepath.Dir(s.at(path)))
	return nil
}
