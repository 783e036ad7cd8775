package roster

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"unicode/utf8"
	"unique"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/server/fleet"
)

// Filter chooses devices. What is empty takes all.
type Filter struct {
	Policy string       // that they are to hold
	Any    []string     // one of these policies; nil takes all
	Target fleet.Target // a group
	Rollup string       // how they stand now: compliant, unverified, noncompliant, unknown
	State  string       // "" for all but the retired
	Status string       // online, offline
	Name   string       // begins so, whatever its case
	Text   string       // is somewhere in the name, the id, the user or the tags, whatever its case
	Clock
}

// Clock says what counts as heard of, in ms.
type Clock struct {
	Now    int64
	Most   int64 // what counts for longer than that was said under a clock that was set back since
	Online int64 // who was heard of since then is online
}

// stands is how a device stands now: what it last said, for as long as that counts.
func (e *entry) stands(c Clock) string {
	switch {
	case e.ended:
		return string(enforce.Uncertain)
	case e.rollup == nothing:
		return ""
	case !e.current(c):
		return string(enforce.Uncertain)
	}
	return e.rollup.Value()
}

func (e *entry) current(c Clock) bool {
	return e.connected || e.fresh >= c.Now && e.fresh <= c.Most
}

func (e *entry) online(c Clock) bool {
	return e.connected || e.at > 0 && e.at > c.Online && e.at <= c.Now+clockStep && !e.ended
}

func (f *Filter) takes(e *entry) bool {
	if f.State == "" && e.state == retired || f.State != "" && e.state.Value() != f.State {
		return false
	}
	if f.Policy != "" && e.effective.Value() != f.Policy {
		return false
	}
	if f.Any != nil && !slices.Contains(f.Any, e.effective.Value()) {
		return false
	}
	t := &f.Target
	if t.Platform != "" && e.os.Value() != t.Platform || t.Ownership != "" && t.Ownership != "ANY" && e.ownership.Value() != t.Ownership ||
		t.User != "" && e.user.Value() != t.User || t.Tag != "" && !strings.Contains(e.tags.Value(), ","+t.Tag+",") {
		return false
	}
	if f.Rollup != "" && e.stands(f.Clock) != f.Rollup || f.Status != "" && e.online(f.Clock) != (f.Status == "online") {
		return false
	}
	if f.Name != "" && (len(e.name) < len(f.Name) || !strings.EqualFold(prefix(e.name, f.Name), f.Name)) {
		return false
	}
	return f.Text == "" || holds(e.name, f.Text) || holds(e.id, f.Text) || holds(e.user.Value(), f.Text) || holds(e.tags.Value(), f.Text)
}

// prefix is as much of s as the other has characters.
func prefix(s, other string) string {
	end := 0
	for range utf8.RuneCountInString(other) {
		_, n := utf8.DecodeRuneInString(s[end:])
		end += n
	}
	return s[:end]
}

// holds is strings.Contains whatever the case, without making a copy of each name.
func holds(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if c, d := s[i]|0x20, part[0]|0x20; c == d || s[i] >= 0x80 {
			if strings.EqualFold(prefix(s[i:], part), part) {
				return true
			}
		}
	}
	return len(part) > len(s) && part[0] >= 0x80 && strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// Orders of a list; "" is that of enrolment.
const (
	ByName     = "name"
	ByLastSync = "last_sync"
	ByEnrolled = "enrolled_at"
)

// Page chooses a part of a list.
type Page struct {
	Sort       string // one of the orders
	Descending bool
	After      *Mark // begin after that device
	Skip, Size int
}

// Mark is a place in a list: the value that it is sorted by, and the device's number, which is one of its own. A list
// that is read on from a mark has every device once, whatever changes meanwhile but what it is sorted by.
type Mark struct {
	Text string `json:"t,omitempty"`
	Int  int64  `json:"i,omitempty"`
	N    int64  `json:"n"`
	Sort string `json:"s,omitempty"` // the order that it is a place in, for whoever keeps it
}

func (p *Page) mark(e *entry) Mark {
	switch p.Sort {
	case ByName:
		return Mark{Text: e.name, N: e.n}
	case ByLastSync:
		return Mark{Int: e.at, N: e.n}
	case ByEnrolled:
		return Mark{Int: e.enrolled, N: e.n}
	}
	return Mark{N: e.n}
}

// before reports whether a stands before b.
func (p *Page) before(a, b Mark) bool {
	c := fold(a.Text, b.Text)
	if c == 0 {
		c = cmp.Or(cmp.Compare(a.Text, b.Text), cmp.Compare(a.Int, b.Int), cmp.Compare(a.N, b.N))
	}
	if p.Descending {
		return c > 0
	}
	return c < 0
}

