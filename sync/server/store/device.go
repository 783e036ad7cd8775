package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/warderd/warder/enforce"
)

// Device is one enrolled machine and what it last reported.
type Device struct {
	ID, Name, Machine string
	Key               json.RawMessage
	Host              json.RawMessage
	Policy            string // its own; "" for the default
	State             string // enrolled, retired, cloned
	EnrolledAt        time.Time
	LastSeen          time.Time
	Counter           uint64
	Held, Agent       json.RawMessage
	AssignedAt        time.Time
	FactsDigest       string
	Facts             json.RawMessage
	FindingsDigest    string
	Findings          json.RawMessage
	FindingsAt        time.Time
}

const deviceColumns = `id, name, key, machine, host, policy, enrolled_at, last_seen, counter, state, held, agent, assigned_at,
	facts_digest, facts, findings_digest, findings, findings_at`

func scanDevice(r scanner) (*Device, error) {
	var d Device
	var key, host, held, agent, facts, findings string
	var policy sql.NullString
	var enrolled, seen, assigned, findingsAt int64
	err := r.Scan(&d.ID, &d.Name, &key, &d.Machine, &host, &policy, &enrolled, &seen, &d.Counter, &d.State, &held, &agent, &assigned,
		&d.FactsDigest, &facts, &d.FindingsDigest, &findings, &findingsAt)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	at := func(ms int64) time.Time {
		if ms == 0 {
			return time.Time{}
		}
		return time.UnixMilli(ms).UTC()
	}
	d.Key, d.Host, d.Held, d.Agent = json.RawMessage(key), json.RawMessage(host), json.RawMessage(held), json.RawMessage(agent)
	d.Facts, d.Findings, d.Policy = json.RawMessage(facts), json.RawMessage(findings), policy.String
	d.EnrolledAt, d.LastSeen, d.AssignedAt, d.FindingsAt = at(enrolled), at(seen), at(assigned), at(findingsAt)
	return &d, err
}

// Enroll uses up one use of a token and registers a device, both or neither.
func (s *Store) Enroll(ctx context.Context, token string, d *Device, now time.Time) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		r, err := tx.Exec(`UPDATE enrollments SET uses = uses - 1 WHERE hash = ? AND uses > 0 AND expires > ?`, hash(token), now.UnixMilli())
		if err != nil {
			return err
		}
		if n, _ := r.RowsAffected(); n == 0 {
			return ErrUsed
		}
		_, err = tx.Exec(`INSERT INTO devices (id, name, key, machine, host, enrolled_at) VALUES (?,?,?,?,?,?)`,
			d.ID, d.Name, string(d.Key), d.Machine, string(d.Host), now.UnixMilli())
		return err
	})
}

// Device gives one device.
func (s *Store) Device(ctx context.Context, id string) (*Device, error) {
	return scanDevice(s.db.QueryRowContext(ctx, `SELECT `+deviceColumns+` FROM devices WHERE id = ?`, id))
}

