package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
)

// The states of a device.
const (
	Enrolled = "enrolled"
	Retired  = "retired" // its next check-in gets a signed release
	Cloned   = "cloned"  // two machines use its key
)

// Device is one enrolled machine.
type Device struct {
	fleet.Device
	N          int64 // its number, for joining
	Name       string
	Key        json.RawMessage // public JWK
	Machine    string
	Host       json.RawMessage
	State      string
	Enrollment string // the token it enrolled with
	EnrolledAt time.Time
	Excepted   time.Time // an exception may last until then
	Diagnose   time.Time // a bundle was asked for then and has not arrived
	LastSeen   time.Time
	Fresh      time.Time // until when its last report counts
	Looked     time.Time // when it last looked at itself, by its own clock
	Counter    uint64
	AssignedAt time.Time
	Report     Report
}

// Report is what a device last reported about itself.
type Report struct {
	Current        json.RawMessage
	Agent          json.RawMessage
	Previous       string // start of the previous agent run
	FactsDigest    string
	Facts          json.RawMessage // nil if not read
	FindingsDigest string
	Findings       json.RawMessage // nil if not read
	FindingsAt     time.Time
	Standing       string
	Rollup         string
}

const deviceColumns = `d.n, d.id, d.name, d.key, d.machine, d.host, d.os, d.ownership, d.username, d.tags, coalesce(d.policy, ''), d.priority,
	d.compliance, d.state, d.enrollment, d.enrolled_at, d.excepted, d.diagnose, coalesce(s.at, 0), coalesce(s.counter, 0), coalesce(s.assigned, 0), coalesce(s.fresh, 0), coalesce(s.looked, 0),
	coalesce(r.counter, 0), coalesce(r.held, '{}'), coalesce(r.agent, '{}'), coalesce(r.previous, ''), coalesce(r.facts_digest, ''),
	coalesce(r.findings_digest, ''), coalesce(r.findings_at, 0), coalesce(r.standing, ''), coalesce(r.rollup, ''), `

const deviceFrom = ` FROM devices d LEFT JOIN seen s ON s.device = d.n LEFT JOIN reports r ON r.device = d.n `

// The columns of a report: large ones only if they are wanted.
const (
	brief = `'', ''`
	whole = `coalesce(r.facts, ''), coalesce(r.findings, '')`
)

// scanDevice reads one row of deviceColumns.
func scanDevice(r scanner) (*Device, error) {
	var d Device
	var key, host, tags, current, agent, facts, findings string
	var enrolled, excepted, diagnose, seen, assigned, fresh, looked, findingsAt int64
	var counter, reported uint64
	p := &d.Report
	err := r.Scan(&d.N, &d.ID, &d.Name, &key, &d.Machine, &host, &d.OS, &d.Ownership, &d.User, &tags, &d.Policy, &d.Priority,
		&d.Compliance, &d.State, &d.Enrollment, &enrolled, &excepted, &diagnose, &seen, &counter, &assigned, &fresh, &looked,
		&reported, &current, &agent, &p.Previous, &p.FactsDigest, &p.FindingsDigest, &findingsAt, &p.Standing, &p.Rollup, &facts, &findings)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	d.Key, d.Host, p.Current, p.Agent = json.RawMessage(key), json.RawMessage(host), json.RawMessage(current), json.RawMessage(agent)
	if facts != "" {
		p.Facts = json.RawMessage(facts)
	}
	if findings != "" {
		p.Findings = json.RawMessage(findings)
	}
	d.Tags, d.Counter = splitTags(tags), max(counter, reported)
	d.EnrolledAt, d.Excepted, d.Diagnose, d.LastSeen, d.AssignedAt, p.FindingsAt = at(enrolled), at(excepted), at(diagnose), at(seen),
		at(assigned), at(findingsAt)
	d.Fresh, d.Looked = at(fresh), at(looked)
	return &d, err
}

