package network

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce/policy"
)

// A table has the names of both lists of a policy, a million and more, and says which is the longest that covers a name.
//
// It stores no text. Each slot has 58 bits of a keyed hash of the name, and 6 flags: what the lists say about the name
// itself, the name and everything below it, and everything below it. Slots are in the order of the hashes (a hash's place
// is its share of the table, or a little after it), so that a search ends at the first greater one. Seven slots of ten
// are used: 11.4 bytes a name. A name that is in no list is taken for one of a million others with probability 4e-12; the
// key is random in each process, so that nobody can make such a name on purpose. All tables have the same key: a name that
// is searched in several is hashed once.
type table struct {
	slots []uint64
	place uint64 // of how many slots a hash's place is a share
	names int
	// deep has bit k set if a name of k labels is in the table (63: or of more), so that suffixes of other lengths need
	// no search.
	deep uint64
}

// seed is the key of all hashes of this process.
var seed = maphash.MakeSeed()

// What the lists say about a name. In the table of a long list, which does not say what it is for, the blocking ones mean
// "listed".
const (
	blockTree uint64 = 1 << iota // the name and everything below it is blocked
	blockBelow
	blockExact
	allowTree
	allowBelow
	allowExact
	flagBits = 6
	flagMask = 1<<flagBits - 1

	blocks = blockTree | blockBelow | blockExact
	allows = allowTree | allowBelow | allowExact
	// toAllow makes allowing flags of the blocking ones.
	toAllow = 3
)

// used is how many of a hundred slots are in use.
const used = 70

// builder collects the names of a table, sorted by the first byte of their hashes, in pieces that are never copied: a long
// list needs 8 bytes a name beside its table while it is read.
type builder struct {
	parts [256][][]uint64
	n     int
	deep  uint64
}

// add adds an entry of the allowed or the blocked list; addresses are not names and are passed over.
func (b *builder) add(n policy.Name, allow bool) {
	if n.Host == "" {
		return
	}
	flag := flagOf[n.Scope]
	if allow {
		flag <<= toAllow
	}
	b.put(maphash.String(seed, n.Host), flag, strings.Count(n.Host, ".")+1)
}

// put adds a hash.
func (b *builder) put(h, flag uint64, labels int) {
	s := h&^flagMask | flag
	part := &b.parts[s>>56]
	last := len(*part) - 1
	if last < 0 || len((*part)[last]) == cap((*part)[last]) {
		*part = append(*part, make([]uint64, 0, 8<<min(7, last+1)))
		last++
	}
	(*part)[last] = append((*part)[last], s)
	b.n++
	b.deep |= depthBit(labels)
}

// flagOf is the flag of an entry that blocks.
var flagOf = [...]uint64{policy.Subtree: blockTree, policy.Below: blockBelow, policy.Exact: blockExact}

func depthBit(labels int) uint64 { return 1 << min(labels, 63) }

// table is what was collected. The builder is empty afterwards.
func (b *builder) table() *table {
	t := &table{deep: b.deep}
	if b.n == 0 {
		return t
	}
	t.place = uint64(b.n)*100/used + 1
	t.slots = make([]uint64, t.place+64, t.place+65)
	next := uint64(0)
	var list []uint64
	for i := range b.parts {
		list = list[:0]
		for _, piece := range b.parts[i] {
			list = append(list, piece...)
		}
		b.parts[i] = nil
		slices.Sort(list)
		last := uint64(0)
		for _, s := range list {
			if last != 0 && last>>flagBits == s>>flagBits {
				t.slots[next-1] |= s
				continue
			}
			last = s
			next = max(next, t.at(s))
			if next >= uint64(len(t.slots)) { // hashes crowd at the end: rare
				t.slots = append(t.slots, 0)
			}
			t.slots[next] = s
			next++
			t.names++
		}
	}
	b.n = 0
	t.slots = append(t.slots, 0) // a search ends here at the latest
	return t
}

// at is a hash's place, if nothing pushes it further.
func (t *table) at(h uint64) uint64 {
	hi, _ := bits.Mul64(h&^flagMask, t.place)
	return hi
}

// find returns the flags of a name by its hash, 0 if it is not in the table.
func (t *table) find(h uint64) uint64 {
	for i := t.at(h); ; i++ {
		switch s := t.slots[i]; {
		case s>>flagBits == h>>flagBits:
			return s & flagMask
		case s == 0 || s>>flagBits > h>>flagBits:
			return 0
		}
	}
}

// layer is a table that is asked together with others. The flags of a long list that allows are shifted.
type layer struct {
	*table
	shift uint8
	long  bool // it is of a long list
}

// layers are tables that answer as one.
type layers struct {
	list []layer
	deep uint64
}

// on adds a table.
func (l *layers) on(t *table, shift uint8, long bool) {
	if t.names > 0 {
		l.list, l.deep = append(l.list, layer{t, shift, long}), l.deep|t.deep
	}
}

// match finds the longest entry of a table that covers a host.
func (t *table) match(host string, of uint64) (from int, block bool, flag uint64) {
	if t.names == 0 {
		return -1, false, 0
	}
	one := [1]layer{{table: t}}
	from, block, flag, _ = match(one[:], t.deep, host, of)
	return from, block, flag
}

// match finds the longest entry of all tables that covers a host.
func (l *layers) match(host string, of uint64) (from int, block bool, flag uint64, long bool) {
	return match(l.list, l.deep, host, of)
}

// match finds the longest entry that covers a host, among the lists whose flags are in of: where in the host it begins
// (-1: none does), whether it blocks, its flag, and whether it stands in a long list alone. Of two equally long ones the
// blocking one wins.
func match(list []layer, deep uint64, host string, of uint64) (from int, block bool, flag uint64, long bool) {
	if len(list) == 0 {
		return -1, false, 0, false
	}
	labels := strings.Count(host, ".") + 1
	for {
		if bit := depthBit(labels); deep&bit != 0 {
			h, f, short := maphash.String(seed, host[from:]), uint64(0), uint64(0)
			for i := range list {
				if t := &list[i]; t.deep&bit != 0 {
					x := t.find(h) << t.shift
					if f |= x; !t.long {
						short |= x
					}
				}
			}
			if f &= of; from > 0 {
				f &^= blockExact | allowExact
			} else if exact := f & (blockExact | allowExact); exact != 0 {
				f = exact
			} else {
				f &= blockTree | allowTree // "*.name" does not cover the name itself
			}
			if f != 0 {
				flag = choose(f)
				return from, flag&blocks != 0, flag, short&flag == 0
			}
		}
		dot := strings.IndexByte(host[from:], '.')
		if dot < 0 {
			return -1, false, 0, false
		}
		from, labels = from+dot+1, labels-1
	}
}

// choose returns the flag that decides: a blocking one before an allowing one.
func choose(f uint64) uint64 {
	if b := f & blocks; b != 0 {
		f = b
	}
	return f & -f
}

// bytes is the memory of the slots.
func (t *table) bytes() int { return 8 * len(t.slots) }
