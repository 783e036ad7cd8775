package roster

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"unicode/utf8"
	"unique"

	"github.com/warderd/warder/sync/server/fleet"
)

// Filter selects devices. An empty field matches all.
type Filter struct {
	Policy string       // the policy that they should have
	Any    []string     // one of these policies; nil matches all
	Target fleet.Target // a group
	Rollup string       // present state: compliant, unverified, noncompliant, unknown
	State  string       // "" for all but the retired
	Status string       // online, offline
	Name   string       // prefix, ignoring case
	Text   string       // part of the name, the id, the user or the tags, ignoring case
	Clock
}

// Clock says which times count as current, in ms.
type Clock struct {
	Now    int64
	Most   int64 // a time that counts for longer was written under a clock that has been set back since
	Online int64 // devices heard of since then are online
}

// chosen is a filter in the form in which it is applied: texts that many devices share are compared by their handles.
type chosen struct {
	*Filter
	state, policy, platform, ownership, user, rollup text
	any                                              []text
	tag                                              string
	tagged                                           map[text]bool // tags that were compared
	sets                                             [256]bool     // of a chunk's sets of tags, which match
	head, mask                                       uint64        // of the name's prefix
	narrow                                           bool          // it asks for more than a group knows
}

// compile prepares a filter for many comparisons.
func (f *Filter) compile() *chosen {
	make := func(s string) text {
		if s == "" {
			return nothing
		}
		return unique.Make(s)
	}
	t := &f.Target
	c := &chosen{Filter: f, state: make(f.State), policy: make(f.Policy), platform: make(t.Platform), user: make(t.User),
		rollup: make(f.Rollup), ownership: nothing}
	if t.Ownership != "ANY" {
		c.ownership = make(t.Ownership)
	}
	if f.Any != nil {
		c.any = []text{}
		for _, p := range f.Any {
			c.any = append(c.any, unique.Make(p))
		}
	}
	if t.Tag != "" {
		c.tag, c.tagged = ","+t.Tag+",", map[text]bool{}
	}
	if c.head, c.mask = head(f.Name); c.head == odd { // as far as it is ASCII
		c.head, c.mask = head(f.Name[:strings.IndexFunc(f.Name, func(r rune) bool { return r >= 0x80 })])
	}
	c.narrow = c.platform != nothing || c.ownership != nothing || c.user != nothing || c.tag != "" || f.Name != "" || f.Text != ""
	return c
}

// group reports whether devices of a group may match: those of them that rest accepts.
func (f *chosen) group(g *group) bool {
	if f.state == nothing && g.state == retired || f.state != nothing && g.state != f.state {
		return false
	}
	if f.policy != nothing && g.effective != f.policy || f.any != nil && !slices.Contains(f.any, g.effective) {
		return false
	}
	return (f.rollup == nothing || g.stands() == f.rollup) && (f.Status == "" || g.online == (f.Status == "online"))
}

// takes reports whether a filter matches a device at a moment.
func (f *chosen) takes(e *entry, at Clock) bool {
	g := e.group(at)
	return f.group(&g) && (!f.narrow || f.rest(e))
}

// rest checks what a group does not know: tags, name and text.
func (f *chosen) rest(e *entry) bool {
	if f.platform != nothing && e.os != f.platform || f.ownership != nothing && e.ownership != f.ownership ||
		f.user != nothing && e.user != f.user {
		return false
	}
	if f.tag != "" && !f.hasTag(e.tags) {
		return false
	}
	if f.Name != "" && (len(e.name) < len(f.Name) || !strings.EqualFold(prefix(e.name, f.Name), f.Name)) {
		return false
	}
	return f.Text == "" || contains(e.name, f.Text) || contains(e.id, f.Text) || contains(e.user.Value(), f.Text) ||
		contains(e.tags.Value(), f.Text)
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

// contains is strings.Contains ignoring case, without copying each name.
func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if c, d := s[i]|0x20, part[0]|0x20; c == d || s[i] >= 0x80 {
			if strings.EqualFold(prefix(s[i:], part), part) {
				return true
			}
		}
	}
	return len(part) > len(s) && part[0] >= 0x80 && strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// Orders of a list; "" is that of enrollment.
