package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

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

// allowed reports whether a disk's entry may be opened.
func (k *kernel) allowed(e entry) (bool, error) {
	var turn uint64
	err := k.lookup("allowed", e.Whole, &turn)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil && turn == e.Turn, err
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
func (k *kernel) refuse(e entry) error {
	m := k.Maps["allowed"]
	if m == nil {
		return errors.New("map allowed is not pinned")
	}
	if err := m.Delete(e.Whole); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (k *kernel) put(name string, key, value any) error {
	m := k.Maps[name]
	if m == nil {
		return fmt.Errorf("map %s is not pinned", name)
	}
	return m.Put(key, value)
}

// own says which program is ours, by the file that runs.
func own() (c config, err error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return c, &os.PathError{Op: "stat", Path: "/proc/self/exe", Err: err}
	}
	return config{OwnDev: number(unix.Major(st.Dev), unix.Minor(st.Dev)), OwnIno: st.Ino, Version: bpf.Media.Version()}, nil
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
