package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
)

// VendorDocument is what a client of another vendor's console has written, as it wrote it.
type VendorDocument struct {
	Vendor, Kind string
	Number       int64  // of this kind; 0 for a new one, which gets the next
	Name         string // an id of the vendor's that is not a number, or ""
	Policy       string // of ours, which was made of it; "" for none
	Document     json.RawMessage
	// State is what the façade keeps beside the document, and Report what people should know of it.
	State, Report        json.RawMessage
	CreatedAt, UpdatedAt time.Time
	// Gone says that it was deleted. Its number is not given again.
	Gone bool
}

// VendorChange is what one call of such a client changes, all or nothing.
type VendorChange struct {
	Documents []*VendorDocument
	Policies  []VendorPolicy
	Detail    []string // for the audit log
}

// VendorPolicy is a policy that is made of a document, or given up.
type VendorPolicy struct {
	*fleet.Policy          // its version is the next one
	Changes       []string // what is different, for people
	Delete        bool
	Same          bool // the policy stays as it is, and at most its groups are others
	// Assignments are the groups that have the policy, instead of those that it has.
	Assignments []fleet.Assignment
}

const vendorColumns = `vendor, kind, number, name, policy, state, report, document, created_at, updated_at`

// gone is the document of what was deleted.
const gone = ""

func scanVendor(r scanner) (*VendorDocument, error) {
	var d VendorDocument
	var state, report, document string
	var created, updated int64
	err := r.Scan(&d.Vendor, &d.Kind, &d.Number, &d.Name, &d.Policy, &state, &report, &document, &created, &updated)
	d.State, d.Report, d.Document = json.RawMessage(state), json.RawMessage(report), json.RawMessage(document)
	d.CreatedAt, d.UpdatedAt = at(created), at(updated)
	return &d, err
}

// VendorDocuments are those of a vendor and a kind that are not gone, in order of their numbers.
func (s *Store) VendorDocuments(ctx context.Context, vendor, kind string) (out []*VendorDocument, err error) {
	err = rows(ctx, s.read, func(r scanner) error {
		d, err := scanVendor(r)
		out = append(out, d)
		return err
	}, `SELECT `+vendorColumns+` FROM vendor_documents WHERE vendor = $1 AND kind = $2 AND document <> '' ORDER BY number`, vendor, kind)
	return out, err
}

// VendorDocumentOf is one document by its number.
func (s *Store) VendorDocumentOf(ctx context.Context, vendor, kind string, number int64) (*VendorDocument, error) {
	return s.oneVendor(ctx, `vendor = $1 AND kind = $2 AND number = $3`, vendor, kind, number)
}

// VendorDocument is the one that a policy was made of.
func (s *Store) VendorDocument(ctx context.Context, policy string) (*VendorDocument, error) {
	return s.oneVendor(ctx, `policy = $1`, policy)
}

func (s *Store) oneVendor(ctx context.Context, where string, args ...any) (*VendorDocument, error) {
	d, err := scanVendor(s.read.QueryRowContext(ctx, `SELECT `+vendorColumns+` FROM vendor_documents WHERE document <> '' AND `+where+` ORDER BY number LIMIT 1`, args...))
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return d, err
}