// Devices gives a page of the devices of a policy, or of all with policy "".
func (s *Store) Devices(ctx context.Context, policy string, page, size int) (out []*Device, total int, err error) {
	where := ` FROM devices WHERE state <> 'retired' AND (? = '' OR policy = ? OR policy IS NULL AND ? = (SELECT value FROM meta WHERE name = 'default'))`
	if err := s.db.QueryRowContext(ctx, `SELECT count(*)`+where, policy, policy, policy).Scan(&total); err != nil {
		return nil, 0, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT `+deviceColumns+where+` ORDER BY id LIMIT ? OFFSET ?`, policy, policy, policy, size, (page-1)*size)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		d, err := scanDevice(rows)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, d)
	}
	return out, total, rows.Err()
}

// DeviceIDs lists the devices that a policy reaches.
func (s *Store) DeviceIDs(ctx context.Context, policy string) (out []string, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id FROM devices WHERE state <> 'retired' AND
		(policy = ? OR policy IS NULL AND ? = (SELECT value FROM meta WHERE name = 'default'))`, policy, policy)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

// Assign gives a device a policy of its own, or with "" the default.
func (s *Store) Assign(ctx context.Context, device, policy string) error {
	return s.one(ctx, `UPDATE devices SET policy = nullif(?, '') WHERE id = ?`, policy, device)
}

// SetState marks a device as retired or cloned.
func (s *Store) SetState(ctx context.Context, device, state string) error {
	return s.one(ctx, `UPDATE devices SET state = ? WHERE id = ?`, state, device)
}

// Assigned remembers when a device was last sent an assignment.
func (s *Store) Assigned(ctx context.Context, device string, at time.Time) error {
	return s.one(ctx, `UPDATE devices SET assigned_at = ? WHERE id = ?`, at.UnixMilli(), device)
}

func (s *Store) one(ctx context.Context, q string, args ...any) error {
	r, err := s.db.ExecContext(ctx, q, args...)
	if err != nil {
		return err
	}
	if n, _ := r.RowsAffected(); n == 0 {
		return ErrNotFound
	}
	return nil
}

// Checkin is what one report changes.
type Checkin struct {
	Counter        uint64
	Held, Agent    json.RawMessage
	FactsDigest    string
	Facts          json.RawMessage // nil: unchanged
	FindingsDigest string
	Findings       json.RawMessage // nil: unchanged
	Epoch          string
	Events         []enforce.Event
}

// Record writes a report, all of it or nothing, and gives the highest event number of its epoch
// that is now stored. An event that came before is not stored again.
func (s *Store) Record(ctx context.Context, device string, c Checkin, now time.Time) (ack uint64, err error) {
	err = s.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE devices SET last_seen = ?, counter = max(counter, ?), held = ?, agent = ? WHERE id = ?`,
			now.UnixMilli(), c.Counter, string(c.Held), string(c.Agent), device)
		if err != nil {
			return err
		}
		if c.Facts != nil {
			if _, err := tx.Exec(`UPDATE devices SET facts = ?, facts_digest = ? WHERE id = ?`, string(c.Facts), c.FactsDigest, device); err != nil {
				return err
			}
		}
		if c.Findings != nil {
			if _, err := tx.Exec(`UPDATE devices SET findings = ?, findings_digest = ?, findings_at = ? WHERE id = ?`,
				string(c.Findings), c.FindingsDigest, now.UnixMilli(), device); err != nil {
				return err
			}
		}
		ack, err = recordEvents(tx, device, c, now)
		return err
	})
	return ack, err
}

func recordEvents(tx *sql.Tx, device string, c Checkin, now time.Time) (uint64, error) {
	if c.Epoch == "" {
		return 0, nil
	}
	var high uint64
	err := tx.QueryRow(`SELECT seq FROM epochs WHERE device = ? AND epoch = ?`, device, c.Epoch).Scan(&high)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	before := high
	for _, e := range c.Events {
		if e.Seq <= high {
			continue
		}
		body, err := json.Marshal(e)
		if err != nil {
			return 0, err
		}
		if _, err := tx.Exec(`INSERT INTO events VALUES (?,?,?,?,?,?)`, device, c.Epoch, e.Seq, e.At.UnixMilli(), now.UnixMilli(), string(body)); err != nil {
			return 0, err
		}
		high = e.Seq
	}
	if high == before {
		return high, nil
	}
	_, err = tx.Exec(`INSERT INTO epochs VALUES (?,?,?) ON CONFLICT (device, epoch) DO UPDATE SET seq = excluded.seq`, device, c.Epoch, high)
	return high, err
}

// Events gives a device's newest events, newest first.
func (s *Store) Events(ctx context.Context, device string, limit int) (out []StoredEvent, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT epoch, received, body FROM events WHERE device = ? ORDER BY received DESC, seq DESC LIMIT ?`, device, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e StoredEvent
		var body string
		var received int64
		if err := rows.Scan(&e.Epoch, &received, &body); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &e.Event); err != nil {
			return nil, err
		}
		e.Received = time.UnixMilli(received).UTC()
		out = append(out, e)
	}
	return out, rows.Err()
}

// StoredEvent is an event as the server holds it.
type StoredEvent struct {
	enforce.Event
	Epoch    string    `json:"epoch"`
	Received time.Time `json:"received_at"`
}
