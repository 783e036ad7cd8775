package store

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// tables is what a dump contains, in the order in which it is read back.
var tables = []string{"meta", "changes", "policies", "versions", "assignments", "rollouts", "devices", "rollout_devices", "seen", "reports",
	"standings",
	"epochs", "events", "enrollments", "exceptions", "diagnostics", "lists", "list_versions", "list_parts", "vendor_documents"}

// line is one row of a dump. The first line of a table has its columns and no row.
type line struct {
	Table   string   `json:"t,omitempty"`
	Columns []string `json:"c,omitempty"`
	Row     []any    `json:"r,omitempty"`
}

// Dump writes the whole database, as of one moment, while others go on writing: JSON, one row per line, the same from
// SQLite and from PostgreSQL.
func (s *Store) Dump(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(out)
	err := s.snapshot(ctx, func(tx *sql.Tx) error {
		for _, t := range tables {
			if err := dumpTable(ctx, tx, t, enc); err != nil {
				return fmt.Errorf("table %s: %w", t, err)
			}
		}
		return nil
	})
	return errors.Join(err, out.Flush())
}

// dumpTable writes one table.
func dumpTable(ctx context.Context, tx *sql.Tx, table string, enc *json.Encoder) error {
	r, err := tx.QueryContext(ctx, `SELECT * FROM `+table)
	if err != nil {
		return err
	}
	defer r.Close()
	columns, err := r.Columns()
	if err != nil {
		return err
	}
	// A transaction's number means nothing in another database.
	local := slices.Index(columns, "changed")
	without := func(i int) bool { return i == local && table == "reports" }
	if err := enc.Encode(line{Table: table, Columns: kept(columns, without)}); err != nil {
		return err
	}
	row, to := make([]any, len(columns)), make([]any, len(columns))
	for i := range row {
		to[i] = &row[i]
	}
	for r.Next() {
		if err := r.Scan(to...); err != nil {
			return err
		}
		for i, v := range row {
			if b, ok := v.([]byte); ok {
				row[i] = map[string][]byte{"b": b}
			}
		}
		if err := enc.Encode(line{Row: kept(row, without)}); err != nil {
			return err
		}
	}
	return r.Err()
}

// kept is a list without some of its entries.
func kept[T any](list []T, without func(int) bool) []T {
	out := make([]T, 0, len(list))
	for i, v := range list {
		if !without(i) {
			out = append(out, v)
		}
	}
	return out
}

// Load reads a dump into an empty database, all or nothing.
func (s *Store) Load(ctx context.Context, in io.Reader) error {
	dec := json.NewDecoder(bufio.NewReaderSize(in, 1<<16))
	dec.UseNumber()
	return s.once(ctx, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx,
			`SELECT (SELECT count(*) FROM policies) + (SELECT count(*) FROM devices) + (SELECT count(*) FROM changes)`).Scan(
			&n); err != nil {
			return err
		}
		if n > 0 {
			return errors.New("the database is not empty: a backup is restored into a new one")
		}
		var table string
		var columns []string
		var batch []any
		size := 0
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES `+
				s.values(len(batch)/len(columns), len(columns)), batch...)
			batch, size = batch[:0], 0
			if err != nil {
				err = fmt.Errorf("table %s: %w", table, err)
			}
			return err
		}
		for {
			var l line
			err := dec.Decode(&l)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("the backup cannot be read: %w", err)
			}
			if l.Table != "" {
				if err := flush(); err != nil {
					return err
				}
				if table, columns, err = known(l); err != nil {
					return err
				}
				continue
			}
			if table == "" || len(l.Row) != len(columns) {
				return errors.New("the backup is damaged: a row that does not fit its table")
			}
			for _, v := range l.Row {
				p := plain(v)
				switch x := p.(type) {
				case string:
					size += len(x)
				case []byte:
					size += len(x)
				}
				batch = append(batch, p)
			}
			if len(batch) > 5000 || size > 4<<20 {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
		if err := reckon(ctx, tx); err != nil { // perhaps of an earlier version
			return err
		}
		if s.pg {
			_, err := tx.ExecContext(ctx,
				`SELECT setval(pg_get_serial_sequence('devices', 'n'), (SELECT coalesce(max(n), 0) + 1 FROM devices), false)`)
			return err
		}
		return nil
	})
}

// known only lets names from a backup into SQL that are names of ours.
func known(l line) (string, []string, error) {
	ours := false
	for _, t := range tables {
		ours = ours || t == l.Table
	}
	for _, c := range l.Columns {
		ours = ours && strings.Trim(c, "abcdefghijklmnopqrstuvwxyz_") == "" && c != ""
	}
	if !ours || len(l.Columns) == 0 {
		return "", nil, fmt.Errorf("the backup has a table %q that this version does not know", l.Table)
	}
	return l.Table, l.Columns, nil
}

// plain is a column's value in a form that both databases read back.
func plain(v any) any {
	switch x := v.(type) {
	case json.Number:
		n, err := x.Int64()
		if err != nil {
			return x.String()
		}
		return n
	case map[string]any:
		var b []byte
		if raw, err := json.Marshal(x["b"]); err == nil {
			_ = json.Unmarshal(raw, &b)
		}
		return b
	}
	return v
}