// ChangeVendor runs f with the documents of a vendor, and writes what f returns: nobody else changes them in between. It may run f again,
// with what is there then. What is the same as before is not written.
func (s *Store) ChangeVendor(ctx context.Context, vendor, kind string, now time.Time, f func([]*VendorDocument) (*VendorChange, error)) error {
	s.vendors.Lock() // one connection waits for the others' and not all that devices have, too
	defer s.vendors.Unlock()
	var last int64
	err := s.tx(ctx, func(tx *sql.Tx) error {
		if err := s.lockVendors(ctx, tx); err != nil {
			return err
		}
		var have []*VendorDocument
		if err := rows(ctx, tx, func(r scanner) error {
			d, err := scanVendor(r)
			have = append(have, d)
			return err
		}, `SELECT `+vendorColumns+` FROM vendor_documents WHERE vendor = $1 AND kind = $2 ORDER BY number`, vendor, kind); err != nil {
			return err
		}
		next := int64(1)
		before := map[int64]VendorDocument{}
		for _, d := range have {
			before[d.Number], next = *d, d.Number+1
		}
		c, err := f(slices.DeleteFunc(have, func(d *VendorDocument) bool { return len(d.Document) == 0 }))
		if err != nil {
			return err
		}
		// What others lock, too, in one order: policies, the default, and the change sequence last.
		var lines []vendorLine
		if err := s.lockPolicies(ctx, tx, c.Policies); err != nil {
			return err
		}
		groups, err := s.groups(ctx, tx)
		if err != nil {
			return err
		}
		for i := range c.Policies {
			l, err := s.vendorPolicy(ctx, tx, now, &c.Policies[i])
			if err != nil {
				return err
			}
			lines = append(lines, l...)
		}
		if err := s.roomForGroups(ctx, tx, groups); err != nil {
			return err
		}
		for _, d := range c.Documents {
			if was, is := before[d.Number]; is && !d.Gone && was.same(d) {
				continue
			}
			l, err := s.putVendor(ctx, tx, now, d, &next)
			if err != nil {
				return err
			}
			l.detail = c.Detail
			lines = append(lines, l)
		}
		if len(lines) == 0 {
			return errNothing
		}
		for _, l := range lines {
			if last, err = s.next(ctx, tx); err != nil {
				return err
			}
			if err := s.log(ctx, tx, last, now, l.action, l.subject, l.detail); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	if err == nil {
		s.committed(last)
	}
	return err
}

// errNothing ends a change that changes nothing.
var errNothing = errors.New("nothing is changed")

// vendorLine is a line of the audit log to be written.
type vendorLine struct {
	action, subject string
	detail          []string
}

func (d *VendorDocument) same(o *VendorDocument) bool {
	return d.Name == o.Name && d.Policy == o.Policy && bytes.Equal(d.State, o.State) && bytes.Equal(d.Report, o.Report) && bytes.Equal(d.Document, o.Document)
}

// putVendor writes one document. A new one gets the next number.
func (s *Store) putVendor(ctx context.Context, tx *sql.Tx, now time.Time, d *VendorDocument, next *int64) (vendorLine, error) {
	number, created, document, policy, action := d.Number, d.CreatedAt, string(d.Document), d.Policy, "vendor.written"
	state, report := string(d.State), string(d.Report)
	if d.Gone { // with all that it said
		document, policy, action, state, report = gone, "", "vendor.deleted", "{}", "{}"
	}
	update := ` ON CONFLICT (vendor, kind, number) DO UPDATE SET name=excluded.name, policy=excluded.policy, state=excluded.state,
		report=excluded.report, document=excluded.document, updated_at=excluded.updated_at`
	if number == 0 {
		number, created, update = *next, now, ""
		*next++
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO vendor_documents (`+vendorColumns+`) VALUES `+s.values(1, 10)+update, d.Vendor, d.Kind, number, d.Name, policy,
		state, report, document, ms(created), ms(now))
	d.Number, d.CreatedAt, d.UpdatedAt = number, created, now
	return vendorLine{action: action, subject: d.Vendor + ":" + cmp.Or(d.Name, strconv.FormatInt(number, 10))}, err
}

// lockPolicies locks the policies of a change in the order of their ids, as every transaction does that locks several.
func (s *Store) lockPolicies(ctx context.Context, tx *sql.Tx, list []VendorPolicy) error {
	if !s.pg || len(list) == 0 {
		return nil
	}
	var ids []any
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return rows(ctx, tx, func(r scanner) error { var id string; return r.Scan(&id) },
		`SELECT id FROM policies WHERE id IN `+s.values(1, len(ids))+` ORDER BY id FOR UPDATE`, ids...)
}

// ours is how many assignments façades leave to administrators.
const ours = 100

// theirs are assignments that a façade has made: it replaces these, and no other ones.
const theirs = "vendor-"

// vendorPolicy writes one policy of a change, or removes it, and who has it; no line if both are as they were.
func (s *Store) vendorPolicy(ctx context.Context, tx *sql.Tx, now time.Time, p *VendorPolicy) ([]vendorLine, error) {
	same, err := s.sameTargets(ctx, tx, p)
	if err != nil || same && p.Same {
		return nil, err
	}
	if err := s.noRollout(ctx, tx, p.ID); err != nil {
		return nil, fmt.Errorf("%w (%q, made of %s)", err, p.Name, p.Source)
	}
	line := vendorLine{"policy.updated", p.ID, slices.Clone(p.Changes)}
	where := ` AND id LIKE '` + theirs + `%'`
	switch {
	case p.Delete:
		line.action, where = "policy.deleted", ""
		def, err := defaultID(ctx, tx, s.forUpdate())
		if err == nil && def == p.ID {
			err = fmt.Errorf("%w: %q, made of %s, is the default policy", ErrInUse, p.Name, p.Source)
		}
		if err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM policies WHERE id = $1`, p.ID); err != nil {
			return nil, err
		}
	case !p.Same:
		if p.Version == 1 {
			line.action = "policy.created"
		}
		if err := s.putPolicy(ctx, tx, p.Policy, p.Version-1, p.Changes); err != nil {
			if errors.Is(err, ErrInUse) {
				err = fmt.Errorf("%w (%q, made of %s)", err, p.Name, p.Source)
			}
			return nil, err
		}
	}
	if same && !p.Delete {
		return []vendorLine{line}, nil
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM assignments WHERE policy = $1`+where, p.ID); err != nil {
		return nil, err
	}
	if p.Delete {
		return []vendorLine{line}, nil
	}
	if len(p.Assignments) == 0 {
		line.detail = append(line.detail, "to nobody")
	}
	for _, a := range p.Assignments {
		line.detail = append(line.detail, fmt.Sprintf("to %s, priority %d", a.Target, a.Priority))
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO assignments (id, policy, platform, ownership, username, tag, priority, compliance, created_at, created_by) VALUES `+
				s.values(1, 10), theirs+strings.ToLower(rand.Text()[:16]), p.ID, a.Target.Platform, a.Target.Ownership, a.Target.User, a.Target.Tag, a.Priority,
			a.Compliance, ms(now), actorOf(ctx).By); err != nil {
			return nil, err
		}
	}
	return []vendorLine{line}, nil
}

// lockVendors makes a transaction the only one that changes documents; SQLite has one writer at a time anyway.
func (s *Store) lockVendors(ctx context.Context, tx *sql.Tx) error {
	if !s.pg {
		return nil
	}
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtext('vendor_documents'))`)
	return err
}

// groupCount is how many assignments there are.
type groupCount struct{ all, theirs int }

func (s *Store) groups(ctx context.Context, tx *sql.Tx) (g groupCount, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN id LIKE '`+theirs+`%' THEN 1 ELSE 0 END), 0) FROM assignments`).Scan(&g.all, &g.theirs)
	return g, err
}

