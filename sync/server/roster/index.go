package roster

import (
	"slices"
	"strings"
)

// index repeats of a chunk's devices what narrow filters look for, in arrays: a question that few devices match reads
// a few bytes of each of the others instead of three cache lines. 17 bytes a device.
type index struct {
	user [chunkSize]text
	head [chunkSize]uint64
	tags [chunkSize]uint8 // place in sets, or many
	sets []text           // distinct sets of tags; rebuilt when it is full
}

// many stands for the sets of tags that found no place in sets.
const many = 255

// set stores a device in its place.
func (x *index) set(i int, e *entry) {
	x.user[i] = e.user
	x.head[i], _ = head(e.name)
	k := slices.Index(x.sets, e.tags)
	if k < 0 && len(x.sets) == many {
		x.rebuild(i)
	}
	if k < 0 && len(x.sets) < many {
		k = len(x.sets)
		x.sets = append(x.sets, e.tags)
	}
	if x.tags[i] = many; k >= 0 {
		x.tags[i] = uint8(k)
	}
}

// rebuild drops the sets of tags that no device of the chunk has any more, but for the device in a place, whose tags are
// about to change. Devices without a place in sets stay so until they are set again.
func (x *index) rebuild(except int) {
	old := x.sets
	var place [many]int // in the new list, from 1
	x.sets = make([]text, 0, len(old))
	for i, k := range x.tags {
		if k == many || i == except || x.user[i] == (text{}) {
			continue
		}
		if place[k] == 0 {
			x.sets = append(x.sets, old[k])
			place[k] = len(x.sets)
		}
		x.tags[i] = uint8(place[k] - 1)
	}
}

// odd is the head of a name that has to be compared as a whole.
const odd = ^uint64(0)

// head is the beginning of a name in lower case, eight bytes at most, and which of its bytes are known. With anything
// but ASCII in it, it is odd: a name can then begin with another letter that only differs in case ("K" and the Kelvin sign).
func head(name string) (h, mask uint64) {
	for i := range min(8, len(name)) {
		if name[i] >= 0x80 {
			return odd, mask
		}
		h |= uint64(lower(name[i])) << (8 * i)
		mask |= 0xff << (8 * i)
	}
	return h, mask
}

// look says which of the chunk's sets of tags have the filter's tag.
func (x *index) look(f *chosen) {
	if f.tag == "" {
		return
	}
	f.sets = [256]bool{many: true}
	for k, tags := range x.sets {
		f.sets[k] = f.hasTag(tags)
	}
}

// maybe reports whether the device in a place may match what a filter asks beyond groups, after look.
func (x *index) maybe(f *chosen, i int) bool {
	if f.user != nothing && x.user[i] != f.user {
		return false
	}
	if f.tag != "" && !f.sets[x.tags[i]] {
		return false
	}
	return f.mask == 0 || (x.head[i]^f.head)&f.mask == 0 || x.head[i] == odd
}

// hasTag reports whether a set of tags contains the filter's. Many devices have the same set.
func (f *chosen) hasTag(tags text) bool {
	has, known := f.tagged[tags]
	if !known {
		has = strings.Contains(tags.Value(), f.tag)
		f.tagged[tags] = has
	}
	return has
}
