package api

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
)

// Every list takes the same: page and page_size, or the cursor of an answer before; q, a text that is somewhere in
// what a person sees; sort, a field's name, with a minus before it for the other way round; and filters of its own.

// listView is a page of anything.
type listView[T any] struct {
	Data     []T    `json:"data"`
	Total    int    `json:"total"`
	Page     int    `json:"page,omitempty"`
	PageSize int    `json:"page_size,omitempty"`
	Next     string `json:"next,omitempty" doc:"the cursor that goes on after this answer; absent at the end"`
}

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
		{name: "cursor", doc: "go on where an answer ended: its next. Unlike page it stays right while the list changes", kind: "string", most: 2048},
	}
	textParam = param{name: "q", doc: "a text that is somewhere in it, in capitals or not", kind: "string"}
	since     = param{name: "since", doc: "from this time on", kind: "string", format: "date-time"}
	until     = param{name: "until", doc: "before this time", kind: "string", format: "date-time"}
)

// sortParam is the orders that a list knows.
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

// moment is a time parameter that parameters has checked; the zero time where it is absent.
func (q *request) moment(name string) time.Time {
	t, _ := time.Parse(time.RFC3339, q.params.Get(name))
	return t
}

// shelf is a list that fits into memory: policies, assignments, tokens.
type shelf[T any] struct {
	id     func(T) string
	text   func(T) string                     // what q looks in
	orders map[string]func(a, b T) int        // by what it can be sorted
	takes  func(q *request, x T) (ok bool)    // the list's own filters; nil takes all
	key    map[string]func(x T) (mark string) // of an order: the value that a cursor holds
}

// shelfMark is a place in such a list.
type shelfMark struct {
	Key string `json:"k,omitempty"`
	ID  string `json:"i"`
}

// cut gives the part of a list that a request asks for. all is in the list's own order.
func (s shelf[T]) cut(q *request, all []T) (out []T, total int, next string, err error) {
	part := strings.ToLower(q.params.Get("q"))
	var list []T
	for _, x := range all {
		if (part == "" || strings.Contains(strings.ToLower(s.text(x)), part)) && (s.takes == nil || s.takes(q, x)) {
			list = append(list, x)
		}
	}
	field, descending := q.order()
	if by := s.orders[field]; by != nil {
		slices.SortStableFunc(list, func(a, b T) int {
			c := cmp.Or(by(a, b), strings.Compare(s.id(a), s.id(b)))
			if descending {
				return -c
			}
			return c
		})
	}
	total = len(list)
	page, size := q.page()
	from := (page - 1) * size
	if text := q.params.Get("cursor"); text != "" {
		if from, err = s.after(text, list, field, descending); err != nil {
			return nil, 0, "", err
		}
	}
	from = min(from, total)
	out = list[from:min(from+size, total)]
	if from+len(out) < total && len(out) > 0 {
		next = s.mark(out[len(out)-1], field)
	}
	return out, total, next, nil
}

func (s shelf[T]) mark(x T, field string) string {
	m := shelfMark{ID: s.id(x)}
	if key := s.key[field]; key != nil {
		m.Key = key(x)
	}
	b, _ := json.Marshal(m)
	return base64.RawURLEncoding.EncodeToString(b)
}

// after finds where a list goes on. The one that was the last may be gone meanwhile: its place is found by what it was
// sorted by.
func (s shelf[T]) after(text string, list []T, field string, descending bool) (int, error) {
	var m shelfMark
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.ID == "" {
		return 0, invalid(policy.Errors{{Field: "?cursor", Message: "must be the next of an earlier answer", Received: short(text)}})
	}
	if i := slices.IndexFunc(list, func(x T) bool { return s.id(x) == m.ID }); i >= 0 {
		return i + 1, nil
	}
	key := s.key[field]
	if key == nil {
		return len(list), nil
	}
	i := slices.IndexFunc(list, func(x T) bool {
		c := cmp.Or(strings.Compare(key(x), m.Key), strings.Compare(s.id(x), m.ID))
		if descending {
			c = -c
		}
		return c > 0
	})
	if i < 0 {
		i = len(list)
	}
	return i, nil
}

// sortable is a time as a text that sorts like it.
func sortable(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }
