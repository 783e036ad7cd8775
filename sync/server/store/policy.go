package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
)

const policyColumns = `id, name, description, organization, active, version, compliance, sections, data, digest, created_at, updated_at, source`

// scanPolicy reads one row of policies.
func scanPolicy(r scanner) (*fleet.Policy, error) {
	var p fleet.Policy
	var data string
	var created, updated int64
	err := r.Scan(&p.ID, &p.Name, &p.Description, &p.Organization, &p.Active, &p.Version, &p.Compliance, &p.Sections, &data, &p.Digest,
		&created, &updated, &p.Source)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	p.Data, p.CreatedAt, p.UpdatedAt = json.RawMessage(data), at(created), at(updated)
	return &p, err
}

// Policy returns one policy.
func (s *Store) Policy(ctx context.Context, id string) (*fleet.Policy, error) {
	return scanPolicy(s.read.QueryRowContext(ctx, `SELECT `+policyColumns+` FROM policies WHERE id = $1`, id))
}

// Policies returns a page of all policies, oldest first, and how many there are.
func (s *Store) Policies(ctx context.Context, page, size int) (out []*fleet.Policy, total int, err error) {
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM policies`).Scan(&total); err != nil {
		return nil, 0, err
	}
	err = rows(ctx, s.read, func(r scanner) error {
		p, err := scanPolicy(r)
		out = append(out, p)
		return err
	}, `SELECT `+policyColumns+` FROM policies ORDER BY created_at, id LIMIT $1 OFFSET $2`, size, (page-1)*size)
	return out, total, err
}

// PutPolicy writes a new version. expect is the version it was made from; 0 for a new policy. It returns ErrInUse while
// a rollout of the policy is under way.
func (s *Store) PutPolicy(ctx context.Context, p *fleet.Policy, expect int, changes []string) error {
	action := "policy.updated"
	if expect == 0 {
		action = "policy.created"
	}
	return s.change(ctx, p.UpdatedAt, action, p.ID, changes, func(tx *sql.Tx) error {
		if err := s.noRollout(ctx, tx, p.ID); err != nil {
			return err
		}
		return s.putPolicy(ctx, tx, p, expect, changes)
	})
}

// noRollout is ErrInUse while a rollout of the policy is under way.
func (s *Store) noRollout(ctx context.Context, tx *sql.Tx, policy string) error {
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM rollouts WHERE policy = $1 AND state IN ('running','paused')`, policy).Scan(&n)
	if err == nil && n > 0 {
		err = fmt.Errorf("%w: a rollout of this policy is under way", ErrInUse)
	}
	return err
}

// forUpdate locks the rows that a decision is based on; SQLite has one writer at a time anyway.
func (s *Store) forUpdate() string {
	if s.pg {
		return " FOR UPDATE"
	}
	return ""
}

// putPolicy writes a version within a transaction.
func (s *Store) putPolicy(ctx context.Context, tx *sql.Tx, p *fleet.Policy, expect int, changes []string) error {
	if err := s.hasLists(ctx, tx, p.Data); err != nil {
		return err
	}
	var have int
	err := tx.QueryRowContext(ctx, `SELECT version FROM policies WHERE id = $1`+s.forUpdate(), p.ID).Scan(&have)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if have != expect {
		return ErrStale
	}
	if !p.Active {
		def, err := defaultID(ctx, tx, s.forUpdate())
		if err == nil && def == p.ID {
			err = fmt.Errorf("%w: it is the default policy, which cannot be inactive", ErrInUse)
		}
		if err != nil {
			return err
		}
	}
	if _, err = tx.ExecContext(ctx, `INSERT INTO policies (`+policyColumns+`) VALUES `+s.values(1, 13)+` ON CONFLICT (id) DO UPDATE SET
		name=excluded.name, description=excluded.description, organization=excluded.organization, active=excluded.active,
		version=excluded.version, compliance=excluded.compliance, sections=excluded.sections, data=excluded.data,
		digest=excluded.digest, updated_at=excluded.updated_at`, // the source stays: nobody writes another one
		p.ID, p.Name, p.Description, p.Organization, bit(p.Active), p.Version, p.Compliance, p.Sections, string(p.Data), p.Digest,
		ms(p.CreatedAt), ms(p.UpdatedAt), p.Source); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO versions (policy, version, changed_by, changed_at, changes, document) VALUES ($1,$2,$3,$4,$5,$6)`, p.ID, p.Version,
		actorOf(ctx).By, ms(p.UpdatedAt), encode(changes), string(p.Document()))
	return err
}

// DeletePolicy removes a policy; its history stays. It returns ErrInUse for the default. Devices that have it get
// another one without being written to.
func (s *Store) DeletePolicy(ctx context.Context, id string, expect int, now time.Time) error {
	var detail []string
	if p, err := s.Policy(ctx, id); err == nil && p.Source != "" {
		detail = []string{"deleted with it: " + p.Source}
	}
	s.vendors.Lock()
	defer s.vendors.Unlock()
	return s.change(ctx, now, "policy.deleted", id, detail, func(tx *sql.Tx) error {
		if err := s.lockVendors(ctx, tx); err != nil {
			return err
		}
		if err := s.lockPolicies(ctx, tx, []VendorPolicy{{Policy: &fleet.Policy{ID: id}}}); err != nil {
			return err
		}
		def, err := defaultID(ctx, tx, s.forUpdate())
		if err != nil {
			return err
		}
		if def == id {
			return fmt.Errorf("%w: it is the default policy", ErrInUse)
		}
		if err := s.noRollout(ctx, tx, id); err != nil {
			return err
		}
		r, err := tx.ExecContext(ctx, `DELETE FROM policies WHERE id = $1 AND ($2 = 0 OR version = $2)`, id, expect)
		if err != nil {
			return err
		}
		if n, _ := r.RowsAffected(); n == 0 {
			if expect > 0 {
				return ErrStale
			}
			return ErrNotFound
		}
		if _, err = tx.ExecContext(ctx, `DELETE FROM assignments WHERE policy = $1`, id); err != nil {
			return err
		}
		// What it was made of is gone, too: it would make the policy again.
		_, err = tx.ExecContext(ctx, `UPDATE vendor_documents SET document = '', policy = '', state = '{}', report = '{}', updated_at = $1 WHERE policy = $2`, ms(now), id)
		return err
	})
}

// Version is one line of a policy's history.
type Version struct {
	Version  int
	By       string
	At       time.Time
	Changes  []string
	Document json.RawMessage
}

// History returns a part of a policy's versions, newest first: those before one, 0 for all.
func (s *Store) History(ctx context.Context, id string, before, skip, size int) (out []Version, total int, err error) {
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM versions WHERE policy = $1`, id).Scan(&total); err != nil {
		return nil, 0, err
	}
	err = rows(ctx, s.read, func(r scanner) error {
		v, err := scanVersion(r)
		out = append(out, v)
		return err
	},
		`SELECT version, changed_by, changed_at, changes, document FROM versions WHERE policy = $1 AND ($2 = 0 OR version < $2) ORDER `+
			`BY version DESC LIMIT $3 OFFSET $4`, id, before, size, skip)
	return out, total, err
}

