package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// List is a list of names that policies may refer to.
type List struct {
	ID, Name             string
	Version              int // the newest
	CreatedAt, UpdatedAt time.Time
}

// ListVersion is one version of a list. Its text does not change.
type ListVersion struct {
	List         string
	Version      int
	SHA256       string // of the text
	Names        int
	Bytes        int64  // of the text
	Packed       int64  // bytes, compressed
	PackedDigest string // SHA-256 of that
	By           string
	At           time.Time
}

// ListPart is how many bytes of a packed text are in one row, except the last.
const ListPart = 256 << 10

// keepVersions is how many versions of a list are kept beside those that a policy names.
const keepVersions = 5

// PutList writes a list's next version, with its packed text. expect is the version that it follows, 0 for a new list. Versions
// that are old, and that no policy names any more, are removed.
func (s *Store) PutList(ctx context.Context, l List, v ListVersion, expect int, packed []byte) error {
	action := "list.updated"
	if expect == 0 {
		action = "list.created"
	}
	detail := []string{fmt.Sprintf("version %d: %d names, sha256 %s", v.Version, v.Names, v.SHA256)}
	return s.change(ctx, v.At, action, l.ID, detail, func(tx *sql.Tx) error {
		if err := s.lockLists(ctx, tx); err != nil { // before any row, as everywhere
			return err
		}
		var have int
		err := tx.QueryRowContext(ctx, `SELECT version FROM lists WHERE id = $1`+s.forUpdate(), l.ID).Scan(&have)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if have != expect {
			return ErrStale
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO lists (id, name, version, created_at, updated_at) VALUES `+s.values(1, 5)+
			` ON CONFLICT (id) DO UPDATE SET name=excluded.name, version=excluded.version, updated_at=excluded.updated_at`,
			l.ID, l.Name, v.Version, ms(v.At), ms(v.At)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO list_versions (list, version, digest, names, bytes, packed, packed_digest, changed_by, `+
			`changed_at) VALUES `+s.values(1, 9), l.ID, v.Version, v.SHA256, v.Names, v.Bytes, v.Packed, v.PackedDigest, actorOf(ctx).By,
			ms(v.At)); err != nil {
			return err
		}
		// The same text may be there already, packed by another version of this program: it is replaced, and so is what
		// describes it.
		if _, err := tx.ExecContext(ctx, `UPDATE list_versions SET packed = $1, packed_digest = $2 WHERE digest = $3`, v.Packed,
			v.PackedDigest, v.SHA256); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM list_parts WHERE digest = $1`, v.SHA256); err != nil {
			return err
		}
		for part := 0; part*ListPart < len(packed); part++ {
			if _, err := tx.ExecContext(ctx, `INSERT INTO list_parts (digest, part, body) VALUES ($1,$2,$3)`, v.SHA256, part,
				packed[part*ListPart:min((part+1)*ListPart, len(packed))]); err != nil {
				return err
			}
		}
		return s.dropVersions(ctx, tx, l.ID, v.Version-keepVersions)
	})
}

// RenameList gives a list another name.
func (s *Store) RenameList(ctx context.Context, l List, now time.Time) error {
	return s.change(ctx, now, "list.updated", l.ID, []string{"name: " + l.Name}, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE lists SET name = $1 WHERE id = $2`, l.Name, l.ID))
	})
}

// lockLists lets no other transaction add or remove what policies name of lists until this one has ended. SQLite has one writer at
// a time anyway.
func (s *Store) lockLists(ctx context.Context, tx *sql.Tx) error {
	if !s.pg {
		return nil
	}
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(7166271)`)
	return err
}

// hasLists is ErrStale if a policy names a version of a list that was removed meanwhile.
func (s *Store) hasLists(ctx context.Context, tx *sql.Tx, data []byte) error {
	var in struct {
		Network struct {
			Allowed []listKey `json:"allowed_lists"`
			Blocked []listKey `json:"blocked_lists"`
		} `json:"network"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("the policy cannot be read: %w", err)
	}
	if len(in.Network.Allowed)+len(in.Network.Blocked) == 0 {
		return nil
	}
	if err := s.lockLists(ctx, tx); err != nil {
		return err
	}
	for _, k := range append(in.Network.Allowed, in.Network.Blocked...) {
		var n int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM list_versions WHERE list = $1 AND digest = $2`, k.ID, k.SHA256).Scan(&n)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrStale
		}
	}
	return nil
}

// listKey is how a policy names a version of a list.
type listKey struct {
	ID     string `json:"id"`
	SHA256 string `json:"sha256"`
}

// dropVersions, under lockLists, removes a list's versions up to a number, except those that a policy names, and texts that nothing needs.
func (s *Store) dropVersions(ctx context.Context, tx *sql.Tx, list string, upTo int) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM list_versions WHERE list = $1 AND version <= $2 AND `+notNamed, list, upTo)
	if err == nil {
		_, err = tx.ExecContext(ctx, `DELETE FROM list_parts WHERE digest NOT IN (SELECT digest FROM list_versions)`)
	}
	return err
}

