package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Exception lets a subject pass on one device for a time.
type Exception struct {
	ID        string
	Device    int64
	Section   string
	Subject   string // as the section names it; the column is called usb
	Reason    string
	CreatedBy string
	CreatedAt time.Time
	Until     time.Time
	EndedAt   time.Time // ended before its time
	Offline   bool      // given as a code; the device redeems it by itself
}

// AddException grants one.
func (s *Store) AddException(ctx context.Context, device string, e Exception) error {
	detail := []string{fmt.Sprintf("%s: %s %s until %s: %s", e.ID, e.Section, e.Subject, e.Until.UTC().Format(time.RFC3339), e.Reason)}
	return s.change(ctx, e.CreatedAt, "exception.granted", device, detail, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO exceptions (id, device, section, usb, reason, created_by, created_at, until, offline) VALUES `+s.values(1, 9),
			e.ID, e.Device, e.Section, e.Subject, e.Reason, e.CreatedBy, ms(e.CreatedAt), ms(e.Until), bit(e.Offline))
		if err != nil || e.Offline {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE devices SET excepted = CASE WHEN excepted > $1 THEN excepted ELSE $1 END WHERE n = $2`,
			ms(e.Until), e.Device)
		return err
	})
}

// EndException ends one before its time.
func (s *Store) EndException(ctx context.Context, device string, n int64, id string, now time.Time) error {
	return s.change(ctx, now, "exception.ended", device, []string{id}, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE exceptions SET ended_at = $1 WHERE id = $2 AND device = $3 AND ended_at = 0 AND offline = 0`,
			ms(now), id, n))
	})
}

// Exceptions returns a device's, newest first; with current only the current ones that the server sends.
func (s *Store) Exceptions(ctx context.Context, device int64, current bool, now time.Time) (out []Exception, err error) {
	where := ``
	args := []any{device}
	if current {
		where, args = ` AND until > $2 AND ended_at = 0 AND offline = 0`, append(args, ms(now))
	}
	err = rows(ctx, s.device, func(r scanner) error {
		var e Exception
		var created, until, ended int64
		err := r.Scan(&e.ID, &e.Section, &e.Subject, &e.Reason, &e.CreatedBy, &created, &until, &ended, &e.Offline)
		e.Device, e.CreatedAt, e.Until, e.EndedAt = device, at(created), at(until), at(ended)
		out = append(out, e)
		return err
	}, `SELECT id, section, usb, reason, created_by, created_at, until, ended_at, offline FROM exceptions WHERE device = $1`+where+
		` ORDER BY created_at DESC, id LIMIT 200`, args...)
	return out, err
}

// Diagnose asks a device for a bundle.
func (s *Store) Diagnose(ctx context.Context, device string, now time.Time) error {
	return s.change(ctx, now, "diagnostics.requested", device, nil, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE devices SET diagnose = $1 WHERE id = $2 AND state = 'enrolled'`, ms(now), device))
	})
}

// Bundle is one diagnostics upload.
type Bundle struct {
	ID   string
	At   time.Time
	Size int
}

// keepBundles is how many of a device are kept: the newest.
const keepBundles = 3

// PutBundle stores what a device was asked for; ErrNotFound if it was not asked.
func (s *Store) PutBundle(ctx context.Context, name string, device int64, id string, body []byte, now time.Time) error {
	return s.change(ctx, now, "diagnostics.received", name, []string{fmt.Sprintf("%s: %d bytes", id, len(body))}, func(tx *sql.Tx) error {
		if err := one(tx.ExecContext(ctx, `UPDATE devices SET diagnose = 0 WHERE n = $1 AND diagnose > 0`, device)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO diagnostics (id, device, at, size, body) VALUES ($1,$2,$3,$4,$5)`, id, device,
			ms(now), len(body), body); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx,
			`DELETE FROM diagnostics WHERE device = $1 AND id NOT IN (SELECT id FROM diagnostics WHERE device = $1 ORDER BY at DESC, `+
				`id LIMIT $2)`, device, keepBundles)
		return err
	})
}

// Bundles lists a device's, newest first.
func (s *Store) Bundles(ctx context.Context, device int64) (out []Bundle, err error) {
	err = rows(ctx, s.read, func(r scanner) error {
		var b Bundle
		var when int64
		err := r.Scan(&b.ID, &when, &b.Size)
		b.At = at(when)
		out = append(out, b)
		return err
	}, `SELECT id, at, size FROM diagnostics WHERE device = $1 ORDER BY at DESC, id`, device)
	return out, err
}

// Bundle returns one.
func (s *Store) Bundle(ctx context.Context, device int64, id string) (body []byte, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT body FROM diagnostics WHERE device = $1 AND id = $2`, device, id).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return body, err
}
