package media

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/platform/bpf"
)

// The forms of what the programs keep (platform/bpf/c/media.c).
type (
	entry struct {
		Turn         uint64
		Whole, Fresh uint32
	}
	refusal struct {
		Turn                 uint64
		Dev, Whole, UID, PID uint32
		Name                 [16]byte
	}
	config struct {
		Closed, OwnDev uint32
		OwnIno         uint64
		Version        [16]byte
	}
	counts struct{ Turns, Lost, Second, Told, Untold uint64 }
)

const refusalSize = 40

func readRefusal(b []byte) (r refusal, ok bool) {
	if len(b) < refusalSize {
		return r, false
	}
	e := binary.NativeEndian
	r = refusal{Turn: e.Uint64(b), Dev: e.Uint32(b[8:]), Whole: e.Uint32(b[12:]), UID: e.Uint32(b[16:]), PID: e.Uint32(b[20:])}
	copy(r.Name[:], b[24:40])
	return r, true
}

// kernel is the pinned set.
type kernel struct{ *bpf.Pinned }

// pinned is nil if there is none.
func (k *kernel) pinned() *bpf.Pinned {
	if k == nil {
		return nil
	}
	return k.Pinned
}

func (k *kernel) config() (c config, err error) {
	return c, k.Lookup("config", uint32(0), &c)
}

func (k *kernel) counts() (c counts, err error) {
	return c, k.Lookup("counts", uint32(0), &c)
}

// entry is what is known of a disk or partition; false if it is not external.
func (k *kernel) entry(dev uint32) (e entry, ok bool, err error) {
	err = k.Lookup("disks", dev, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return e, false, nil
	}
	return e, err == nil, err
}

// mark has the programs look for a device among the disks; for sets that look there for each, it does nothing. It comes before the
// device is noted (c/marks.h).
func (k *kernel) mark(dev uint32) error {
	if k.Maps["marks"] == nil {
		return nil
	}
	return k.Put("marks", markOf(dev), uint32(1))
}

// markOf is where a device's mark is, as marked in c/marks.h computes it.
func markOf(dev uint32) uint32 {
	const marks = 4096 // MARKS
	return (dev ^ dev>>20) % marks
}

// unmarked reports whether a disk is noted for which the programs do not look.
func (k *kernel) unmarked() (bool, error) {
	disks, err := bpf.Entries[uint32, entry](k.Pinned, "disks")
	for dev := range disks {
		var is uint32
		if err := k.Lookup("marks", markOf(dev), &is); err != nil || is == 0 {
			return err == nil, err
		}
	}
	return false, err
}

// markAll marks every disk that is noted.
func (k *kernel) markAll() error {
	disks, err := bpf.Entries[uint32, entry](k.Pinned, "disks")
	for dev := range disks {
		err = errors.Join(err, k.mark(dev))
	}
	return err
}

// ended in a turn says that the disk was allowed in it, and is not any more.
const ended = 1 << 63

// allowed reports whether a disk's entry may be opened, and whether it might in this turn before.
func (k *kernel) allowed(e entry) (now, before bool, err error) {
	var turn uint64
	err = k.Lookup("allowed", e.Whole, &turn)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, false, nil
	}
	return err == nil && turn == e.Turn, err == nil && turn&^ended == e.Turn, err
}

// allow lets an entry's disk be opened: until another disk has its number.
func (k *kernel) allow(e entry) error { return k.Put("allowed", e.Whole, e.Turn) }

// refuse takes that back.
func (k *kernel) refuse(e entry) error { return k.Put("allowed", e.Whole, e.Turn|ended) }

// own says which program is ours, by the file that runs.
var own = sync.OnceValues(func() (c config, err error) {
	c = config{Version: bpf.Media.Version()}
	c.OwnDev, c.OwnIno, err = bpf.File("/proc/self/exe")
	return c, err
})
