package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/server/store"
)

// keyFiles are the keys by which a fleet trusts a server. recovery.key belongs offline and is not among them.
var keyFiles = []string{"policy.key", "policy.past", "admin.key", "codes.key", "recovery.pub", "ca.pem"}

// manifest is the first member of a backup.
type manifest struct {
	Format int       `json:"format"`
	At     time.Time `json:"at"`
	From   string    `json:"from"`
}

// Backup writes keys and database, as of one moment, into a file of mode 0600, while servers run.
func Backup(ctx context.Context, data, database, to string, now time.Time) error {
	if _, err := os.Stat(filepath.Join(data, "policy.key")); err != nil {
		return fmt.Errorf("no server has run with this data directory: %w", err)
	}
	s, err := OpenStore(ctx, data, database, now)
	if err != nil {
		return err
	}
	defer s.Close()
	// The dump goes into a separate file first: a member of a tar states its size before its content.
	dump, err := os.CreateTemp(filepath.Dir(to), ".backup-*")
	if err != nil {
		return err
	}
	defer os.Remove(dump.Name())
	defer dump.Close()
	if err := s.Dump(ctx, dump); err != nil {
		return fmt.Errorf("cannot read the database: %w", err)
	}
	return durable.Create(to, 0o600, func(out io.Writer) error {
		return archive(out, data, dump, manifest{1, now.UTC(), s.Name()})
	})
}

// archive writes the members of a backup.
func archive(out io.Writer, data string, dump *os.File, m manifest) error {
	z := gzip.NewWriter(out)
	t := tar.NewWriter(z)
	sums := map[string]string{}
	add := func(name string, size int64, r io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: m.At, Format: tar.FormatPAX}); err != nil {
			return err
		}
		h := sha256.New()
		_, err := io.Copy(io.MultiWriter(t, h), r)
		sums[name] = hex.EncodeToString(h.Sum(nil))
		return err
	}
	head, _ := json.Marshal(m)
	if err := add("manifest.json", int64(len(head)), strings.NewReader(string(head))); err != nil {
		return err
	}
	for _, name := range keyFiles {
		b, err := os.ReadFile(filepath.Join(data, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := add("keys/"+name, int64(len(b)), strings.NewReader(string(b))); err != nil {
			return err
		}
	}
	size, err := dump.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = dump.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	if err := add("database.jsonl", size, dump); err != nil {
		return err
	}
	list, _ := json.Marshal(sums)
	if err := add(sumsName, int64(len(list)), bytes.NewReader(list)); err != nil {
		return err
	}
	return errors.Join(t.Close(), z.Close())
}

// Restore makes a data directory and a database from a backup. Neither may exist before; after a failure nothing is
// left that a server would use.
func Restore(ctx context.Context, data, database, from string) error {
	if list, err := os.ReadDir(data); err == nil && len(list) > 0 {
		return fmt.Errorf("%s is not empty: a backup is restored into a new directory", data)
	}
	// Read to the end once before anything is written: a damaged backup restores nothing.
	if err := whole(from); err != nil {
		return fmt.Errorf("%s cannot be restored: %w", from, err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if database == "" {
		database = filepath.Join(data, "server.db")
	}
	done := false
	defer func() {
		if !done {
			for _, name := range append([]string{"server.db", "server.db-wal", "server.db-shm", "server.db.migrating"}, keyFiles...) {
				_ = os.Remove(filepath.Join(data, name))
			}
		}
	}()
	if err := members(from, func(name string, r io.Reader) error {
		if name == "database.jsonl" { // after the keys: a database is useless without its keys
			if _, err := LoadKeys(data); err != nil {
				return err
			}
		}
		return restoreMember(ctx, data, database, name, r)
	}); err != nil {
		return err
	}
	done = true
	return nil
}

// sumsName is the last member: the SHA-256 of each one before it.
const sumsName = "sha256.json"

// members returns each member of a backup in turn, and reads to the end of the compressed stream, where its checksum
// is.
func members(from string, use func(name string, r io.Reader) error) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("it is not a backup: %w", err)
	}
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("it is damaged: %w", err)
		}
		if err := use(h.Name, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, z); err != nil { //nolint:gosec // nothing is kept of it
		return fmt.Errorf("it is damaged: %w", err)
	}
	return nil
}

// whole checks that a backup has what it must have, and every byte of it.
func whole(from string) error {
	have, said := map[string]string{}, map[string]string{}
	if err := members(from, func(name string, r io.Reader) error {
		if name == sumsName {
			return json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&said)
		}
		if have[name] != "" || said[name] != "" {
			return errors.New("is there twice, or after the checksums")
		}
		h := sha256.New()
		_, err := io.Copy(h, r)
		have[name] = hex.EncodeToString(h.Sum(nil))
		return err
	}); err != nil {
		return err
	}
	for _, name := range []string{"manifest.json", "keys/policy.key", "keys/admin.key", "keys/codes.key", "keys/recovery.pub",
		"database.jsonl"} {
		if have[name] == "" {
			return fmt.Errorf("it is not whole: it has no %s", name)
		}
	}
	if len(have) != len(said) {
		return errors.New("it is not whole: its members are not those of its checksums")
	}
	for name, sum := range have {
		if said[name] != sum {
			return fmt.Errorf("%s is damaged: its checksum does not match", name)
		}
	}
	return nil
}

// restoreMember writes one member: a key file, or the database.
func restoreMember(ctx context.Context, data, database, name string, r io.Reader) error {
	if name == sumsName {
		return nil
	}
	if name == "manifest.json" {
		var m manifest
		if err := json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&m); err != nil {
			return err
		}
		if m.Format != 1 {
			return fmt.Errorf("the backup has format %d; this version reads 1", m.Format)
		}
		return nil
	}
	if key, ok := strings.CutPrefix(name, "keys/"); ok {
		for _, k := range keyFiles {
			if k == key {
				b, err := io.ReadAll(io.LimitReader(r, 1<<20))
				if err != nil {
					return err
				}
				return replaceFile(filepath.Join(data, key), b)
			}
		}
	}
	if name != "database.jsonl" {
		return errors.New("is not part of a backup")
	}
	s, err := store.Open(ctx, database)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Load(ctx, r)
}
