// Package config reads the agent's configuration file and the dropped enrollment file. Both are TOML, both are optional,
// and both are read strictly. The package owns their shape and watches them; the agent decides what a change means.
package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/fsnotify/fsnotify"

	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/platform/durable"
)

// Config is warder.toml. A missing file is an empty one.
type Config struct {
	Server   string     `toml:"server"`    // replaces the server of the enrollment, for example after it moved
	Proxy    secret.URL `toml:"proxy"`     // empty: from the environment
	LogLevel string     `toml:"log_level"` // debug, info, warn, error
	State    string     `toml:"state"`     // directory; read at start only
}

// Enrollment is enroll.toml, dropped by mass deployment and removed once used.
type Enrollment struct {
	Server string      `toml:"server"`
	Token  secret.Text `toml:"token"`
	CAPin  string      `toml:"ca_pin"`
}

// maxFile bounds either file.
const maxFile = 64 << 10

// Load reads the configuration.
func Load(path string) (Config, error) {
	var c Config
	if err := read(path, &c); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, err
	}
	if _, err := c.Level(); err != nil {
		return Config{}, fmt.Errorf("%s: log_level: %w", path, err)
	}
	return c, nil
}

// LoadKept is Load, except that a file with a mistake is replaced by the copy that Keep saved: a mistake must not lose
// the good settings, not even over a restart. The error says what is wrong with the file.
func LoadKept(path, kept string) (Config, error) {
	c, err := Load(path)
	if err == nil {
		return c, nil
	}
	if k, kerr := Load(kept); kerr == nil {
		return k, err
	}
	return Config{}, err
}

// Keep saves a copy of a good file. It may contain a proxy's password, so only its owner may read it.
func Keep(path, kept string) error {
	b, err := regular(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Remove(kept); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	if old, err := regular(kept); err == nil && string(old) == string(b) {
		return nil
	}
	return durable.Write(kept, b, 0o600)
}

// Level is the log level; info if none is set.
func (c Config) Level() (slog.Level, error) {
	if c.LogLevel == "" {
		return slog.LevelInfo, nil
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(c.LogLevel))); err != nil {
		return slog.LevelInfo, fmt.Errorf("must be debug, info, warn or error (received %q)", c.LogLevel)
	}
	return l, nil
}

// LoadEnrollment reads a dropped enrollment.
func LoadEnrollment(path string) (Enrollment, error) {
	var e Enrollment
	if err := read(path, &e); err != nil {
		return Enrollment{}, err
	}
	if e.Server == "" || e.Token == "" {
		return Enrollment{}, fmt.Errorf("%s: server and token must both be given", path)
	}
	return e, nil
}

// read decodes a TOML file strictly: an unknown setting is an error that names it.
func read(path string, v any) error {
	b, err := regular(path)
	if err != nil {
		return err
	}
	md, err := toml.Decode(string(b), v)
	if err != nil {
		// The library's long form repeats the line, which may contain a password.
		return fmt.Errorf("%s: %s", path, secret.Scrub(err.Error()))
	}
	if un := md.Undecoded(); len(un) > 0 {
		return fmt.Errorf("%s: unknown setting %q", path, secret.Scrub(un[0].String()))
	}
	return nil
}

// regular reads a regular file of bounded size. Reading a pipe or a device of that name would never end.
func regular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: must be a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return b, err
}

// settle is how long to wait for the end of a burst of file events, because editors write in several steps.
const settle = 200 * time.Millisecond

// Watch calls f after the named files of a directory have changed, until ctx ends. It watches the directory and not the
// files, because editors replace them.
func Watch(ctx context.Context, dir string, names []string, f func(name string)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	pending := map[string]bool{}
	timer := time.NewTimer(settle)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return nil
			}
			for _, n := range names {
				if filepath.Base(e.Name) == n && e.Op != fsnotify.Chmod {
					pending[n] = true
					timer.Reset(settle)
				}
			}
		case <-timer.C:
			for n := range pending {
				delete(pending, n)
				f(n)
			}
		case _, ok := <-w.Errors:
			if !ok {
				return nil
			}
			// The queue overflowed: treat every file as changed.
			for _, n := range names {
				f(n)
			}
		}
	}
}