// Tags are stored as ",a,b,": searching for a tag with its commas never finds a part of another.
func joinTags(tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	return "," + strings.Join(tags, ",") + ","
}

// splitTags turns ",a,b," into a list.
func splitTags(s string) []string {
	if s = strings.Trim(s, ","); s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// Device returns one device, with its whole last report.
func (s *Store) Device(ctx context.Context, id string) (*Device, error) {
	return scanDevice(s.read.QueryRowContext(ctx, `SELECT `+deviceColumns+whole+deviceFrom+`WHERE d.id = $1`, id))
}

// Known returns what a check-in needs to know of a device.
func (s *Store) Known(ctx context.Context, id string) (*Device, error) {
	return scanDevice(s.device.QueryRowContext(ctx, `SELECT `+deviceColumns+brief+deviceFrom+`WHERE d.id = $1`, id))
}

// Assign gives a device a policy of its own, or with "" what its groups say.
func (s *Store) Assign(ctx context.Context, device, policy, compliance string, priority int, now time.Time) error {
	detail := []string{"policy " + policy}
	if policy == "" {
		detail = []string{"no policy of its own"}
	}
	return s.change(ctx, now, "device.assigned", device, detail, func(tx *sql.Tx) error {
		if policy != "" {
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM policies WHERE id = $1`, policy).Scan(&n); err != nil || n == 0 {
				return errors.Join(err, ErrNotFound)
			}
		}
		return one(tx.ExecContext(ctx, `UPDATE devices SET policy = nullif($1, ''), priority = $2, compliance = $3 WHERE id = $4`, policy,
			priority, compliance, device))
	})
}

// Edit writes what an administrator may set on a device; nil stays.
func (s *Store) Edit(ctx context.Context, device string, name, user, ownership *string, tags *[]string, now time.Time) error {
	var detail []string
	var sets []string
	var args []any
	set := func(column, shown string, v any) {
		args = append(args, v)
		sets, detail = append(sets, column+" = $"+itoa(len(args))), append(detail, shown)
	}
	if name != nil {
		set("name", "name "+*name, *name)
	}
	if user != nil {
		set("username", "user "+*user, *user)
	}
	if ownership != nil {
		set("ownership", "ownership "+*ownership, *ownership)
	}
	if tags != nil {
		set("tags", "tags "+strings.Join(*tags, " "), joinTags(*tags))
	}
	if len(sets) == 0 {
		return nil
	}
	args = append(args, device)
	return s.change(ctx, now, "device.edited", device, detail, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE devices SET `+strings.Join(sets, ", ")+` WHERE id = $`+itoa(len(args)), args...))
	})
}

