package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Actor is who changes something, and by which request. It is passed in the context.
type Actor struct {
	By      string
	Request string
	Key     string // idempotency key; "" for none
	Body    string // what the key was used for: method, path and a hash of the body
}

type actorKey struct{}

// WithActor sets the actor in a context.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// actorOf is the actor in a context; the server itself if there is none.
func actorOf(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{By: "warder-server"}
}

// Change is one line of the audit log; its number is of the one change sequence.
type Change struct {
	Sequence int64
	At       time.Time
	By       string
	Action   string // "policy.updated"
	Subject  string // "policy-…"
	Detail   []string
	Request  string
}

// channel is where PostgreSQL notifies the other nodes.
const channel = "warder_changes"

// change runs f, takes the next number of the change sequence for it, and writes the audit line, all or nothing.
// Numbers are committed in order: the row with the last number stays locked until then.
func (s *Store) change(ctx context.Context, now time.Time, action, subject string, detail []string, f func(*sql.Tx) error) error {
	var seq int64
	err := s.tx(ctx, func(tx *sql.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		var err error
		if seq, err = s.next(ctx, tx); err != nil {
			return err
		}
		return s.log(ctx, tx, seq, now, action, subject, detail)
	})
	if err == nil {
		s.committed(seq)
	}
	return err
}

// log writes a line of the audit log.
func (s *Store) log(ctx context.Context, tx *sql.Tx, seq int64, now time.Time, action, subject string, detail []string) error {
	who := actorOf(ctx)
	if detail == nil {
		detail = []string{}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO changes (seq, at, actor, action, subject, detail, request) VALUES ($1,$2,$3,$4,$5,$6,$7)`,
		seq, ms(now), who.By, action, subject, encode(detail), who.Request)
	if err != nil {
		return err
	}
	if who.Key != "" {
		r, err := tx.ExecContext(ctx,
			`INSERT INTO idempotency (actor, key, request, at, seq) VALUES ($1,$2,$3,$4,$5) ON CONFLICT DO NOTHING`, who.By, who.Key,
			who.Body, ms(now), seq)
		if err != nil {
			return err
		}
		if n, _ := r.RowsAffected(); n == 0 {
			return ErrReused // two at once: the other one did it
		}
	}
	if s.pg {
		_, err = tx.ExecContext(ctx, `SELECT pg_notify($1, '')`, channel)
	}
	return err
}

// next takes the next number of the change sequence. No number from outside ever raises it.
func (s *Store) next(ctx context.Context, tx *sql.Tx) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO meta (name, value) VALUES ('sequence', '1') ON CONFLICT (name) DO UPDATE SET
		value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT) RETURNING CAST(value AS BIGINT)`).Scan(&n)
	return n, err
}

