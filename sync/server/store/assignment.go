package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
)

// AddAssignment gives a policy to a group.
func (s *Store) AddAssignment(ctx context.Context, a fleet.Assignment) error {
	detail := []string{fmt.Sprintf("%s to %s, priority %d", a.Policy, a.Target, a.Priority)}
	if a.Compliance != "" {
		detail = append(detail, "mode "+a.Compliance)
	}
	return s.change(ctx, a.CreatedAt, "assignment.created", a.ID, detail, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM policies WHERE id = $1`, a.Policy).Scan(&n); err != nil || n == 0 {
			return errors.Join(err, ErrNotFound)
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO assignments (id, policy, platform, ownership, username, tag, priority, compliance, created_at, created_by) VALUES `+s.values(1, 10), a.ID, a.Policy, a.Target.Platform, a.Target.Ownership, a.Target.User,
			a.Target.Tag, a.Priority, a.Compliance, ms(a.CreatedAt), a.CreatedBy)
		return err
	})
}

// EditAssignment replaces one. Its age stays, which orders equal priorities.
func (s *Store) EditAssignment(ctx context.Context, a fleet.Assignment, now time.Time) error {
	detail := []string{fmt.Sprintf("%s to %s, priority %d", a.Policy, a.Target, a.Priority)}
	if a.Compliance != "" {
		detail = append(detail, "mode "+a.Compliance)
	}
	return s.change(ctx, now, "assignment.edited", a.ID, detail, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM policies WHERE id = $1`, a.Policy).Scan(&n); err != nil || n == 0 {
			return errors.Join(err, ErrNotFound)
		}
		return one(tx.ExecContext(ctx,
			`UPDATE assignments SET policy = $1, platform = $2, ownership = $3, username = $4, tag = $5, priority = $6, compliance = $7 `+
				`WHERE id = $8`,
			a.Policy, a.Target.Platform, a.Target.Ownership, a.Target.User, a.Target.Tag, a.Priority, a.Compliance, a.ID))
	})
}

// maxFollowed bounds the policies that are read one by one.
const maxFollowed = 500

// RemoveAssignment removes it.
func (s *Store) RemoveAssignment(ctx context.Context, id string, now time.Time) error {
	return s.change(ctx, now, "assignment.deleted", id, nil, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `DELETE FROM assignments WHERE id = $1`, id))
	})
}

// one is ErrNotFound unless a row was changed.
func one(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, _ := r.RowsAffected(); n == 0 {
		return ErrNotFound
	}
	return nil
}

// State reads everything that decides who gets what, at one moment. It only reads the policies that have changed since
// an earlier state; all of them if there is none, or if more than policies may have changed.
func (s *Store) State(ctx context.Context, before *fleet.State) (*fleet.State, error) {
	st := &fleet.State{Policies: map[string]*fleet.Policy{}, Old: map[fleet.Variant]*fleet.Policy{}}
	err := s.snapshotOf(ctx, s.device, func(tx *sql.Tx) error {
		var seq string
		err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'sequence'`).Scan(&seq)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, _ = fmt.Sscan(seq, &st.Sequence)
		var changed []string
		if before != nil {
			// At the same moment as what is read below.
			whole := false
			if err := rows(ctx, tx, func(r scanner) error {
				var action, subject string
				err := r.Scan(&action, &subject)
				if strings.HasPrefix(action, "rollout.") {
					whole = true
				} else {
					changed = append(changed, subject)
				}
				return err
			}, `SELECT action, subject FROM changes WHERE seq > $1 AND (action LIKE 'policy.%' OR action LIKE 'rollout.%') LIMIT $2`,
				before.Sequence, maxFollowed); err != nil {
				return err
			}
			if whole || len(changed) == maxFollowed {
				before = nil
			} else {
				seq := st.Sequence
				st = before.Next(changed)
				st.Sequence = seq
			}
		}
		if st.Default, err = defaultID(ctx, tx, ""); err != nil {
			return err
		}
		where, args := "", []any(nil)
		if before != nil {
			for _, id := range changed {
				args = append(args, id)
			}
			where = ` WHERE id IN ` + s.values(1, len(args))
		}
		if before == nil || len(changed) > 0 {
			if err := rows(ctx, tx, func(r scanner) error {
				p, err := scanPolicy(r)
				if err == nil {
					st.Policies[p.ID] = p
				}
				return err
			}, `SELECT `+policyColumns+` FROM policies`+where, args...); err != nil {
				return err
			}
		}
		if err := rows(ctx, tx, func(r scanner) error {
			var a fleet.Assignment
			var created int64
			err := r.Scan(&a.ID, &a.Policy, &a.Target.Platform, &a.Target.Ownership, &a.Target.User, &a.Target.Tag, &a.Priority,
				&a.Compliance, &created, &a.CreatedBy)
			a.CreatedAt = at(created)
			st.Assignments = append(st.Assignments, a)
			return err
		},
			`SELECT id, policy, platform, ownership, username, tag, priority, compliance, created_at, created_by FROM assignments`); err != nil {
			return err
		}
		fleet.Order(st.Assignments)
		if err := rows(ctx, tx, func(r scanner) error {
			o, err := scanRollout(r)
			st.Rollouts = append(st.Rollouts, o)
			return err
		}, `SELECT `+rolloutColumns+` FROM rollouts WHERE state IN ('running','paused')`); err != nil {
			return err
		}
		for _, o := range st.Rollouts {
			var doc string
			var when int64
			if err := tx.QueryRowContext(ctx, `SELECT document, changed_at FROM versions WHERE policy = $1 AND version = $2`, o.Policy,
				o.From).Scan(&doc, &when); err != nil {
				return err
			}
			p, err := fleet.FromDocument(json.RawMessage(doc))
			if err != nil {
				return err
			}
			p.UpdatedAt = at(when)
			st.Old[fleet.Variant{Policy: o.Policy, Version: o.From}] = p
		}
		return nil
	})
	return st, err
}