// SetState marks a device as retired, cloned or enrolled.
func (s *Store) SetState(ctx context.Context, device, state string, now time.Time) error {
	return s.change(ctx, now, "device."+state, device, nil, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE devices SET state = $1 WHERE id = $2`, state, device))
	})
}

// Enroll uses up one use of a token and registers a device, both or neither. The device gets what the token sets.
func (s *Store) Enroll(ctx context.Context, token string, d *Device, now time.Time) error {
	// Looked up without the writers' lock first: a guess costs no transaction.
	var n int
	if err := s.device.QueryRowContext(ctx, `SELECT count(*) FROM enrollments WHERE hash = $1`, Hash(token)).Scan(&n); err != nil ||
		n == 0 {
		if err == nil {
			err = ErrUsed
		}
		return err
	}
	return s.change(ctx, now, "device.enrolled", d.ID, []string{"name " + d.Name}, func(tx *sql.Tx) error {
		var tags, ownership, user string
		var own sql.NullString
		err := tx.QueryRowContext(ctx,
			`UPDATE enrollments SET used = used + 1 WHERE hash = $1 AND used < uses AND expires > $2 AND revoked_at = 0
			RETURNING id, ownership, username, tags, policy`, Hash(token), ms(now)).Scan(&d.Enrollment, &ownership, &user, &tags, &own)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUsed
		}
		if err != nil {
			return err
		}
		if ownership != "" {
			d.Ownership = ownership
		}
		d.User, d.Tags, d.Policy, d.State, d.Priority, d.EnrolledAt = user, splitTags(tags), own.String, Enrolled, fleet.DevicePriority, now
		_, err = tx.ExecContext(ctx,
			`INSERT INTO devices (id, name, key, machine, host, os, ownership, username, tags, policy, priority, compliance, state, enrolled_at, enrollment)
			VALUES `+s.values(1, 15), d.ID, d.Name, string(d.Key), d.Machine, string(d.Host), d.OS, d.Ownership, d.User, tags, own,
			d.Priority, "", d.State, ms(now), d.Enrollment)
		return err
	})
}

// Seen is the record of a check-in without news.
type Seen struct {
	Device   int64
	At       time.Time
	Counter  uint64
	Assigned time.Time
	Fresh    time.Time // until when it counts; zero: the agent has ended
	Looked   time.Time // when the device last looked at itself, by its own clock; zero: as before
}

// clockStep is longer than two messages of a device can be reordered on their way into the database.
const clockStep = 2 * time.Minute

// Then combines this record with an earlier one.
func (s Seen) Then(o Seen) Seen {
	// The device's own counter decides which is later, whatever the clock did; messages on a socket have none.
	if o.Counter > s.Counter || (o.Counter == 0 || o.Counter == s.Counter) && !o.At.Before(s.At) {
		s.Fresh = o.Fresh
	}
	// A time in the future was written under a clock that has been set back since.
	if o.At.After(s.At) || o.Counter > s.Counter && s.At.Sub(o.At) > clockStep {
		s.At = o.At
	}
	if o.Assigned.After(s.Assigned) {
		s.Assigned = o.Assigned
	}
	if !o.Looked.IsZero() && (s.Looked.IsZero() || o.Counter >= s.Counter) {
		s.Looked = o.Looked
	}
	s.Counter = max(s.Counter, o.Counter)
	return s
}

// PutSeen writes many at once.
func (s *Store) PutSeen(ctx context.Context, list []Seen) error {
	const most = 500
	// In the same order on every node, so that two that write the same devices do not block each other.
	slices.SortFunc(list, func(a, b Seen) int { return cmp.Compare(a.Device, b.Device) })
	for len(list) > 0 {
		part := list[:min(most, len(list))]
		list = list[len(part):]
		if err := s.tx(ctx, func(tx *sql.Tx) error { return s.putSeen(ctx, tx, part) }); err != nil {
			return err
		}
	}
	return nil
}

// putSeen writes some times in one statement.
func (s *Store) putSeen(ctx context.Context, tx *sql.Tx, list []Seen) error {
	args := make([]any, 0, 6*len(list))
	for _, x := range list {
		args = append(args, x.Device, ms(x.At), int64(x.Counter), ms(x.Assigned), ms(x.Fresh), ms(x.Looked))
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO seen (device, at, counter, assigned, fresh, looked) VALUES `+s.values(len(list), 6)+
		` ON CONFLICT (device) DO UPDATE SET
				fresh = CASE WHEN excluded.counter > seen.counter OR excluded.counter IN (0, seen.counter) AND excluded.at >= seen.at THEN excluded.fresh ELSE seen.fresh END,
				looked = CASE WHEN excluded.looked > 0 AND excluded.counter >= seen.counter THEN excluded.looked ELSE seen.looked END,
				at = CASE WHEN excluded.at > seen.at OR seen.at > excluded.at + `+itoa(int(clockStep.Milliseconds()))+
		` AND excluded.counter > seen.counter THEN excluded.at ELSE seen.at END,
				counter = CASE WHEN excluded.counter > seen.counter THEN excluded.counter ELSE seen.counter END,
				assigned = CASE WHEN excluded.assigned > seen.assigned THEN excluded.assigned ELSE seen.assigned END`, args...)
	return err
}