// roomForGroups refuses a change after which there are more assignments than before, and too many.
func (s *Store) roomForGroups(ctx context.Context, tx *sql.Tx, before groupCount) error {
	g, err := s.groups(ctx, tx)
	if most := fleet.MaxAssignments - ours; err == nil && (g.theirs > max(most, before.theirs) || g.all > max(fleet.MaxAssignments, before.all)) {
		err = fmt.Errorf("%w: other consoles may have %d groups of devices, and there may be %d in all; there would be %d and %d", ErrInUse, most,
			fleet.MaxAssignments, g.theirs, g.all)
	}
	return err
}

// sameTargets reports whether the groups that a façade has given a policy are those that shall have it.
func (s *Store) sameTargets(ctx context.Context, tx *sql.Tx, p *VendorPolicy) (bool, error) {
	var have []fleet.Assignment
	err := rows(ctx, tx, func(r scanner) error {
		var a fleet.Assignment
		err := r.Scan(&a.Target.Platform, &a.Target.Ownership, &a.Target.User, &a.Target.Tag, &a.Priority, &a.Compliance)
		have = append(have, a)
		return err
	}, `SELECT platform, ownership, username, tag, priority, compliance FROM assignments WHERE policy = $1 AND id LIKE '`+theirs+`%'`, p.ID)
	if err != nil {
		return false, err
	}
	text := func(list []fleet.Assignment) (out []string) {
		for _, a := range list {
			out = append(out, fmt.Sprintf("%#v %d %s", a.Target, a.Priority, a.Compliance))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(text(have), text(p.Assignments)), nil
}

// Theirs reports whether an assignment is one that a façade has made.
func Theirs(assignment string) bool { return strings.HasPrefix(assignment, theirs) }
