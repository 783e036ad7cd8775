package media

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
)

// step is one step from a file up to the root of its file system, as the kernel's programs go it (platform/bpf/c/filesize.c).
type step struct {
	Turn    uint64
	Dev, At uint32
	Name    [256]byte
}

const (
	arrived  = ^uint32(0)
	maxDepth = 32
	maxSteps = 1 << 12
)

// stairs are the steps of all files that may have any size.
type stairs map[step]uint32

// add adds the steps of one file, by the names from the root of its file system down to it, on a device in its present turn.
func (s stairs) add(names []string, dev uint32, turn uint64) error {
	if len(names) == 0 || len(names) > maxDepth || len(s)+len(names)+1 > maxSteps {
		return fmt.Errorf("a file with an exception is %d directories deep, or there are too many: at most %d", len(names), maxDepth)
	}
	at := uint32(0)
	for _, name := range slices.Backward(names) {
		x := step{At: at}
		if copy(x.Name[:255], name) < len(name) {
			return errors.New("a file with an exception has a name of more than 255 bytes")
		}
		next, is := s[x]
		if !is {
			next = uint32(len(s)) + 1 //nolint:gosec // bounded
			s[x] = next
		}
		at = next
	}
	s[step{Turn: turn, Dev: dev, At: at}] = arrived
	return nil
}

// placeOf is the mount on which a path is; false if there is none.
func placeOf(file string, all []mountinfo.Mount) (m mountinfo.Mount, ok bool) {
	for _, x := range all {
		// The last one at a place covers the others.
		if (strings.HasPrefix(file, x.Point+"/") || x.Point == "/") && len(x.Point) >= len(m.Point) {
			m, ok = x, true
		}
	}
	return m, ok
}

// stairs are the steps of the files with an exception that are on external disks now.
func (l *Limit) stairs(k *kernel, files []string) (stairs, error) {
	out := stairs{}
	if len(files) == 0 {
		return out, nil
	}
	list, err := l.disks()
	if err != nil {
		return nil, err
	}
	all, err := l.mounts()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, file := range files {
		m, ok := placeOf(file, all)
		if !ok {
			continue
		}
		// From the root of the file system, of which a part alone may be mounted there.
		names := strings.Split(strings.Trim(path.Join(m.Root, strings.TrimPrefix(file, m.Point)), "/"), "/")
		for _, d := range list {
			if bus, _ := l.bus(d); bus == "" {
				continue
			}
			on, devs := d.resting()
			if !rests(m, on, devs) {
				continue
			}
			// A file system over several devices has a number of its own, and names one of them.
			switch i := slices.Index(on, node(m.Source)); {
			case slices.Contains(devs, m.Dev):
				devs = []string{m.Dev}
			case i >= 0 && m.FS == "btrfs":
				devs = devs[i : i+1]
			default:
				continue // a program's, which may call itself as it likes
			}
			for _, dev := range devs {
				n, is := bpf.NumberOf(dev)
				if !is {
					continue
				}
				e, is, err := k.entry(n)
				if err == nil && is {
					err = out.add(names, n, e.Turn)
				}
				errs = append(errs, err)
			}
		}
	}
	return out, errors.Join(errs...)
}

// except tells the programs which files may have any size.
func (g *LimitGuard) except(k *kernel) error {
	r := g.ruling.Load()
	if r == nil {
		return nil
	}
	want, err := g.stairs(k, r.files)
	if err != nil && want == nil {
		return err
	}
	err = errors.Join(err, bpf.Become(k.Pinned, "excepted", want))
	g.excepted.Store(&want)
	return err
}

// strangers reports whether the programs let other files have any size than those that they were told of.
func (l *Limit) strangers(k *kernel) (bool, error) {
	told := l.excepted.Load()
	if told == nil {
		return false, nil // since this process began
	}
	has, err := bpf.Entries[step, uint32](k.Pinned, "excepted")
	return !maps.Equal(has, *told), err
}
