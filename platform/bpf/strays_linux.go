package bpf

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// EndStrays takes copies of the set that are attached beside it off, or has them do nothing.
func (s *Set) EndStrays() error {
	_, err := s.strays(true)
	return err
}

// strays counts copies of the set's programs that are attached and not pinned where they belong: another program has moved them,
// or pinned them elsewhere. They would go on refusing by maps that nobody writes. detach takes them off, or has them do nothing
// where the kernel has no such call.
func (s *Set) strays(detach bool) (n int, err error) {
	own := map[link.ID]bool{}
	for _, prog := range s.Programs {
		if l, err := link.LoadPinnedLink(filepath.Join(s.path(), "link_"+prog.Name), nil); err == nil {
			if info, err := l.Info(); err == nil {
				own[info.ID] = true
			}
			_ = l.Close()
		}
	}
	var all link.Iterator
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil || own[info.ID] {
			continue
		}
		if s.Idle > 0 && info.Type == link.TracingType && s.has(info.Program) {
			still, err := s.idle(info.Program, detach)
			if err != nil {
				return n, fmt.Errorf("a copy of the programs cannot be ended: %w", err)
			}
			if !still {
				n++
			}
			continue
		}
		if info.Type != link.CgroupType || !s.has(info.Program) {
			continue
		}
		if cg := info.Cgroup(); cg == nil || cg.CgroupId == 0 {
			continue // taken off already, and still pinned somewhere
		}
		if n++; detach {
			if err := all.Link.Detach(); err != nil {
				return n, fmt.Errorf("a copy of the programs cannot be taken off: %w", err)
			}
		}
	}
	return n, all.Err()
}

// has reports whether a program in the kernel has the name of one of the set's.
func (s *Set) has(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer p.Close()
	info, err := p.Info()
	return err == nil && slices.ContainsFunc(s.Programs, func(x Program) bool { return x.is(info.Name) })
}

// is reports whether a program in the kernel is this one, by its name.
func (p *Program) is(name string) bool {
	same := func(own string) bool { return own != "" && (name == own || name == kernelName(own)) } // its description has all of it
	return same(p.Name) || same(p.Else)
}

// idle reports whether a program in the kernel does nothing, by its map "config"; end sees to it.
func (s *Set) idle(id ebpf.ProgramID, end bool) (is bool, err error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return true, nil // gone meanwhile
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return false, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		is, err := idleMap(m, s.Idle, end)
		_ = m.Close()
		if !is || err != nil {
			return is, err
		}
	}
	return true, nil
}

func idleMap(m *ebpf.Map, head int, end bool) (is bool, err error) {
	info, err := m.Info()
	if err != nil || info.Name != "config" {
		return true, err
	}
	value, err := m.LookupBytes(uint32(0))
	if err != nil || len(value) < head {
		return false, err
	}
	if !slices.ContainsFunc(value[:head], func(b byte) bool { return b != 0 }) {
		return true, nil
	}
	if !end {
		return false, nil
	}
	clear(value)
	return true, m.Put(uint32(0), value)
}

// kernelName is a program's name as the kernel keeps it.
func kernelName(name string) string { return name[:min(len(name), unix.BPF_OBJ_NAME_LEN-1)] }

// Strays says that a copy of the set is attached beside it, or nil.
func (s *Set) Strays() error {
	n, err := s.strays(false)
	if err != nil {
		return err
	}
	if n > 0 {
		return changed("%d other copies of the programs are attached", n)
	}
	return nil
}
