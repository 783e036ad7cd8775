package media

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/warderd/warder/platform/bpf"
)

// Loaders make the sets of this package, in the child that does so; for file sizes, with the limit in bytes.
func Loaders() map[string]bpf.Loader {
	m := &Media{sys: "/sys"}
	return map[string]bpf.Loader{
		name: func(args ...string) error {
			if len(args) != 0 {
				return fmt.Errorf("%q is one argument too many", args[0])
			}
			return bpf.Media.Make(m.fill)
		},
		sizeName: func(args ...string) error {
			if len(args) != 1 {
				return errors.New("one limit is needed")
			}
			limit, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return fmt.Errorf("limit %q is no number of bytes", args[0])
			}
			return bpf.FileSize.Make((&Limit{Media: m}).fill(limit))
		},
	}
}

// fill tells the programs what is there, before the next one is attached. What is open now stays so until the guard has judged
// it: the disk that the system is on is never refused, not even for a moment. But what an earlier set refused stays refused.
func (m *Media) fill(p, old *bpf.Pinned, attached int) error {
	k := &kernel{p}
	c, err := own()
	if err != nil {
		return err
	}
	switch attached {
	case 0:
		return errors.Join(k.Put("config", uint32(0), &c), k.inherit(&kernel{old}))
	case 1: // arrivals are counted from now on
		return m.present(k, decides(old), announce)
	}
	c.Closed = 1
	return k.Put("config", uint32(0), &c)
}

// decides reports whether an earlier set knew which disks may be used. A set of another version can have other maps beside.
func decides(old *bpf.Pinned) bool { return old.Maps["disks"] != nil && old.Maps["allowed"] != nil }

// inherit copies what an earlier set knew.
func (k *kernel) inherit(old *kernel) error {
	if n, err := old.counts(); err == nil {
		if err := k.Put("counts", uint32(0), &n); err != nil {
			return err
		}
	}
	if old.Maps["disks"] != nil {
		known, err := bpf.Entries[uint32, entry](old.Pinned, "disks")
		for dev, e := range known {
			err = errors.Join(err, k.mark(dev), k.Put("disks", &dev, &e))
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(copied[uint32, uint64](k, old, "allowed"), copied[step, uint32](k, old, "excepted"))
}

// copied tells what a map of the old ones has, if they have it.
func copied[K, V comparable](k, old *kernel, name string) error {
	if old.Maps[name] == nil || k.Maps[name] == nil {
		return nil
	}
	has, err := bpf.Entries[K, V](old.Pinned, name)
	for key, value := range has {
		err = errors.Join(err, k.Put(name, &key, &value))
	}
	return err
}

// present tells the programs of the disks that were there before them. Where there was a whole set before, those that it did not
// know are refused until they are judged; otherwise they can be used until then.
func (m *Media) present(k *kernel, inherited bool, tell func(k *kernel, d disk, turn uint64) error) error {
	list, err := m.disks()
	if err != nil {
		return err
	}
	for i, d := range list {
		if bus, _ := m.bus(d); bus == "" {
			continue
		}
		dev, ok := bpf.NumberOf(line(d.dir + "/dev"))
		if !ok {
			continue // gone
		}
		if err := tell(k, d, byUs+uint64(time.Now().UnixNano())+uint64(i)); err != nil {
			return err
		}
		if inherited {
			continue
		}
		if e, ok, err := k.entry(dev); err != nil || ok && k.allow(e) != nil {
			return fmt.Errorf("disk %s cannot be told to the kernel: %w", d.name(), err)
		}
	}
	return nil
}

// announce tells the programs that a disk and its partitions are external.
func announce(k *kernel, d disk, turn uint64) error {
	_, devs := d.parts()
	return k.know(d, devs, turn)
}
