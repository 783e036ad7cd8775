package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Enrollment is a token by which devices enroll; the token itself is not stored.
type Enrollment struct {
	ID, Note        string
	Uses, Used      int
	Expires         time.Time
	Ownership, User string // of the devices that enroll with it; "" for what they say
	Tags            []string
	Policy          string // their own; "" for what their groups say
	CreatedAt       time.Time
	CreatedBy       string
	RevokedAt       time.Time
}

// AddEnrollment stores a token by its hash alone.
func (s *Store) AddEnrollment(ctx context.Context, token string, e Enrollment) error {
	detail := []string{fmt.Sprintf("%d uses until %s", e.Uses, e.Expires.UTC().Format(time.RFC3339))}
	return s.change(ctx, e.CreatedAt, "enrollment.created", e.ID, detail, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO enrollments (id, hash, uses, used, expires, note, ownership, username, tags, policy, created_at, created_by)
			VALUES ($1,$2,$3,0,$4,$5,$6,$7,$8,nullif($9,''),$10,$11)`, e.ID, Hash(token), e.Uses, ms(e.Expires), e.Note, e.Ownership,
			e.User, joinTags(e.Tags),
			e.Policy, ms(e.CreatedAt), e.CreatedBy)
		return err
	})
}

// Enrollments returns all of them, newest first.
func (s *Store) Enrollments(ctx context.Context) (out []Enrollment, err error) {
	err = rows(ctx, s.read, func(r scanner) error {
		var e Enrollment
		var expires, created, revoked int64
		var tags string
		err := r.Scan(&e.ID, &e.Note, &e.Uses, &e.Used, &expires, &e.Ownership, &e.User, &tags, &e.Policy, &created, &e.CreatedBy, &revoked)
		e.Expires, e.CreatedAt, e.RevokedAt, e.Tags = at(expires), at(created), at(revoked), splitTags(tags)
		out = append(out, e)
		return err
	},
		`SELECT id, note, uses, used, expires, ownership, username, tags, coalesce(policy, ''), created_at, created_by, revoked_at FROM enrollments
		ORDER BY created_at DESC, id`)
	return out, err
}

// RevokeEnrollment ends a token.
func (s *Store) RevokeEnrollment(ctx context.Context, id string, now time.Time) error {
	return s.change(ctx, now, "enrollment.revoked", id, nil, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE enrollments SET revoked_at = $1 WHERE id = $2 AND revoked_at = 0`, ms(now), id))
	})
}

// maxUsable bounds how many tokens a node knows; for others it asks the database.
const maxUsable = 10_000

// Usable returns the hashes of the usable tokens.
func (s *Store) Usable(ctx context.Context, now time.Time) (map[string]bool, error) {
	out := map[string]bool{}
	err := rows(ctx, s.device, func(r scanner) error {
		var h string
		err := r.Scan(&h)
		out[h] = true
		return err
	}, `SELECT hash FROM enrollments WHERE revoked_at = 0 AND used < uses AND expires > $1 ORDER BY created_at DESC LIMIT $2`,
		ms(now), maxUsable)
	return out, err
}
