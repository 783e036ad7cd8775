package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"

	"github.com/warderd/warder/sync/server/roster"
)

const rosterColumns = `d.n, d.id, d.name, d.os, d.ownership, d.username, d.tags, coalesce(d.policy, ''), d.priority, d.compliance, d.state, d.enrolled_at,
	coalesce(s.at, 0), coalesce(s.fresh, 0), coalesce(r.held_id, ''), coalesce(r.held_version, 0), coalesce(r.standing, ''), coalesce(r.rollup, ''),
	CASE WHEN r.agent LIKE '%"ended":%' THEN 1 ELSE 0 END, coalesce(r.counter, 0)` + deviceFrom

// scanRoster reads one row of rosterColumns.
func scanRoster(r scanner) (x roster.Row, err error) {
	var ended int
	err = r.Scan(&x.N, &x.ID, &x.Name, &x.OS, &x.Ownership, &x.User, &x.Tags, &x.Policy, &x.Priority, &x.Compliance, &x.State, &x.Enrolled,
		&x.At, &x.Fresh, &x.Current, &x.Version, &x.Hash, &x.Rollup, &ended, &x.Counter)
	x.Ended = ended == 1
	return x, err
}

// Roster returns up to the given number of devices after a number, as they are kept in memory.
func (s *Store) Roster(ctx context.Context, after int64, most int) (out []roster.Row, err error) {
	err = rows(ctx, s.read, func(r scanner) error {
		x, err := scanRoster(r)
		out = append(out, x)
		return err
	}, `SELECT `+rosterColumns+`WHERE d.n > $1 ORDER BY d.n LIMIT $2`, after, most)
	return out, err
}

// RosterOf returns single devices, by id.
func (s *Store) RosterOf(ctx context.Context, ids []string) ([]roster.Row, error) {
	args := make([]any, 0, len(ids))
	for _, id := range ids {
		args = append(args, id)
	}
	return s.rosterIn(ctx, "d.id", args)
}

// RosterNumbers returns single devices, by number.
func (s *Store) RosterNumbers(ctx context.Context, numbers []int64) ([]roster.Row, error) {
	args := make([]any, 0, len(numbers))
	for _, n := range numbers {
		args = append(args, n)
	}
	return s.rosterIn(ctx, "d.n", args)
}

// rosterIn reads the devices whose column has one of the given values.
func (s *Store) rosterIn(ctx context.Context, column string, args []any) (out []roster.Row, err error) {
	const most = 500
	for part := range slices.Chunk(args, most) {
		in := s.values(1, len(part))
		if s.pg && column == "d.n" { // otherwise it takes a parameter for a text
			in = strings.Replace(in, "($1", "(CAST($1 AS BIGINT)", 1)
		}
		if err := rows(ctx, s.device, func(r scanner) error {
			x, err := scanRoster(r)
			out = append(out, x)
			return err
		}, `SELECT `+rosterColumns+`WHERE `+column+` IN `+in, part...); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Stood is what a device reports about itself, as another node has written it since.
type Stood struct {
	Device, Changed int64 // the latter is the transaction that wrote it
	roster.Standing
}

// Stood returns what transactions wrote about devices from a mark on, and the next mark. A database with one node has
// nothing to report.
//
// PostgreSQL numbers transactions before they commit. The mark is the oldest one that was still under way: what it
// writes is seen the next time, and what later ones have written is seen twice.
func (s *Store) Stood(ctx context.Context, mark int64) (out []Stood, next int64, err error) {
	if !s.pg {
		return nil, 0, nil
	}
	err = s.snapshotOf(ctx, s.device, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT txid_snapshot_xmin(txid_current_snapshot())`).Scan(&next); err != nil || mark == 0 {
			return err
		}
		return rows(ctx, tx, func(r scanner) error {
			var x Stood
			err := r.Scan(&x.Device, &x.Changed, &x.Counter, &x.Current, &x.Version, &x.Hash, &x.Rollup, &x.Ended)
			out = append(out, x)
			return err
		},
			// A mark above that number is another cluster's, from a copy of its files.
			`SELECT device, changed, counter, held_id, held_version, standing, rollup, agent LIKE '%"ended":%' FROM reports
			WHERE changed >= $1 AND changed < txid_snapshot_xmax(txid_current_snapshot())`, mark)
	})
	return out, next, err
}

// Heard returns when devices were heard of since a moment (ms), by any node.
func (s *Store) Heard(ctx context.Context, since int64, use func(device, at, fresh int64)) error {
	return rows(ctx, s.read, func(r scanner) error {
		var device, at, fresh int64
		err := r.Scan(&device, &at, &fresh)
		use(device, at, fresh)
		return err
	}, `SELECT device, at, fresh FROM seen WHERE at >= $1`, since)
}

// Bodies returns the standings with the given hashes, as far as they are known.
func (s *Store) Bodies(ctx context.Context, hashes []string) (map[string]string, error) {
	out := map[string]string{}
	const most = 500
	for len(hashes) > 0 {
		part := hashes[:min(most, len(hashes))]
		hashes = hashes[len(part):]
		args := make([]any, 0, len(part))
		for _, h := range part {
			args = append(args, h)
		}
		if err := rows(ctx, s.read, func(r scanner) error {
			var hash, body string
			err := r.Scan(&hash, &body)
			out[hash] = body
			return err
		}, `SELECT hash, body FROM standings WHERE hash IN `+s.values(1, len(part)), args...); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Devices returns devices by their numbers, in the order asked for; with facts, these too.
func (s *Store) Devices(ctx context.Context, numbers []int64, facts bool) ([]*Device, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	part := brief
	if facts {
		part = `coalesce(r.facts, ''), ''`
	}
	args := make([]any, 0, len(numbers))
	for _, n := range numbers {
		args = append(args, n)
	}
	in := s.values(1, len(numbers))
	if s.pg { // otherwise it takes a parameter for a text
		in = strings.Replace(in, "($1", "(CAST($1 AS BIGINT)", 1)
	}
	byN := make(map[int64]*Device, len(numbers))
	err := rows(ctx, s.read, func(r scanner) error {
		d, err := scanDevice(r)
		if err == nil {
			byN[d.N] = d
		}
		return err
	}, `SELECT `+deviceColumns+part+deviceFrom+`WHERE d.n IN `+in, args...)
	out := make([]*Device, 0, len(numbers))
	for _, n := range numbers {
		if d := byN[n]; d != nil {
			out = append(out, d)
		}
	}
	return out, err
}

// Findings returns what a device last reported for each setting.
func (s *Store) Findings(ctx context.Context, device int64) (json.RawMessage, error) {
	var text string
	err := s.read.QueryRowContext(ctx, `SELECT coalesce(findings, '') FROM reports WHERE device = $1`, device).Scan(&text)
	return json.RawMessage(text), err
}
