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

const rolloutColumns = `id, policy, from_version, to_version, plan, state, stage, stage_since, reason, created_at, created_by, ended_at`

// scanRollout reads one row of rolloutColumns.
func scanRollout(r scanner) (*fleet.Rollout, error) {
	var o fleet.Rollout
	var plan string
	var since, created, ended int64
	err := r.Scan(&o.ID, &o.Policy, &o.From, &o.To, &plan, &o.State, &o.Stage, &since, &o.Reason, &created, &o.CreatedBy, &ended)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	o.StageSince, o.CreatedAt, o.EndedAt = at(since), at(created), at(ended)
	return &o, json.Unmarshal([]byte(plan), &o.Plan)
}

// Rollout returns one rollout.
func (s *Store) Rollout(ctx context.Context, id string) (*fleet.Rollout, error) {
	return scanRollout(s.read.QueryRowContext(ctx, `SELECT `+rolloutColumns+` FROM rollouts WHERE id = $1`, id))
}

// Rollouts returns a page of a policy's rollouts, newest first.
func (s *Store) Rollouts(ctx context.Context, policy string) (out []*fleet.Rollout, err error) {
	err = rows(ctx, s.read, func(r scanner) error {
		o, err := scanRollout(r)
		out = append(out, o)
		return err
	}, `SELECT `+rolloutColumns+` FROM rollouts WHERE policy = $1 ORDER BY created_at DESC, id`, policy)
	return out, err
}

// StartRollout writes a policy's next version and the rollout that brings it to devices, both or neither.
func (s *Store) StartRollout(ctx context.Context, o *fleet.Rollout, p *fleet.Policy, expect int, changes []string) error {
	detail := append([]string{fmt.Sprintf("%s: version %d to %d", p.ID, o.From, o.To)}, changes...)
	return s.change(ctx, o.CreatedAt, "rollout.started", o.ID, detail, func(tx *sql.Tx) error {
		if err := s.noRollout(ctx, tx, p.ID); err != nil {
			return err
		}
		if err := s.putPolicy(ctx, tx, p, expect, changes); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO rollouts (`+rolloutColumns+`) VALUES `+s.values(1, 12), o.ID, o.Policy, o.From, o.To,
			encode(o.Plan),
			o.State, o.Stage, ms(o.StageSince), o.Reason, ms(o.CreatedAt), o.CreatedBy, 0)
		return err
	})
}

// MoveRollout moves a rollout from a state and stage to the next; ErrStale if it has left them.
func (s *Store) MoveRollout(ctx context.Context, o *fleet.Rollout, state string, stage int, reason string, now time.Time) error {
	ended := int64(0)
	if state == fleet.Done {
		ended = ms(now)
	}
	action := map[string]string{fleet.Running: "rollout.running", fleet.Paused: "rollout.paused", fleet.Done: "rollout.done"}[state]
	return s.change(ctx, now, action, o.ID, []string{fmt.Sprintf("stage %d: %s", stage+1, reason)}, func(tx *sql.Tx) error {
		return stale(one(tx.ExecContext(ctx, `UPDATE rollouts SET state = $1, stage = $2, stage_since = $3, reason = $4, ended_at = $5
			WHERE id = $6 AND state = $7 AND stage = $8`, state, stage, ms(now), reason, ended, o.ID, o.State, o.Stage)))
	})
}

// stale turns "no row was changed" into ErrStale.
func stale(err error) error {
	if errors.Is(err, ErrNotFound) {
		return ErrStale
	}
	return err
}

// StopRollout ends a rollout and writes the version it came from as the policy's newest: the moved devices go back.
func (s *Store) StopRollout(ctx context.Context, o *fleet.Rollout, back *fleet.Policy, reason string, changes []string) error {
	now := back.UpdatedAt
	return s.change(ctx, now, "rollout.stopped", o.ID, append([]string{reason}, changes...), func(tx *sql.Tx) error {
		if err := stale(one(tx.ExecContext(ctx, `UPDATE rollouts SET state = 'stopped', reason = $1, ended_at = $2 WHERE id = $3 AND `+
			`state IN ('running','paused')`,
			reason, ms(now), o.ID))); err != nil {
			return err
		}
		return s.putPolicy(ctx, tx, back, o.To, changes)
	})
}

// Before is a device's state when a rollout moved it; ErrNotFound if it did not.
func (s *Store) Before(ctx context.Context, rollout string, device int64) (was, outcome string, err error) {
	err = s.device.QueryRowContext(ctx, `SELECT was, outcome FROM rollout_devices WHERE rollout = $1 AND device = $2`, rollout,
		device).Scan(&was, &outcome)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return was, outcome, err
}

// Tally counts what became of a rollout's devices.
func (s *Store) Tally(ctx context.Context, rollout string) (t fleet.Tally, err error) {
	err = rows(ctx, s.device, func(r scanner) error {
		var outcome string
		var n int
		err := r.Scan(&outcome, &n)
		t.Sent += n
		switch outcome {
		case "good":
			t.Good = n
		case "reverted":
			t.Reverted = n
		case "noncompliant":
			t.Noncompliant = n
		}
		return err
	}, `SELECT outcome, count(*) FROM rollout_devices WHERE rollout = $1 GROUP BY outcome`, rollout)
	return t, err
}