// notNamed holds for versions whose digest is in no policy, and in no version that a rollout can go back to.
const notNamed = `NOT EXISTS (SELECT 1 FROM policies p WHERE p.data LIKE '%' || list_versions.digest || '%') AND NOT EXISTS (SELECT 1 ` +
	`FROM versions v JOIN rollouts r ON r.policy = v.policy AND r.from_version = v.version WHERE r.state IN ('running','paused') AND ` +
	`v.document LIKE '%' || list_versions.digest || '%')`

// DeleteList removes a list. It returns ErrInUse while a policy names a version of it.
func (s *Store) DeleteList(ctx context.Context, id string, now time.Time) error {
	return s.change(ctx, now, "list.deleted", id, nil, func(tx *sql.Tx) error {
		if err := s.lockLists(ctx, tx); err != nil {
			return err
		}
		if err := one(tx.ExecContext(ctx, `DELETE FROM lists WHERE id = $1`, id)); err != nil {
			return err
		}
		var left int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM list_versions WHERE list = $1 AND NOT (`+notNamed+`)`, id).Scan(&left)
		if err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("%w: a policy names %d of its versions", ErrInUse, left)
		}
		return s.dropVersions(ctx, tx, id, 1<<31)
	})
}

// Lists returns all lists, and the versions of each.
func (s *Store) Lists(ctx context.Context) (out []List, versions map[string][]ListVersion, err error) {
	versions = map[string][]ListVersion{}
	err = s.snapshot(ctx, func(tx *sql.Tx) error {
		err := rows(ctx, tx, func(r scanner) error {
			l, err := scanList(r)
			out = append(out, l)
			return err
		}, `SELECT id, name, version, created_at, updated_at FROM lists ORDER BY id`)
		if err != nil {
			return err
		}
		return rows(ctx, tx, func(r scanner) error {
			v, err := scanListVersion(r)
			versions[v.List] = append(versions[v.List], v)
			return err
		}, `SELECT `+listColumns+` FROM list_versions ORDER BY version DESC`)
	})
	return out, versions, err
}

func scanList(r scanner) (l List, err error) {
	var created, updated int64
	err = r.Scan(&l.ID, &l.Name, &l.Version, &created, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	l.CreatedAt, l.UpdatedAt = at(created), at(updated)
	return l, err
}

// List returns one with its versions, newest first.
func (s *Store) List(ctx context.Context, id string) (l List, versions []ListVersion, err error) {
	l, err = scanList(s.read.QueryRowContext(ctx, `SELECT id, name, version, created_at, updated_at FROM lists WHERE id = $1`, id))
	if err != nil {
		return l, nil, err
	}
	err = rows(ctx, s.read, func(r scanner) error {
		v, err := scanListVersion(r)
		versions = append(versions, v)
		return err
	}, `SELECT `+listColumns+` FROM list_versions WHERE list = $1 ORDER BY version DESC`, id)
	return l, versions, err
}

const listColumns = `list, version, digest, names, bytes, packed, packed_digest, changed_by, changed_at`

func scanListVersion(r scanner) (v ListVersion, err error) {
	var when int64
	err = r.Scan(&v.List, &v.Version, &v.SHA256, &v.Names, &v.Bytes, &v.Packed, &v.PackedDigest, &v.By, &when)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	v.At = at(when)
	return v, err
}

// ListText is a version, of any list, whose text has a digest.
func (s *Store) ListText(ctx context.Context, sha256 string) (ListVersion, error) {
	return scanListVersion(s.device.QueryRowContext(ctx, `SELECT `+listColumns+
		` FROM list_versions WHERE digest = $1 ORDER BY list, version LIMIT 1`, sha256))
}

// ListHas is the version of a list whose text has a digest.
func (s *Store) ListHas(ctx context.Context, list, sha256 string) (ListVersion, error) {
	return scanListVersion(s.device.QueryRowContext(ctx, `SELECT `+listColumns+
		` FROM list_versions WHERE list = $1 AND digest = $2 ORDER BY version LIMIT 1`, list, sha256))
}

// Packed reads the packed text of a version, in parts.
func (s *Store) Packed(ctx context.Context, v ListVersion) io.ReadSeeker {
	return &packed{s: s, ctx: ctx, sha256: v.SHA256, size: v.Packed, part: -1}
}

// packed is a packed text; it has one part at a time in memory.
type packed struct {
	s      *Store
	ctx    context.Context
	sha256 string
	size   int64
	at     int64
	part   int64
	body   []byte
}

// Read reads on.
func (p *packed) Read(b []byte) (int, error) {
	if p.at >= p.size {
		return 0, io.EOF
	}
	if part := p.at / ListPart; part != p.part {
		err := p.s.device.QueryRowContext(p.ctx, `SELECT body FROM list_parts WHERE digest = $1 AND part = $2`, p.sha256, part).Scan(&p.body)
		if errors.Is(err, sql.ErrNoRows) {
			err = ErrNotFound
		}
		if err != nil {
			return 0, err
		}
		p.part = part
	}
	from := p.at - p.part*ListPart
	if from >= int64(len(p.body)) {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(b, p.body[from:])
	p.at += int64(n)
	return n, nil
}

// Seek sets where Read goes on.
func (p *packed) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += p.at
	case io.SeekEnd:
		offset += p.size
	}
	if offset < 0 {
		return 0, errors.New("before the beginning")
	}
	p.at = offset
	return offset, nil
}