// fold compares as people sort names: A and a stand together.
func fold(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if c, d := lower(a[i]), lower(b[i]); c != d {
			return cmp.Compare(c, d)
		}
	}
	return cmp.Compare(len(a), len(b))
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// marks are the first of a list that were found so far, the last of them on top.
type marks struct {
	list []Mark
	page *Page
}

func (m *marks) Len() int           { return len(m.list) }
func (m *marks) Less(i, j int) bool { return m.page.before(m.list[j], m.list[i]) }
func (m *marks) Swap(i, j int)      { m.list[i], m.list[j] = m.list[j], m.list[i] }
func (m *marks) Push(x any)         { m.list = append(m.list, x.(Mark)) }
func (m *marks) Pop() any {
	x := m.list[len(m.list)-1]
	m.list = m.list[:len(m.list)-1]
	return x
}

// List gives the places of a part of the devices that a filter takes, in order, and how many it takes in all.
func (r *Roster) List(f Filter, p Page) (out []Mark, total int) {
	first := marks{page: &p}
	most := p.Skip + p.Size
	plain := p.Sort == "" && !p.Descending // they come in this order
	late := !plain && most > 2000          // of a late page all are sorted: that is quicker than to keep the first so many
	r.each(0, false, func(e *entry) bool {
		if !f.takes(e) {
			return true
		}
		total++
		m := p.mark(e)
		switch {
		case p.After != nil && !p.before(*p.After, m):
		case len(first.list) < most || late:
			if plain || late {
				first.list = append(first.list, m)
			} else {
				heap.Push(&first, m)
			}
		case !plain && most > 0 && p.before(m, first.list[0]):
			first.list[0] = m
			heap.Fix(&first, 0)
		}
		return true
	})
	out = first.list
	if !plain {
		slices.SortFunc(out, func(a, b Mark) int {
			if p.before(a, b) {
				return -1
			}
			return 1
		})
	}
	out = out[:min(most, len(out))]
	return out[min(p.Skip, len(out)):], total
}

// Numbers gives the numbers of the devices that a filter takes, from one on, at most so many.
func (r *Roster) Numbers(f Filter, from int64, most int) (out []int64) {
	r.each(from, false, func(e *entry) bool {
		if f.takes(e) {
			out = append(out, e.n)
		}
		return len(out) < most
	})
	return out
}

// Device is what decides about one device's policy.
func (e *entry) device() fleet.Device {
	d := fleet.Device{ID: e.id, OS: e.os.Value(), Ownership: e.ownership.Value(), User: e.user.Value(), Policy: e.own.Value(), Priority: int(e.priority), Compliance: e.mode.Value(),
		Held: fleet.Variant{Policy: e.held.Value(), Version: int(e.version)}}
	if t := strings.Trim(e.tags.Value(), ","); t != "" {
		d.Tags = strings.Split(t, ",")
	}
	return d
}

// Count counts the devices that a filter takes and that f agrees to; nil agrees to all.
func (r *Roster) Count(f Filter, agree func(*fleet.Device) bool) (n int) {
	r.each(0, false, func(e *entry) bool {
		if f.takes(e) {
			if agree == nil {
				n++
			} else if d := e.device(); agree(&d) {
				n++
			}
		}
		return true
	})
	return n
}

// Sum is how many devices that hold a policy stand alike.
type Sum struct {
	Policy, Hash, Rollup string
	Old                  bool // what they said counts no more
	Devices              int
}

// Standings sums up how the enrolled devices stand that hold a policy, "" for any.
func (r *Roster) Standings(policy string, c Clock) []Sum {
	type key struct {
		held, hash, rollup text
		old                bool
	}
	sums := map[key]int{}
	var last key // most neighbours are alike
	n := 0
	r.each(0, false, func(e *entry) bool {
		if e.state != enrolled || e.held == nothing || e.rollup == nothing || policy != "" && e.held.Value() != policy {
			return true
		}
		k := key{e.held, e.hash, e.rollup, e.ended || !e.current(c)}
		if k == last {
			n++
			return true
		}
		sums[last] += n
		last, n = k, 1
		return true
	})
	sums[last] += n
	out := make([]Sum, 0, len(sums))
	for k, n := range sums {
		if n > 0 {
			out = append(out, Sum{k.held.Value(), k.hash.Value(), k.rollup.Value(), k.old, n})
		}
	}
	return out
}

// Hashes are those of what findings say that a device stands by.
func (r *Roster) Hashes() map[string]bool {
	seen := map[text]bool{}
	r.each(0, false, func(e *entry) bool { seen[e.hash] = true; return true })
	out := make(map[string]bool, len(seen))
	for h := range seen {
		out[h.Value()] = true
	}
	return out
}

// First gives a device that stands so.
func (r *Roster) First(hash string) (n int64, ok bool) {
	h := unique.Make(hash)
	r.each(0, false, func(e *entry) bool {
		if e.hash == h {
			n, ok = e.n, true
		}
		return !ok
	})
	return n, ok
}
