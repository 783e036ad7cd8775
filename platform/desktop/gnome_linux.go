package desktop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/owned"
)

// Where dconf has its files.
const (
	databases   = "/etc/dconf/db"
	ownProfile  = "/etc/dconf/profile/user"
	ownDatabase = "warder"
	ownLine     = "system-db:" + ownDatabase
	// keysName is our file in a database's directory: the last one counts.
	keysName = "zz-warder"
)

// profiles are where dconf looks for the profile of a login session, in its order.
var profiles = []string{ownProfile, "/usr/local/share/dconf/profile/user", "/usr/share/dconf/profile/user"}

// gnomeShell is the one program that takes GNOME's pictures of the screen.
const gnomeShell = "/usr/bin/gnome-shell"

var databaseName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// database names the database in which our keys are, or go: the first one of the machine's profile, or, with ours, our own, where there is no
// profile beside our own.
func (s *Settings) database() (db string, ours bool, err error) {
	for _, path := range profiles {
		text, absent, err := owned.Read(s.at(path))
		if absent || err == nil && path == ownProfile && string(text) == profile {
			continue
		}
		if err != nil {
			return "", false, fmt.Errorf("%s cannot be read: %w", path, err)
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

// mine reports whether the machine's profile is ours.
func (s *Settings) mine() bool {
	text, absent, err := owned.Read(s.at(ownProfile))
	return err == nil && !absent && string(text) == profile
}

func (s *Settings) compiledAt(db string) string { return filepath.Join(s.at(databases), db) }
func (s *Settings) sources(db string) string    { return filepath.Join(s.at(databases), db+".d") }

// keyFiles are ours in the directory of a database, with their texts.
func (s *Settings) keyFiles(db string) map[string]string {
	keys, locks := keyfile()
	return map[string]string{filepath.Join(s.sources(db), keysName): keys, filepath.Join(s.sources(db), "locks", keysName): locks}
}

// everywhere are the databases in which there is something of ours: the profile may have been another one when that was written.
func (s *Settings) everywhere() (out []string) {
	list, _ := filepath.Glob(filepath.Join(s.at(databases), "*.d"))
	for _, d := range list {
		db := strings.TrimSuffix(filepath.Base(d), ".d")
		for path := range s.keyFiles(db) {
			if _, err := os.Lstat(path); err == nil && !slices.Contains(out, db) {
				out = append(out, db)
			}
		}
	}
	if !slices.Contains(out, ownDatabase) && !s.anyone(ownDatabase) && (s.isThere(databases+"/"+ownDatabase) || s.isThere(databases+"/"+ownDatabase+".d")) {
		out = append(out, ownDatabase)
	}
	if db, _, err := s.database(); err == nil && !slices.Contains(out, db) && s.locked(db) {
		out = append(out, db) // somebody has removed what it was made of
	}
	return out
}

// anyone reports whether somebody else has anything in a database's directory.
func (s *Settings) anyone(db string) bool {
	for _, dir := range []string{s.sources(db), filepath.Join(s.sources(db), "locks")} {
		list, _ := os.ReadDir(dir)
		for _, e := range list {
			if e.Name() != keysName && e.Name() != "locks" && !strings.HasPrefix(e.Name(), ".") {
				return true
			}
		}
	}
	return false
}

// gnome is GNOME: its keys do nothing, by dconf.
func (s *Settings) gnome() part {
	return part{
		id: gnome, name: "GNOME", how: databases,
		here: func() bool { return s.isThere(gnomeShell) }, taken: s.keysTaken, read: s.readKeys, write: s.writeKeys, remove: s.removeKeys,
		programs: []string{s.shell},
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
			out := []string{s.at(databases), filepath.Dir(s.at(ownProfile)), filepath.Dir(s.at(databases))}
			for _, p := range profiles[1:] {
				out = append(out, filepath.Dir(s.at(p)))
			}
			if db, _, err := s.database(); err == nil {
				out = append(out, s.sources(db), filepath.Join(s.sources(db), "locks"))
			}
			return out
		},
	}
}

// keysTaken says why the keys cannot be set without harm to what is somebody else's; "" if they can.
func (s *Settings) keysTaken(ctx context.Context) string {
	if !s.isThere(dconfProgram) {
		return "dconf is not installed (package dconf-cli)"
	}
	db, ours, err := s.database()
	if err != nil {
		return err.Error()
	}
	for _, p := range []string{s.at(databases), filepath.Dir(s.at(ownProfile)), s.effective()} {
		if why := s.closed(p); why != "" && !(s.mine() && p == s.at(ownProfile)) { // ours is written anew
			return why
		}
	}
	compiled, err := os.Lstat(s.compiledAt(db))
	switch {
	case ours || err != nil || s.locked(db): // what is there is ours, or nothing is
		return ""
	case !compiled.Mode().IsRegular():
		return fmt.Sprintf("%s/%s is a link, or no file", databases, db)
	case !s.isThere(databases + "/" + db + ".d"):
		return fmt.Sprintf("%s/%s was made without %s.d, and would be lost", databases, db, db)
	}
	ok, err := s.compiledFrom(ctx, db)
	if err != nil {
		return fmt.Sprintf("%s/%s cannot be compared with what it was made of: %v", databases, db, err)
	}
	if !ok {
		return fmt.Sprintf("%s/%s was not made of what is in %s.d now, and would be lost (dconf update)", databases, db, db)
	}
	return ""
}

// readKeys reads what is there: NoScreenshots only if dconf says the same as a user's session would.
func (s *Settings) readKeys(ctx context.Context) (string, error) {
	in, mine := s.everywhere(), s.mine()
	db, ours, why := s.database()
	if len(in) == 0 && !mine {
		return "", nil
	}
	if why != nil || len(in) != 1 || in[0] != db || ours != mine || !same(s.keyFiles(db)) || s.closed(s.compiledAt(db)) != "" || s.closed(s.effective()) != "" {
		return other, nil //nolint:nilerr // it is not as we would have it, whatever the profile is
	}
	ok, err := s.inForce(ctx)
	if err != nil {
		return "", err
	}
	if !ok {
		return other, nil
	}
	return fact.NoScreenshots, nil
}

func (s *Settings) writeKeys(ctx context.Context) error {
	db, ours, err := s.database()
	if err != nil {
		return err
	}
	for _, old := range s.everywhere() {
		if old != db {
			if err := s.withdraw(ctx, old); err != nil {
				return err
			}
		}
	}
	if err := owned.MakeDir(filepath.Join(s.sources(db), "locks")); err != nil {
		return err
	}
	for path, text := range s.keyFiles(db) {
		if err := durable.Write(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := s.compile(ctx, db); err != nil {
		return err
	}
	if ours { // last: a profile without its database says nothing
		if err := owned.MakeDir(filepath.Dir(s.at(ownProfile))); err != nil {
			return err
		}
		if err := durable.Write(s.at(ownProfile), []byte(profile), 0o644); err != nil {
			return err
		}
	} else if db != ownDatabase { // somebody's has come since
		if err := s.dropProfile(); err != nil {
			return err
		}
	}
	if ok, err := s.inForce(ctx); err != nil || !ok {
		return errors.Join(err, errors.New("dconf reads other values of the keys for screenshots: another file or database sets or locks them, too"))
	}
	return nil
}

func (s *Settings) removeKeys(ctx context.Context) error {
	var errs []error
	for _, db := range s.everywhere() { // first, so that programs that run with them hear that they are free
		errs = append(errs, s.withdraw(ctx, db))
	}
	return errors.Join(append(errs, s.dropProfile())...)
}

// dropProfile removes our profile. What somebody else has added to it stays.
func (s *Settings) dropProfile() error {
	text, absent, err := owned.Read(s.at(ownProfile))
	if !absent && err == nil && strings.HasPrefix(string(text), note) {
		if string(text) == profile {
			err = durable.Remove(s.at(ownProfile))
		} else {
			err = durable.Write(s.at(ownProfile), []byte(strings.Replace(strings.TrimPrefix(string(text), note), ownLine+"\n", "", 1)), 0o644)
		}
	}
	if errors.Is(err, owned.ErrForeign) {
		err = nil
	}
	owned.RemoveDir(s.root, filepath.Dir(s.at(ownProfile)))
	return err
}

// withdraw takes our keys out of a database. One that was made for them goes.
func (s *Settings) withdraw(ctx context.Context, db string) error {
	dir := s.sources(db)
	alone := (db == ownDatabase || owned.Made(dir)) && !s.anyone(db) // what was compiled is ours, too
	if !alone && s.locked(db) {
		// It is compiled without our keys before our files go: until then it is seen that they are in it.
		if !s.isThere(dconfProgram) {
			return fmt.Errorf("the keys cannot be taken out of %s/%s: dconf is not installed (package dconf-cli)", databases, db)
		}
		if !s.isThere(databases + "/" + db + ".d") {
			return fmt.Errorf("the keys cannot be taken out of %s/%s: %s.d, of which it was made, is not there any more; restore it, or remove the database", databases, db, db)
		}
		for path := range s.keyFiles(db) {
			if _, err := os.Stat(filepath.Dir(path)); err == nil {
				if err := durable.Write(path, []byte(note), 0o644); err != nil {
					return err
				}
			}
		}
		if err := s.compile(ctx, db); err != nil {
			return err
		}
	}
	if alone { // first, for the same reason
		s.outdate(db)
		if err := gone(durable.Remove(s.compiledAt(db))); err != nil {
			return err
		}
		s.tell(db)
	}
	for path := range s.keyFiles(db) {
		if err := gone(durable.Remove(path)); err != nil {
			return err
		}
	}
	if db == ownDatabase { // ours by their names, whatever marks have been lost
		_ = os.Remove(filepath.Join(dir, "locks"))
		_ = os.Remove(dir)
	}
	owned.RemoveDir(s.root, filepath.Join(dir, "locks")) // and those above it
	owned.RemoveDir(s.root, s.at(databases))
	return nil
}
