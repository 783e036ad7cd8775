package roster

import (
	"math"
	"unique"

	"github.com/warderd/warder/enforce"
)

// group is everything in which devices are alike for most questions. There are few distinct ones.
type group struct {
	state, effective, policy, hash, rollup text
	ended, current, online                 bool
}

// group is the group of a device at a moment.
func (e *entry) group(c Clock) group {
	return group{e.state, e.effective, e.policy, e.hash, e.rollup, e.ended, e.heardOf(c), e.online(c)}
}

func (e *entry) heardOf(c Clock) bool {
	return e.connected || e.fresh >= c.Now && e.fresh <= c.Most+clockStep
}

func (e *entry) online(c Clock) bool {
	return e.connected || e.at > 0 && e.at > c.Online && e.at <= c.Now+clockStep && !e.ended
}

var uncertain = unique.Make(string(enforce.Uncertain))

// stands is the devices' present state: what they last reported, for as long as that counts.
func (g *group) stands() text {
	switch {
	case g.ended:
		return uncertain
	case g.rollup == nothing:
		return nothing
	case !g.current:
		return uncertain
	}
	return g.rollup
}

// until is the last moment at which a device stays in its group, if nothing is heard of it.
func (e *entry) until(c Clock) int64 {
	if e.connected {
		return math.MaxInt64
	}
	last := int64(math.MaxInt64)
	switch fresh := e.fresh; {
	case fresh > c.Most+clockStep:
		last = fresh - (c.Most - c.Now) - clockStep - 1
	case fresh >= c.Now:
		last = fresh
	}
	switch {
	case e.at > c.Now+clockStep:
		last = min(last, e.at-clockStep-1)
	case e.online(c):
		last = min(last, e.at+(c.Now-c.Online)-1)
	}
	return last
}

// tally is how many devices of a chunk are in a group.
type tally struct {
	group
	n int32
}

// sums are all devices of a chunk by their groups at a moment. A reader computes them, and they are valid until a
// device changes its group, by news or by time alone: for many questions in a row, each device is read once.
type sums struct {
	list  []tally
	clock Clock
	until int64
}

// backwards is how much older than the sums a question may be and still use them, in ms: concurrent questions arrive in
// any order.
const backwards = 1000

// valid reports whether the sums hold at a moment.
func (s *sums) valid(c Clock) bool {
	if s == nil || c == (Clock{}) { // a question without a moment does not depend on it
		return s != nil
	}
	return c.Now >= s.clock.Now-backwards && c.Now <= s.until && c.Most-c.Now == s.clock.Most-s.clock.Now &&
		c.Now-c.Online == s.clock.Now-s.clock.Online
}

// sum returns a chunk's sums, which are never modified.
func (c *chunk) sum(cl Clock) *sums {
	c.mu.RLock()
	if s := c.sums; s.valid(cl) {
		c.mu.RUnlock()
		return s
	}
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sums; s.valid(cl) {
		return s
	}
	s := &sums{clock: cl, until: math.MaxInt64}
	at := map[group]int{}
	last := -1 // most neighbours are alike
	for i := range c.list {
		e := &c.list[i]
		if !e.there {
			continue
		}
		g := e.group(cl)
		if last < 0 || s.list[last].group != g {
			var known bool
			if last, known = at[g]; !known {
				last = len(s.list)
				at[g] = last
				s.list = append(s.list, tally{group: g})
			}
		}
		s.list[last].n++
		s.until = min(s.until, e.until(cl))
	}
	c.sums = s
	return s
}

// count is how many of a chunk's devices are in groups that a filter may match, and the moment for which that holds. A
// reader of single devices uses the same moment, so that a list and its total agree.
func (c *chunk) count(f *chosen) (n int, at Clock) {
	s := c.sum(f.Clock)
	for _, t := range s.list {
		if f.group(&t.group) {
			n += int(t.n)
		}
	}
	return n, s.clock
}

// change runs f on a device of a chunk, and drops the sums if that invalidates them. The caller has the chunk's lock.
func (c *chunk) change(e *entry, f func(*entry)) {
	s := c.sums
	if s == nil {
		f(e)
		return
	}
	before := e.group(s.clock)
	f(e)
	if e.group(s.clock) != before {
		c.sums = nil
		return
	}
	s.until = min(s.until, e.until(s.clock))
}
