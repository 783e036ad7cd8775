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
// key is random in each process, so that nobody can make such a name on purpose.
type table struct {
	seed  maphash.Seed
	slots []uint64
	place uint64 // of how many slots a hash's place is a share
	names int
	// deep has bit k set if a name of k labels is in the table (63: or of more), so that suffixes of other lengths need
	// no search.
	deep uint64
}

// What the lists say about a name.
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
)

// used is how many of a hundred slots are in use.
const used = 70

// builder collects the names of a table.
type builder struct {
	seed  maphash.Seed
	slots []uint64
	deep  uint64
}

func newBuilder(room int) *builder {
	return &builder{seed: maphash.MakeSeed(), slots: make([]uint64, 0, room)}
}

// add adds an entry of the allowed or the blocked list; addresses are not names and are passed over.
func (b *builder) add(n policy.Name, allow bool) {
	if n.Host == "" {
		return
	}
	flag := [...]uint64{policy.Subtree: blockTree, policy.Below: blockBelow, policy.Exact: blockExact}[n.Scope]
	if allow {
		flag <<= 3
	}
	b.slots = append(b.slots, maphash.String(b.seed, n.Host)&^flagMask|flag)
	b.deep |= depthBit(strings.Count(n.Host, ".") + 1)
}

func depthBit(labels int) uint64 { return 1 << min(labels, 63) }

// table is what was collected. The builder is of no use afterwards.
func (b *builder) table() *table {
	slices.Sort(b.slots)
	list := b.slots[:0]
	for _, s := range b.slots {
		if n := len(list); n > 0 && list[n-1]>>flagBits == s>>flagBits {
			list[n-1] |= s
			continue
		}
		list = append(list, s)
	}
	t := &table{seed: b.seed, names: len(list), deep: b.deep}
	if len(list) == 0 {
		return t
	}
	t.place = uint64(len(list))*100/used + 1
	t.slots = make([]uint64, t.place+64)
	next := uint64(0)
	for _, s := range list {
		next = max(next, t.at(s))
		if next >= uint64(len(t.slots)) { // hashes crowd at the end: rare
			t.slots = append(t.slots, 0)
		}
		t.slots[next] = s
		next++
	}
	t.slots = append(t.slots, 0) // a search ends here at the latest
	return t
}

// at is a hash's place, if nothing pushes it further.
func (t *table) at(h uint64) uint64 {
	hi, _ := bits.Mul64(h&^flagMask, t.place)
	return hi
}

// find returns the flags of a name, 0 if it is in no list.
func (t *table) find(name string) uint64 {
	h := maphash.String(t.seed, name)
	for i := t.at(h); ; i++ {
		switch s := t.slots[i]; {
		case s>>flagBits == h>>flagBits:
			return s & flagMask
		case s == 0 || s>>flagBits > h>>flagBits:
			return 0
		}
	}
}

// match finds the longest entry that covers a host, among the lists whose flags are in of: where in the host it begins
// (-1: none does), whether it blocks, and its flag. Of two equally long ones the blocking one wins.
func (t *table) match(host string, of uint64) (from int, block bool, flag uint64) {
	if t.names == 0 {
		return -1, false, 0
	}
	labels := strings.Count(host, ".") + 1
	for from = 0; ; labels-- {
		if t.deep&depthBit(labels) != 0 {
			if f := t.find(host[from:]) & of; f != 0 {
				if from == 0 {
					if x := f & (blockExact | allowExact); x != 0 {
						return 0, x&blockExact != 0, choose(x)
					}
					f &= blockTree | allowTree // "*.name" does not cover the name itself
				} else {
					f &^= blockExact | allowExact
				}
				if f != 0 {
					return from, f&blocks != 0, choose(f)
				}
			}
		}
		dot := strings.IndexByte(host[from:], '.')
		if dot < 0 {
			return -1, false, 0
		}
		from += dot + 1
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
