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
		_, err := tx.ExecContext(ctx, `INSERT INTO assignments (id, policy, platform, ownership, username, tag, priority, compliance, created_at, created_by) VALUES `+s.values(1, 10), a.ID, a.Policy, a.Target.Platform, a.Target.Ownership, a.Target.User,
			a.Target.Tag, a.Priority, a.Compliance, ms(a.CreatedAt), a.CreatedBy)
		return err
	})
}

// RemoveAssignment takes it back.
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

// State reads all that decides who gets what, of one moment.
func (s *Store) State(ctx context.Context) (*fleet.State, error) {
	st := &fleet.State{Policies: map[string]*fleet.Policy{}, Old: map[fleet.Variant]*fleet.Policy{}}
	err := s.snapshot(ctx, func(tx *sql.Tx) error {
		var seq string
		err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'sequence'`).Scan(&seq)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, _ = fmt.Sscan(seq, &st.Sequence)
		if st.Default, err = defaultID(ctx, tx, ""); err != nil {
			return err
		}
		if err := rows(ctx, tx, func(r scanner) error {
			p, err := scanPolicy(r)
			if err == nil {
				st.Policies[p.ID] = p
			}
			return err
		}, `SELECT `+policyColumns+` FROM policies`); err != nil {
			return err
		}
		if err := rows(ctx, tx, func(r scanner) error {
			var a fleet.Assignment
			var created int64
			err := r.Scan(&a.ID, &a.Policy, &a.Target.Platform, &a.Target.Ownership, &a.Target.User, &a.Target.Tag, &a.Priority, &a.Compliance, &created, &a.CreatedBy)
			a.CreatedAt = at(created)
			st.Assignments = append(st.Assignments, a)
			return err
		}, `SELECT id, policy, platform, ownership, username, tag, priority, compliance, created_at, created_by FROM assignments`); err != nil {
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
			if err := tx.QueryRowContext(ctx, `SELECT document, changed_at FROM versions WHERE policy = $1 AND version = $2`, o.Policy, o.From).Scan(&doc, &when); err != nil {
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

// assigned is fleet.State.Assigned as SQL over a row d of devices, with its arguments numbered from
// the one after those given. A test holds the two against each other.
func assigned(st *fleet.State, args []any) (string, []any) {
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	own := `d.policy IS NOT NULL AND EXISTS (SELECT 1 FROM policies p WHERE p.id = d.policy AND p.active = 1)`
	if !hasActive(st) {
		own = "1 = 0"
	}
	var b strings.Builder
	b.WriteString("CASE")
	for _, a := range st.Assignments {
		p := st.Policies[a.Policy]
		if p == nil || !p.Active {
			continue
		}
		fmt.Fprintf(&b, " WHEN %s AND d.priority >= %d THEN d.policy", own, a.Priority)
		conds := []string{}
		for _, c := range [][2]string{{"os", a.Target.Platform}, {"ownership", strings.TrimPrefix(a.Target.Ownership, "ANY")}, {"username", a.Target.User}} {
			if c[1] != "" {
				conds = append(conds, "d."+c[0]+" = "+arg(c[1]))
			}
		}
		if a.Target.Tag != "" {
			conds = append(conds, "replace(d.tags, "+arg(","+a.Target.Tag+",")+", '') <> d.tags")
		}
		if len(conds) == 0 {
			conds = append(conds, "1 = 1")
		}
		fmt.Fprintf(&b, " WHEN %s THEN %s", strings.Join(conds, " AND "), arg(a.Policy))
	}
	fmt.Fprintf(&b, " WHEN %s THEN d.policy", own)
	def := ""
	if p := st.Policies[st.Default]; p != nil && p.Active {
		def = st.Default
	}
	fmt.Fprintf(&b, " ELSE %s END", arg(def))
	return b.String(), args
}

func hasActive(st *fleet.State) bool {
	for _, p := range st.Policies {
		if p.Active {
			return true
		}
	}
	return false
}

// Census counts the devices of each policy that are not retired; "" counts those with none.
func (s *Store) Census(ctx context.Context, st *fleet.State) (map[string]int, error) {
	expr, args := assigned(st, nil)
	out := map[string]int{}
	err := rows(ctx, s.read, func(r scanner) error {
		var id sql.NullString
		var n int
		err := r.Scan(&id, &n)
		out[id.String] += n
		return err
	}, `SELECT `+expr+` AS effective, count(*) FROM devices d WHERE d.state IN ('enrolled','cloned') GROUP BY 1`, args...)
	return out, err
}
