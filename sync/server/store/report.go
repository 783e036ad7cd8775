package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	quick "github.com/segmentio/encoding/json"

	"github.com/warderd/warder/enforce"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Record is one report with news. Nil parts have not changed.
type Record struct {
	Device         int64
	At             time.Time
	Counter        uint64
	CurrentID      string
	CurrentVersion int
	Current, Agent json.RawMessage
	Previous       string
	FactsDigest    string
	Facts          json.RawMessage
	FindingsDigest string
	Findings       json.RawMessage
	Standing       string // hash of the state that the findings describe, setting by setting
	StandingBody   string
	Rollup         string
	Epoch          string
	Events         []RawEvent
	Rollout        string // the rollout that moved the device
	Outcome        string // what became of it: "", good, reverted, noncompliant
	// Moved is a rollout whose version is about to be sent to the device, whose state is Was. Such a record contains
	// nothing else.
	Moved, Was string
	Seen       Seen // the check-in that brought it
	Ended      bool // Agent says that it is stopping

	Ack uint64 // set by PutRecords: the highest stored number of the epoch
	// Old is set by PutRecords: a report with a higher counter is stored already, so that only the events of this one
	// were stored.
	Old bool
}

// PutRecords writes reports of different devices in one transaction, all or nothing. Events that came before are not
// stored again.
func (s *Store) PutRecords(ctx context.Context, list []*Record) error {
	// In the same order on every node, so that two that write the same devices do not block each other.
	slices.SortFunc(list, func(a, b *Record) int { return int(a.Device - b.Device) })
	var fresh []string
	err := s.tx(ctx, func(tx *sql.Tx) error {
		// First: it locks the devices' rows, so that another node with the same device waits here.
		if err := s.putReports(ctx, tx, slices.DeleteFunc(slices.Clone(list), func(r *Record) bool { return r.Moved != "" })); err != nil {
			return err
		}
		if err := s.putEvents(ctx, tx, list); err != nil {
			return err
		}
		var seen []Seen
		for _, r := range list {
			if r.Moved == "" && !r.Old && r.Seen.Device != 0 {
				seen = append(seen, r.Seen)
			}
		}
		if len(seen) > 0 {
			if err := s.putSeen(ctx, tx, seen); err != nil {
				return err
			}
		}
		var err error
		if fresh, err = s.putStandings(ctx, tx, list); err != nil {
			return err
		}
		for _, r := range list {
			if r.Moved != "" {
				if _, err := tx.ExecContext(ctx,
					`INSERT INTO rollout_devices (rollout, device, was, outcome) VALUES ($1,$2,$3,'') ON CONFLICT DO NOTHING`, r.Moved,
					r.Device, r.Was); err != nil {
					return err
				}
			}
			if r.Outcome != "" {
				if _, err := tx.ExecContext(ctx, `UPDATE rollout_devices SET outcome = $1 WHERE rollout = $2 AND device = $3`, r.Outcome,
					r.Rollout, r.Device); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && len(fresh) > 0 {
		s.mu.Lock()
		if len(s.standings) > 100_000 {
			clear(s.standings)
		}
		for _, h := range fresh {
			s.standings[h] = true
		}
		s.mu.Unlock()
	}
	return err
}

type stream struct {
	device int64
	epoch  string
}

// putEvents appends each report's new events as one row of their epoch.
func (s *Store) putEvents(ctx context.Context, tx *sql.Tx, list []*Record) error {
	var asked []any
	n := 0
	for _, r := range list {
		if r.Epoch != "" && len(r.Events) > 0 {
			asked, n = append(asked, r.Device, r.Epoch), n+1
		}
	}
	if n == 0 {
		return nil
	}
	high := make(map[stream]uint64, n)
	// The cast tells PostgreSQL the type of a parameter in VALUES; SQLite needs none.
	wanted := strings.Replace(s.values(n, 2), "($1,", "(CAST($1 AS BIGINT),", 1)
	if err := rows(ctx, tx, func(r scanner) error {
		var k stream
		var seq uint64
		err := r.Scan(&k.device, &k.epoch, &seq)
		high[k] = seq
		return err
	}, `SELECT device, epoch, seq FROM epochs WHERE (device, epoch) IN (VALUES `+wanted+`)`, asked...); err != nil {
		return err
	}
	var events, epochs []any
	var begun []int64
	for _, r := range list {
		if r.Epoch == "" || len(r.Events) == 0 {
			continue
		}
		before := high[stream{r.Device, r.Epoch}]
		r.Ack = before
		i := 0
		for i < len(r.Events) && r.Events[i].Seq <= before {
			i++
		}
		if i == len(r.Events) {
			continue
		}
		r.Ack = r.Events[len(r.Events)-1].Seq
		events = append(events, r.Device, r.Epoch, int64(r.Events[i].Seq), int64(r.Ack), ms(r.At), joined(r.Events[i:]))
		epochs = append(epochs, r.Device, r.Epoch, int64(r.Ack), ms(r.At))
		if before == 0 {
			begun = append(begun, r.Device)
		}
	}
	if len(events) == 0 {
		return nil
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO events (device, epoch, first, last, received, body) VALUES `+s.values(len(events)/6, 6)+
		` ON CONFLICT DO NOTHING`, events...); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO epochs (device, epoch, seq, at) VALUES `+s.values(len(epochs)/4, 4)+
		` ON CONFLICT (device, epoch) DO UPDATE SET seq = excluded.seq, at = excluded.at
		WHERE excluded.seq > epochs.seq`, epochs...); err != nil {
		return err
	}
	for _, device := range begun {
		if _, err := tx.ExecContext(ctx,
			`DELETE FROM epochs WHERE device = $1 AND epoch NOT IN (SELECT epoch FROM epochs WHERE device = $1 ORDER BY at DESC, `+
				`epoch LIMIT $2)`, device, maxEpochs); err != nil {
			return err
		}
	}
	return nil
}

// maxEpochs is how many epochs of a device are remembered. A device begins one with each start, and has unacknowledged
// events of few; the oldest are dropped. If events of a dropped epoch come again, those that were pruned since are
// stored again.
const maxEpochs = 64

// putStandings stores each distinct standing once: a fleet has few of them.
func (s *Store) putStandings(ctx context.Context, tx *sql.Tx, list []*Record) (fresh []string, err error) {
	s.mu.Lock()
	for _, r := range list {
		if r.Standing != "" && !s.standings[r.Standing] && !slices.Contains(fresh, r.Standing) {
			fresh = append(fresh, r.Standing)
		}
	}
	s.mu.Unlock()
	slices.Sort(fresh) // the same order on every node
	for _, h := range fresh {
		i := slices.IndexFunc(list, func(r *Record) bool { return r.Standing == h })
		if _, err := tx.ExecContext(ctx, `INSERT INTO standings (hash, body) VALUES ($1,$2) ON CONFLICT (hash) DO NOTHING`, h,
			list[i].StandingBody); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// putReports writes the rows of reports.
func (s *Store) putReports(ctx context.Context, tx *sql.Tx, list []*Record) error {
	if len(list) == 0 {
		return nil
	}
	const width = 14
	args := make([]any, 0, width*len(list))
	raw := func(b json.RawMessage) any {
		if b == nil {
			return nil
		}
		return string(b)
	}
	for _, r := range list {
		findingsAt := int64(0)
		if r.Findings != nil {
			findingsAt = ms(r.At)
		}
		args = append(args, r.Device, int64(r.Counter), r.CurrentID, r.CurrentVersion, string(r.Current), string(r.Agent), r.Previous, r.FactsDigest,
			raw(r.Facts),
			r.FindingsDigest, raw(r.Findings), findingsAt, r.Standing, r.Rollup)
	}
	written := make(map[int64]bool, len(list))
	// A digest belongs to its content: without the content it stays what it was.
	err := rows(ctx, tx, func(r scanner) error {
		var n int64
		err := r.Scan(&n)
		written[n] = true
		return err
	},
		`INSERT INTO reports (device, counter, held_id, held_version, held, agent, previous, facts_digest, facts, findings_digest, `+
			`findings, findings_at, standing, rollup) VALUES `+s.values(len(list), width)+
			` ON CONFLICT (device) DO UPDATE SET counter = excluded.counter,
		held_id = excluded.held_id, held_version = excluded.held_version, held = excluded.held, agent = excluded.agent, previous = excluded.previous,
		facts_digest = CASE WHEN excluded.facts IS NULL THEN reports.facts_digest ELSE excluded.facts_digest END, facts = coalesce(excluded.facts, reports.facts),
		findings_digest = CASE WHEN excluded.findings IS NULL THEN reports.findings_digest ELSE excluded.findings_digest END,
		findings_at = CASE WHEN excluded.findings IS NULL THEN reports.findings_at ELSE excluded.findings_at END,
		standing = CASE WHEN excluded.findings IS NULL THEN reports.standing ELSE excluded.standing END,
		rollup = CASE WHEN excluded.findings IS NULL THEN reports.rollup ELSE excluded.rollup END,
		findings = coalesce(excluded.findings, reports.findings)
		WHERE excluded.counter > reports.counter RETURNING device`, args...)
	for _, r := range list {
		r.Old = !written[r.Device]
	}
	return err
}

// RawEvent is an event as it came, including what only a newer agent says.
type RawEvent struct {
	Seq  uint64
	Body json.RawMessage
}

// joined is a list of events as JSON. Each of them is compact JSON already.
func joined(list []RawEvent) string {
	size := 2
	for _, e := range list {
		size += len(e.Body) + 1
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteByte('[')
	for i, e := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e.Body)
	}
	b.WriteByte(']')
	return b.String()
}

// readEvents reads the events of a stored row one by one: an unreadable one must not hide the others.
func readEvents(body []byte) []json.RawMessage {
	var list []json.RawMessage
	if json.Unmarshal(body, &list) != nil {
		return []json.RawMessage{unreadable}
	}
	return list
}

// unreadable stands for an event that cannot be read.
var unreadable = json.RawMessage(`{"seq":0,"at":"0001-01-01T00:00:00Z","subject":"unreadable","reason":"this event was stored and ` +
	`cannot be read"}`)

// storedEvent is one of them.
func storedEvent(epoch string, received time.Time, raw json.RawMessage) StoredEvent {
	e := StoredEvent{Epoch: epoch, Received: received, raw: raw}
	if json.Unmarshal(raw, &e.Event) != nil {
		e.Event, e.raw = enforce.Event{}, unreadable
		_ = json.Unmarshal(unreadable, &e.Event)
	}
	return e
}

// StoredEvent is an event as the server stores it: decoded as far as this version knows its words, and unchanged.
type StoredEvent struct {
	enforce.Event
	Epoch    string    `json:"epoch"`
	Received time.Time `json:"received_at"`
	raw      json.RawMessage
}

// Schema describes an event; a newer agent may say more.
func (StoredEvent) Schema(r huma.Registry) *huma.Schema {
	type stored struct {
		enforce.Event
		Epoch    string    `json:"epoch"`
		Received time.Time `json:"received_at"`
	}
	s := *huma.SchemaFromType(r, reflect.TypeFor[stored]())
	s.AdditionalProperties = true
	s.PrecomputeMessages()
	return &s
}

// MarshalJSON writes it unchanged, with what the server adds.
func (e StoredEvent) MarshalJSON() ([]byte, error) {
	out := map[string]json.RawMessage{}
	if err := json.Unmarshal(e.raw, &out); err != nil {
		return nil, err
	}
	if out == nil {
		out = map[string]json.RawMessage{}
	}
	out["epoch"], _ = json.Marshal(e.Epoch)
	out["received_at"], _ = json.Marshal(e.Received)
	return json.Marshal(out)
}

// Events returns a device's newest events, newest first; device is its number.
func (s *Store) Events(ctx context.Context, device int64, limit int) (out []StoredEvent, err error) {
	// Each row has at least one event.
	r, err := s.read.QueryContext(ctx,
		`SELECT epoch, received, body FROM events WHERE device = $1 ORDER BY received DESC, first DESC LIMIT $2`, device, limit)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for len(out) < limit && r.Next() {
		var epoch, body string
		var received int64
		if err := r.Scan(&epoch, &received, &body); err != nil {
			return nil, err
		}
		list := readEvents([]byte(body))
		for i := len(list) - 1; i >= 0 && len(out) < limit; i-- {
			out = append(out, storedEvent(epoch, at(received), list[i]))
		}
	}
	return out, r.Err()
}

// EventFilter selects events of the fleet. An empty field matches all.
type EventFilter struct {
	Device       int64
	Kind         string
	Setting      string // "usb.allowed", or "usb." for a section
	Text         string // part of the subject or the reason, ignoring case
	Since, Until time.Time
	After        *EventMark
}

// EventMark is a position among the events, newest first.
type EventMark struct {
	Received, Device, First int64
	Epoch                   string
	Left                    int // events of that row that were not returned yet
}

// FleetEvent is an event of one of the devices.
type FleetEvent struct {
	Device int64
	StoredEvent
}

// The bounds of what one question reads: rows, and bytes of them.
const (
	maxSearched      = 5000
	maxSearchedBytes = 16 << 20
)

// Fleet returns up to the given number of events of all devices, newest first, and where to read on; nil at the end.
func (s *Store) Fleet(ctx context.Context, f EventFilter, size int) (out []FleetEvent, next *EventMark, err error) {
	// Always a range of received: it makes SQLite walk that index instead of sorting the table.
	conds, args := []string{"received >= $1"}, []any{ms(f.Since)}
	add := func(cond string, v ...any) {
		for _, x := range v {
			args = append(args, x)
			cond = strings.Replace(cond, "?", "$"+itoa(len(args)), 1)
		}
		conds = append(conds, cond)
	}
	if f.Device > 0 {
		add("device = ?", f.Device)
	}
	if !f.Until.IsZero() {
		add("received < ?", ms(f.Until))
	}
	if m := f.After; m != nil {
		add("received <= ?", m.Received)
		add("(received, device, epoch, first) <= (?, ?, ?, ?)", m.Received, m.Device, m.Epoch, m.First)
	}
	args = append(args, maxSearched)
	part := strings.ToLower(f.Text)
	r, err := s.read.QueryContext(ctx, `SELECT device, epoch, first, received, body FROM events WHERE `+strings.Join(conds, " AND ")+
		` ORDER BY received DESC, device DESC, epoch DESC, first DESC LIMIT $`+itoa(len(args)), args...)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	seen, looked := 0, 0
	for looked < maxSearchedBytes && r.Next() {
		var m EventMark
		var body sql.RawBytes
		if err := r.Scan(&m.Device, &m.Epoch, &m.First, &m.Received, &body); err != nil {
			return nil, nil, err
		}
		seen++
		looked += len(body)
		var list []json.RawMessage
		if quick.Unmarshal(body, &list) != nil {
			list = []json.RawMessage{unreadable}
		}
		m.Left = len(list)
		if a := f.After; a != nil && a.Received == m.Received && a.Device == m.Device && a.Epoch == m.Epoch && a.First == m.First {
			m.Left = min(a.Left, m.Left)
		}
		for m.Left > 0 {
			if len(out) == size {
				return out, &m, nil
			}
			m.Left--
			e := storedEvent(m.Epoch, at(m.Received), append(json.RawMessage(nil), list[m.Left]...))
			if f.Kind != "" && string(e.Kind) != f.Kind || f.Setting != "" && string(e.Setting) != f.Setting &&
				!(strings.HasSuffix(f.Setting, ".") && strings.HasPrefix(string(e.Setting), f.Setting)) ||
				part != "" && !strings.Contains(strings.ToLower(e.Subject), part) && !strings.Contains(strings.ToLower(e.Reason), part) {
				continue
			}
			out = append(out, FleetEvent{m.Device, e})
		}
		next = &m
	}
	if err := r.Err(); err != nil || seen < maxSearched && looked < maxSearchedBytes {
		return out, nil, err
	}
	return out, next, nil
}

// Plug is what what-if needs of an event.
type Plug struct {
	At      time.Time     `json:"at"`
	Subject string        `json:"subject"`
	Section string        `json:"section"`
	Facts   enforce.Facts `json:"facts"`
}

// Plugs returns a device's newest events that have facts, among its newest so many.
func (s *Store) Plugs(ctx context.Context, device int64, limit int) (out []Plug, err error) {
	r, err := s.read.QueryContext(ctx, `SELECT body FROM events WHERE device = $1 ORDER BY received DESC, first DESC LIMIT $2`,
		device, limit)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for n := 0; n < limit && r.Next(); {
		var body sql.RawBytes
		if err := r.Scan(&body); err != nil {
			return nil, err
		}
		var list []Plug
		if err := quick.Unmarshal(body, &list); err != nil {
			return nil, err
		}
		for i := len(list) - 1; i >= 0 && n < limit; i-- {
			if n++; list[i].Facts != "" {
				out = append(out, list[i])
			}
		}
	}
	return out, r.Err()
}

// Prune deletes events received before a moment, a bounded number at a time, and reports whether there may be more. The
// highest number of each epoch stays, so that an old event cannot come back as a new one.
func (s *Store) Prune(ctx context.Context, before time.Time) (more bool, err error) {
	const most = 2000
	var n int64
	err = s.tx(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx,
			`DELETE FROM events WHERE (device, epoch, first) IN (SELECT device, epoch, first FROM events WHERE received < $1 ORDER BY `+
				`received LIMIT $2)`, ms(before), most)
		if err == nil {
			n, _ = r.RowsAffected()
		}
		return err
	})
	return n == most, err
}

// Reckon corrects what earlier versions called compliant: a device with a setting that cannot be verified there is
// unverified. Nodes of such a version may write it again while they run beside this one. It reads before it writes, and
// writes some at a time, so that a million devices do not wait for it.
func (s *Store) Reckon(ctx context.Context) error {
	const most = 500
	for {
		var list []any
		err := rows(ctx, s.read, func(r scanner) error {
			var device int64
			err := r.Scan(&device)
			list = append(list, device)
			return err
		},
			`SELECT device FROM reports WHERE rollup = 'compliant' AND standing IN (SELECT hash FROM standings WHERE body LIKE `+
				`'%"e":"unsupported"%') LIMIT $1`, most)
		if err != nil || len(list) == 0 {
			return err
		}
		in := s.values(1, len(list))
		if s.pg {
			in = strings.Replace(in, "($1", "(CAST($1 AS BIGINT)", 1)
		}
		if _, err := s.write.ExecContext(ctx, `UPDATE reports SET rollup = 'unverified' WHERE rollup = 'compliant' AND device IN `+in,
			list...); err != nil {
			return err
		}
	}
}

// reckon is the same at once, for a database that nobody uses yet.
func reckon(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx,
		`UPDATE reports SET rollup = 'unverified' WHERE device IN (SELECT device FROM reports WHERE rollup = 'compliant' AND standing IN
		(SELECT hash FROM standings WHERE body LIKE '%"e":"unsupported"%'))`)
	return err
}

// DropStandings deletes standings that no device has any more, once there are many. used are the hashes in use. One
// that is deleted too early is computed again from a device's own findings.
func (s *Store) DropStandings(ctx context.Context, used map[string]bool) error {
	const spare, most = 1000, 500
	var list []any
	if err := rows(ctx, s.read, func(r scanner) error {
		var hash string
		err := r.Scan(&hash)
		if !used[hash] {
			list = append(list, hash)
		}
		return err
	}, `SELECT hash FROM standings`); err != nil || len(list) <= spare {
		return err
	}
	s.mu.Lock()
	clear(s.standings)
	s.mu.Unlock()
	for part := range slices.Chunk(list, most) {
		if _, err := s.write.ExecContext(ctx, `DELETE FROM standings WHERE hash IN `+s.values(1, len(part)), part...); err != nil {
			return err
		}
	}
	return nil
}

// Tidy deletes what is only kept for a short time: answers to idempotency keys for a day, diagnostics for thirty days.
func (s *Store) Tidy(ctx context.Context, now time.Time) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM idempotency WHERE at < $1`, ms(now.Add(-24*time.Hour))); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM diagnostics WHERE at < $1`, ms(now.AddDate(0, 0, -30)))
		return err
	})
}