const (
	ByName     = "name"
	ByLastSync = "last_sync"
	ByEnrolled = "enrolled_at"
)

// Page selects a part of a list.
type Page struct {
	Sort       string // one of the orders
	Descending bool
	After      *Mark // begin after that device
	Skip, Size int
}

// Mark is a position in a list: the value that it is sorted by, and the device's number, which is unique. A list that
// is read on from a mark contains every device once, as long as what it is sorted by does not change meanwhile.
type Mark struct {
	Text string `json:"t,omitempty"`
	Int  int64  `json:"i,omitempty"`
	N    int64  `json:"n"`
	Sort string `json:"s,omitempty"` // the order that it belongs to, for whoever stores it
}

// mark is a device's position in this list.
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

// before reports whether a comes before b.
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

// fold compares as people sort names: A and a are together.
func fold(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if c, d := lower(a[i]), lower(b[i]); c != d {
			return cmp.Compare(c, d)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// lower is an ASCII letter in lower case.
func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// marks are the first of a list found so far, as a heap with the last of them on top.
type marks struct {
	list []Mark
	page *Page
}

func (m *marks) Len() int           { return len(m.list) }
func (m *marks) Less(i, j int) bool { return m.page.before(m.list[j], m.list[i]) }
func (m *marks) Swap(i, j int)      { m.list[i], m.list[j] = m.list[j], m.list[i] }
func (m *marks) Push(x any)         { m.list = append(m.list, x.(Mark)) }

// Pop implements heap.Interface.
func (m *marks) Pop() any {
	x := m.list[len(m.list)-1]
	m.list = m.list[:len(m.list)-1]
	return x
}

// List returns the requested part of the matching devices, in order, and how many match in all.
func (r *Roster) List(f Filter, p Page) (out []Mark, total int) {
	if p.Sort == "" && !p.Descending {
		return r.listPlain(f.compile(), p)
	}
	first := marks{page: &p}
	most := p.Skip + p.Size
	late := most > 2000 // for a late page, sorting all is quicker than keeping the first so many
	r.find(f.compile(), 0, func(e *entry) bool {
		total++
		m := p.mark(e)
		switch {
		case p.After != nil && !p.before(*p.After, m):
		case late:
			first.list = append(first.list, m)
		case len(first.list) < most:
			heap.Push(&first, m)
		case most > 0 && p.before(m, first.list[0]):
			first.list[0] = m
			heap.Fix(&first, 0)
		}
		return true
	})
	out = first.list
	slices.SortFunc(out, func(a, b Mark) int {
		if p.before(a, b) {
			return -1
		}
		return 1
	})
	out = out[:min(most, len(out))]
	return out[min(p.Skip, len(out)):], total
}

// listPlain is List in the order of enrollment, in which devices are stored: what comes before and after the requested
// part is counted from the sums alone, if these suffice.
func (r *Roster) listPlain(f *chosen, p Page) (out []Mark, total int) {
	skip := p.Skip
	r.chunksFrom(0, func(k int, c *chunk) bool {
		n, at := c.count(f)
		if !f.narrow {
			total += n
			if past := p.After != nil && p.After.N >= int64(k+1)*chunkSize-1; past || len(out) >= p.Size || n == 0 {
				return true
			}
			if p.After == nil && n <= skip {
				skip -= n
				return true
			}
		} else if n == 0 {
			return true
		}
		c.match(f, at, 0, func(e *entry) bool {
			if f.narrow {
				total++
			}
			switch {
			case p.After != nil && e.n <= p.After.N || len(out) >= p.Size:
			case skip > 0:
				skip--
			default:
				out = append(out, p.mark(e))
			}
			return f.narrow || len(out) < p.Size
		})
		return true
	})
	return out, total
}

// find visits the devices that match a filter, from a number on, until do says stop. Chunks without any are skipped.
func (r *Roster) find(f *chosen, from int64, do func(*entry) bool) {
	r.chunksFrom(from, func(_ int, c *chunk) bool {
		n, at := c.count(f)
		return n == 0 || c.match(f, at, from, do)
	})
}

// match visits the devices of a chunk that match a filter at a moment, from a number on, with its lock, until do says
// stop.
func (c *chunk) match(f *chosen, at Clock, from int64, do func(*entry) bool) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.look(f)
	for i := range c.list {
		if f.narrow && !c.maybe(f, i) {
			continue
		}
		if e := &c.list[i]; e.there && e.n >= from && f.takes(e, at) && !do(e) {
			return false
		}
	}
	return true
}

// Numbers returns the numbers of the matching devices, from one on, at most the given number.
func (r *Roster) Numbers(f Filter, from int64, most int) (out []int64) {
	r.find(f.compile(), from, func(e *entry) bool {
		out = append(out, e.n)
		return len(out) < most
	})
	return out
}

// Device is what decides about one device's policy.
func (e *entry) device() fleet.Device {
	d := fleet.Device{ID: e.id, OS: e.os.Value(), Ownership: e.ownership.Value(), User: e.user.Value(), Policy: e.own.Value(),
		Priority: int(e.priority), Compliance: e.mode.Value(),
		Current: fleet.Variant{Policy: e.policy.Value(), Version: int(e.version)}}
	if t := strings.Trim(e.tags.Value(), ","); t != "" {
		d.Tags = strings.Split(t, ",")
	}
	return d
}

// Count counts the matching devices that f accepts; nil accepts all.
func (r *Roster) Count(f Filter, agree func(*fleet.Device) bool) (n int) {
	by := f.compile()
	if agree == nil && !by.narrow {
		r.chunksFrom(0, func(_ int, c *chunk) bool {
			of, _ := c.count(by)
			n += of
			return true
		})
		return n
	}
	r.find(by, 0, func(e *entry) bool {
		if agree == nil {
			n++
		} else if d := e.device(); agree(&d) {
			n++
		}
		return true
	})
	return n
}

// Sum is how many devices of one policy have the same state.
type Sum struct {
	Policy, Hash, Rollup string
	Old                  bool // their report is too old
	Devices              int
}

// Standings sums up the states of the enrolled devices of a policy, "" for any.
func (r *Roster) Standings(policy string, c Clock) []Sum {
	type key struct {
		policy, hash, rollup text
		old                  bool
	}
	sums := map[key]int{}
	only := unique.Make(policy)
	r.chunksFrom(0, func(_ int, ch *chunk) bool {
		for _, t := range ch.sum(c).list {
			if t.state == enrolled && t.policy != nothing && t.rollup != nothing && (only == nothing || t.policy == only) {
				sums[key{t.policy, t.hash, t.rollup, t.ended || !t.current}] += int(t.n)
			}
		}
		return true
	})
	out := make([]Sum, 0, len(sums))
	for k, n := range sums {
		out = append(out, Sum{k.policy.Value(), k.hash.Value(), k.rollup.Value(), k.old, n})
	}
	return out
}

// Hashes are the hashes of all devices' findings.
func (r *Roster) Hashes() map[string]bool {
	seen := map[text]bool{}
	r.each(false, func(e *entry) bool { seen[e.hash] = true; return true })
	out := make(map[string]bool, len(seen))
	for h := range seen {
		out[h.Value()] = true
	}
	return out
}

// First returns a device with this state.
func (r *Roster) First(hash string) (n int64, ok bool) {
	h := unique.Make(hash)
	r.each(false, func(e *entry) bool {
		if e.hash == h {
			n, ok = e.n, true
		}
		return !ok
	})
	return n, ok
}