// committed records the number of a committed change, and wakes Watch.
func (s *Store) committed(seq int64) {
	for {
		old := s.last.Load()
		if seq <= old || s.last.CompareAndSwap(old, seq) {
			break
		}
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Last is the number of the last change that this process has made.
func (s *Store) Last() int64 { return s.last.Load() }

// Shared reports whether other nodes may write to the same database.
func (s *Store) Shared() bool { return s.pg }

// Note writes a line of the audit log for a change outside the database.
func (s *Store) Note(ctx context.Context, action, subject string, detail []string, now time.Time) error {
	return s.change(ctx, now, action, subject, detail, func(*sql.Tx) error { return nil })
}

// Changes returns up to n lines of the audit log after a number, oldest first.
func (s *Store) Changes(ctx context.Context, after int64, n int) (out []Change, err error) {
	err = rows(ctx, s.device, func(r scanner) error { return scanChange(r, &out) },
		`SELECT seq, at, actor, action, subject, detail, request FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2`, after, n)
	return out, err
}

// AuditFilter selects lines of the audit log. An empty field matches all.
type AuditFilter struct {
	Subject, Actor string
	Action         string    // "policy.updated", or the prefix "policy."
	Text           string    // part of the subject, the actor, the action or the details, ignoring case
	Since, Until   time.Time // the latter excluded
	Before         int64     // only lower numbers; 0 for all
}

// where is the filter as SQL and its arguments.
func (f AuditFilter) where() (string, []any) {
	conds, args := []string{"1 = 1"}, []any(nil)
	add := func(cond string, v ...any) {
		for _, x := range v {
			args = append(args, x)
			cond = strings.Replace(cond, "?", "$"+itoa(len(args)), 1)
		}
		conds = append(conds, cond)
	}
	if f.Subject != "" {
		add("subject = ?", f.Subject)
	}
	if f.Actor != "" {
		add("actor = ?", f.Actor)
	}
	if strings.HasSuffix(f.Action, ".") {
		add("substr(action, 1, length(CAST(? AS TEXT))) = ?", f.Action, f.Action)
	} else if f.Action != "" {
		add("action = ?", f.Action)
	}
	if !f.Since.IsZero() {
		add("at >= ?", ms(f.Since))
	}
	if !f.Until.IsZero() {
		add("at < ?", ms(f.Until))
	}
	if f.Before > 0 {
		add("seq < ?", f.Before)
	}
	return strings.Join(conds, " AND "), args
}

// contains reports whether what people read of a line contains a text, ignoring case.
func (c *Change) contains(part string) bool {
	for _, s := range append([]string{c.Subject, c.By, c.Action}, c.Detail...) {
		if strings.Contains(strings.ToLower(s), part) {
			return true
		}
	}
	return false
}

// maxAudited bounds the lines that are searched for a text.
const maxAudited = 200_000

// search looks for a text in the audit log: in Go and not in SQL, because details are JSON, and SQLite only folds the
// case of A to Z.
func (s *Store) search(ctx context.Context, f AuditFilter, skip, size int) (out []Change, total int, err error) {
	all := f
	all.Before = 0
	where, args := all.where()
	part := strings.ToLower(f.Text)
	r, err := s.read.QueryContext(ctx, `SELECT seq, at, actor, action, subject, detail, request FROM changes WHERE `+where+
		` ORDER BY seq DESC LIMIT $`+itoa(len(args)+1), append(args, maxAudited)...)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	var one []Change
	for r.Next() {
		one = one[:0]
		if err := scanChange(r, &one); err != nil {
			return nil, 0, err
		}
		c := one[0]
		if !c.contains(part) {
			continue
		}
		total++
		if f.Before > 0 && c.Sequence >= f.Before {
			continue
		}
		if skip > 0 {
			skip--
		} else if len(out) < size {
			out = append(out, c)
		}
	}
	return out, total, r.Err()
}

// Audit returns a part of the audit log, newest first, and how many lines match a filter.
func (s *Store) Audit(ctx context.Context, f AuditFilter, skip, size int) (out []Change, total int, err error) {
	if f.Text != "" {
		return s.search(ctx, f, skip, size)
	}
	all := f
	all.Before = 0
	where, args := all.where()
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM changes WHERE `+where, args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	where, args = f.where()
	n := len(args)
	err = rows(ctx, s.read, func(r scanner) error { return scanChange(r, &out) },
		`SELECT seq, at, actor, action, subject, detail, request FROM changes WHERE `+where+` ORDER BY seq DESC LIMIT $`+itoa(n+1)+
			` OFFSET $`+itoa(n+2), append(args, size, skip)...)
	return out, total, err
}

// scanChange reads one row of changes.
func scanChange(r scanner, out *[]Change) error {
	var c Change
	var when int64
	var detail string
	if err := r.Scan(&c.Sequence, &when, &c.By, &c.Action, &c.Subject, &detail, &c.Request); err != nil {
		return err
	}
	c.At = at(when)
	*out = append(*out, c)
	return json.Unmarshal([]byte(detail), &(*out)[len(*out)-1].Detail)
}

// Watch calls f after changes, this process's and others', until ctx ends: at once for its own and for what PostgreSQL
// notifies, and every poll for what was missed.
func (s *Store) Watch(ctx context.Context, poll time.Duration, f func(context.Context)) {
	notified := make(chan struct{}, 1)
	if s.pg {
		var listening sync.WaitGroup
		listening.Go(func() { s.listen(ctx, notified) })
		defer listening.Wait()
	}
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-notified:
		case <-t.C:
		}
		f(ctx)
	}
}

// listen waits for notifications on a connection of its own, and connects again when that is lost.
func (s *Store) listen(ctx context.Context, notified chan<- struct{}) {
	for ctx.Err() == nil {
		_ = s.listening(ctx, notified) // the poll finds what is missed meanwhile
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// listening waits for notifications until the connection is lost.
func (s *Store) listening(ctx context.Context, notified chan<- struct{}) error {
	c, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	for {
		select {
		case notified <- struct{}{}:
		default:
		}
		if _, err := c.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

// Replay is what an idempotency key was answered with.
type Replay struct {
	Request  string
	Status   int // 0: carried out, but the answer was lost
	Response string
	Sequence int64
	At       time.Time
}

// Replay looks up an idempotency key.
func (s *Store) Replay(ctx context.Context, actor, key string) (r Replay, err error) {
	var when int64
	err = s.read.QueryRowContext(ctx, `SELECT request, status, response, seq, at FROM idempotency WHERE actor = $1 AND key = $2`,
		actor, key).
		Scan(&r.Request, &r.Status, &r.Response, &r.Sequence, &when)
	r.At = at(when)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return r, err
}

// Answered stores the answer for a key.
func (s *Store) Answered(ctx context.Context, actor, key string, status int, response string) error {
	_, err := s.write.ExecContext(ctx, `UPDATE idempotency SET status = $1, response = $2 WHERE actor = $3 AND key = $4`, status, response,
		actor, key)
	return err
}
