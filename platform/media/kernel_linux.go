package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
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

func (k *kernel) config() (c config, err error) {
	return c, k.lookup("config", uint32(0), &c)
}

func (k *kernel) counts() (c counts, err error) {
	return c, k.lookup("counts", uint32(0), &c)
}

// entry is what is known of a disk or partition; false if it is not external.
func (k *kernel) entry(dev uint32) (e entry, ok bool, err error) {
	err = k.lookup("disks", dev, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return e, false, nil
	}
	return e, err == nil, err
}

// ended in a turn says that the disk was allowed in it, and is not any more.
const ended = 1 << 63

// allowed reports whether a disk's entry may be opened, and whether it might in this turn before.
func (k *kernel) allowed(e entry) (now, before bool, err error) {
	var turn uint64
	err = k.lookup("allowed", e.Whole, &turn)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, false, nil
	}
	return err == nil && turn == e.Turn, err == nil && turn&^ended == e.Turn, err
}

func (k *kernel) lookup(name string, key, value any) error {
	m := k.Maps[name]
	if m == nil {
		return fmt.Errorf("map %s is not pinned", name)
	}
	return m.Lookup(key, value)
}

// allow lets an entry's disk be opened: until another disk has its number.
func (k *kernel) allow(e entry) error { return k.put("allowed", e.Whole, e.Turn) }

// refuse takes that back.
func (k *kernel) refuse(e entry) error { return k.put("allowed", e.Whole, e.Turn|ended) }

func (k *kernel) put(name string, key, value any) error {
	m := k.Maps[name]
	if m == nil {
		return fmt.Errorf("map %s is not pinned", name)
	}
	return m.Put(key, value)
}

// own says which program is ours, by the file that runs.
var own = sync.OnceValues(func() (c config, err error) {
	c = config{Version: bpf.Media.Version()}
	c.OwnDev, c.OwnIno, err = fileOf("/proc/self/exe")
	return c, err
})

// fileOf is a file's file system and number, as the kernel's programs see them. That of the file system is the one of the list of
// mounts: what stat gives is another one on btrfs.
func fileOf(path string) (dev uint32, ino uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	dev = number(st.Dev_major, st.Dev_minor)
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return dev, st.Ino, err
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if i := slices.IndexFunc(mounts, func(m mountinfo.Mount) bool { return st.Mask&unix.STATX_MNT_ID != 0 && uint64(m.ID) == st.Mnt_id }); i >= 0 {
		if n, ok := numberOf(mounts[i].Dev); ok {
			dev = n
		}
	}
	return dev, st.Ino, err
}

// number is a device number as the kernel has it.
func number(major, minor uint32) uint32 { return major<<20 | minor }

// numberOf reads one as sysfs writes it, "8:1".
func numberOf(s string) (uint32, bool) {
	a, b, ok := strings.Cut(strings.TrimSpace(s), ":")
	major, err1 := strconv.ParseUint(a, 10, 12)
	minor, err2 := strconv.ParseUint(b, 10, 20)
	return number(uint32(major), uint32(minor)), ok && err1 == nil && err2 == nil
}