// scanVersion reads one row of versions.
func scanVersion(r scanner) (v Version, err error) {
	var when int64
	var changes, document string
	if err = r.Scan(&v.Version, &v.By, &when, &changes, &document); err != nil {
		return v, err
	}
	v.At, v.Document = at(when), json.RawMessage(document)
	return v, json.Unmarshal([]byte(changes), &v.Changes)
}

// PolicyVersion returns one version of a policy, also of a deleted one.
func (s *Store) PolicyVersion(ctx context.Context, id string, version int) (Version, error) {
	v, err := scanVersion(s.device.QueryRowContext(ctx,
		`SELECT version, changed_by, changed_at, changes, document FROM versions WHERE policy = $1 AND version = $2`, id, version))
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return v, err
}

// defaultID reads which policy is the default.
func defaultID(ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, lock string) (id string, err error) {
	err = q.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'default'`+lock).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, err
}

// Default is the policy of devices that have none assigned.
func (s *Store) Default(ctx context.Context) (*fleet.Policy, error) {
	id, err := defaultID(ctx, s.read, "")
	if err != nil {
		return nil, err
	}
	return s.Policy(ctx, id)
}

// SetDefault makes an active policy the default: one row, however many devices follow it.
func (s *Store) SetDefault(ctx context.Context, id string, now time.Time) error {
	return s.change(ctx, now, "policy.default", id, nil, func(tx *sql.Tx) error { return s.setDefault(ctx, tx, id) })
}

// setDefault is SetDefault within a transaction.
func (s *Store) setDefault(ctx context.Context, tx *sql.Tx, id string) error {
	var active bool
	err := tx.QueryRowContext(ctx, `SELECT active FROM policies WHERE id = $1`+s.forUpdate(), id).Scan(&active)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case err != nil:
		return err
	case !active:
		return fmt.Errorf("%w: an inactive policy cannot be the default", ErrInUse)
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO meta (name, value) VALUES ('default', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, id)
	return err
}

// Meta reads a fact about the database itself; "" if it is not there.
func (s *Store) Meta(ctx context.Context, name string) (v string, err error) {
	err = s.device.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = $1`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return v, err
}

// SetMeta writes one.
func (s *Store) SetMeta(ctx context.Context, name, v string) error {
	_, err := s.write.ExecContext(ctx,
		`INSERT INTO meta (name, value) VALUES ($1,$2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, v)
	return err
}

// Deleted returns which of some ids belong to policies that once existed.
func (s *Store) Deleted(ctx context.Context, ids []string) (map[string]bool, error) {
	out := map[string]bool{}
	if len(ids) == 0 {
		return out, nil
	}
	args := make([]any, 0, len(ids))
	for _, id := range ids {
		args = append(args, id)
	}
	return out, rows(ctx, s.read, func(r scanner) error {
		var id string
		err := r.Scan(&id)
		out[id] = true
		return err
	}, `SELECT DISTINCT policy FROM versions WHERE policy IN `+s.values(1, len(ids)), args...)
}
