package api

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
)

// Every list takes the same parameters: page and page_size, or the cursor of an earlier answer; q, a text to find in
// what a person sees; sort, a field's name, with a minus before it for the reverse order; and filters of its own.

// listView is a page of anything.
type listView[T any] struct {
	Data     []T    `json:"data"`
	Total    int    `json:"total"`
	Page     int    `json:"page,omitempty"`
	PageSize int    `json:"page_size,omitempty"`
	Next     string `json:"next,omitempty" doc:"cursor for the next answer; absent at the end"`
}

// listOf makes a page of a list.
func listOf[T any](q *request, data []T, total int) listView[T] {
	page, size := q.page()
	if data == nil {
		data = []T{}
	}
	return listView[T]{Data: data, Total: total, Page: page, PageSize: size}
}

// Parameters of lists.
var (
	paging = []param{
		{name: "page", doc: "from 1", kind: "integer", def: 1, most: 1 << 30},
		{name: "page_size", doc: "at most 100", kind: "integer", def: 20, most: 100},
		{name: "cursor",
			doc: "continue an earlier answer: its next. Unlike page, it stays valid while the list changes (in a list sorted by " +
				"last_sync, devices that check in meanwhile may be repeated)", kind: "string", most: 2048},
	}
	textParam = param{name: "q", doc: "search text, ignoring case", kind: "string"}
	since     = param{name: "since", doc: "from this time on", kind: "string", format: "date-time"}
	until     = param{name: "until", doc: "before this time", kind: "string", format: "date-time"}
)

// sortParam lists the orders of a list.
func sortParam(fields ...string) param {
	p := param{name: "sort", doc: "the field to sort by; with - before it, descending", kind: "string"}
	for _, f := range fields {
		p.enum = append(p.enum, f, "-"+f)
	}
	return p
}

// order is the field that a request sorts by, "" for the list's own order.
func (q *request) order() (field string, descending bool) {
	s := q.params.Get("sort")
	return strings.TrimPrefix(s, "-"), strings.HasPrefix(s, "-")
}

// moment is a time parameter that parameters has checked; the zero time if it is absent.
func (q *request) moment(name string) time.Time {
	t, _ := time.Parse(time.RFC3339, q.params.Get(name))
	return t
}

// shelf is a list that fits into memory: policies, assignments, tokens.
type shelf[T any] struct {
	id   func(T) string
	text func(T) string // what q searches
	// orders return, for each sortable field (and "" for the list's own order), a text that sorts like the entry.
	// Entries with the same text are ordered by their ids.
	orders map[string]func(T) string
	takes  func(q *request, x T) (ok bool) // the list's own filters; nil accepts all
}

// shelfMark is a position in such a list: the sort text of the entry there. The entry itself may be gone, or no longer
// match the filters.
type shelfMark struct {
	Sort string `json:"s,omitempty"`
	Key  string `json:"k"`
	ID   string `json:"i"`
}

// cut returns the requested part of the list.
func (s shelf[T]) cut(q *request, all []T) (out []T, total int, next string, err error) {
	part := strings.ToLower(q.params.Get("q"))
	type entry struct {
		x T
		m shelfMark
	}
	field, descending := q.order()
	sort, key := q.params.Get("sort"), s.orders[field]
	var list []entry
	for _, x := range all {
		if (part == "" || strings.Contains(strings.ToLower(s.text(x)), part)) && (s.takes == nil || s.takes(q, x)) {
			list = append(list, entry{x, shelfMark{sort, key(x), s.id(x)}})
		}
	}
	compare := func(a, b shelfMark) int {
		c := cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.ID, b.ID))
		if descending {
			return -c
		}
		return c
	}
	slices.SortFunc(list, func(a, b entry) int { return compare(a.m, b.m) })
	total = len(list)
	page, size := q.page()
	from := min((page-1)*size, total)
	if text := q.params.Get("cursor"); text != "" {
		var m shelfMark
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil || m.ID == "" || m.Sort != sort {
			return nil, 0, "", badCursor(text)
		}
		from = slices.IndexFunc(list, func(e entry) bool { return compare(e.m, m) > 0 })
		if from < 0 {
			from = total
		}
	}
	for _, e := range list[from:min(from+size, total)] {
		out = append(out, e.x)
	}
	if end := from + len(out); end < total && len(out) > 0 {
		b, _ := json.Marshal(list[end-1].m)
		next = base64.RawURLEncoding.EncodeToString(b)
	}
	return out, total, next, nil
}

func badCursor(text string) error {
	return invalid(policy.Errors{{Field: "?cursor", Message: "must be the next of an earlier answer to the same question, with " +
		"the same sort", Received: short(text)}})
}

// sortable is a time as a text that sorts like it.
func sortable(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// newestFirst is a time as a text that sorts in reverse.
func newestFirst(t time.Time) string { return fmt.Sprintf("%020d", math.MaxInt64-t.UnixNano()) }
