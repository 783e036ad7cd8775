package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/mountinfo"
)

// Root is where the kernel's file system for pinned programs is; dir is ours in it.
const (
	Root = "/sys/fs/bpf"
	dir  = Root + "/warder"
	// The suffixes of a set that is not complete yet, and of one that is being replaced. That file system takes no dots in names.
	making, replaced = "_new", "_old"
)

// Pinned is a set in the kernel. Its maps can be read and written.
type Pinned struct {
	Maps  map[string]*ebpf.Map
	links map[string]link.Link
	ids   map[ebpf.MapID]bool // of its maps
}

// Close gives up the descriptors. What is pinned stays.
func (p *Pinned) Close() {
	for _, m := range p.Maps {
		_ = m.Close()
	}
	for _, l := range p.links {
		_ = l.Close()
	}
}

// Is reports whether both are the same set in the kernel.
func (p *Pinned) Is(o *Pinned) bool { return maps.Equal(p.ids, o.ids) }

// Pinned reports whether anything of the set is pinned.
func (s *Set) Pinned() bool {
	_, err := os.Stat(s.path())
	return err == nil
}

// begun reports whether anything of the set is pinned, also of one that was not finished.
func (s *Set) begun() bool {
	for _, suffix := range []string{"", making, replaced} {
		if _, err := os.Lstat(s.path() + suffix); err == nil {
			return true
		}
	}
	return false
}

// path is where a set is pinned.
func (s *Set) path() string { return filepath.Join(dir, s.Name) }

// Make loads a set, has its maps filled, attaches its programs in their order, and pins all of it. What is pinned of the
// same set is replaced: the old programs go when the new ones are attached. fill is called before each program, and at the
// end, with the number of those that are attached, and with the maps of the set that is replaced, as far as they are there.
func (s *Set) Make(fill func(p, old *Pinned, attached int) error) (err error) {
	if err := s.probe(); err != nil {
		return err
	}
	s.settle()
	old := s.maps()
	defer old.Close()
	coll, err := s.load(0)
	if err != nil {
		return err
	}
	defer coll.Close()
	p := &Pinned{Maps: map[string]*ebpf.Map{}, links: map[string]link.Link{}}
	part := s.path() + making
	if err := os.MkdirAll(part, 0o700); err != nil {
		return err
	}
	defer func() {
		for _, l := range p.links {
			_ = l.Close()
		}
		if err != nil {
			err = errors.Join(err, remove(part))
		}
	}()
	for _, name := range s.Maps {
		m := coll.Maps[name]
		if m == nil {
			return fmt.Errorf("map %s is not in the object", name)
		}
		if err := m.Pin(filepath.Join(part, "map_"+name)); err != nil {
			return fmt.Errorf("cannot pin map %s: %w", name, err)
		}
		p.Maps[name] = m
	}
	for i, prog := range s.Programs {
		if err := fill(p, old, i); err != nil {
			return err
		}
		if prog.Optional && prog.of(coll) == nil {
			continue
		}
		l, err := attach(prog.of(coll), prog.Hook)
		if err != nil && prog.Optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("program %s cannot be attached to %s: %w", prog.Name, prog.Hook, err)
		}
		p.links[prog.Name] = l
		if err := l.Pin(filepath.Join(part, "link_"+prog.Name)); err != nil {
			return fmt.Errorf("cannot pin program %s: %w", prog.Name, err)
		}
	}
	if err := fill(p, old, len(s.Programs)); err != nil {
		return err
	}
	// There is always one that is in force, wherever this ends.
	if err := os.Rename(s.path(), s.path()+replaced); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := errors.Join(os.Rename(part, s.path()), s.clear(s.Name)); err != nil {
		return err
	}
	if s.Idle > 0 {
		return nil // EndStrays, when what they know has been told to the new ones
	}
	return s.EndStrays()
}

// of is the program in the kernel: this one or the other.
func (p *Program) of(coll *ebpf.Collection) *ebpf.Program {
	if x := coll.Programs[p.Name]; x != nil {
		return x
	}
	return coll.Programs[p.Else]
}

// settle ends what an earlier Make began: the set that is in force gets its name back, and what is beside it goes.
func (s *Set) settle() {
	if _, err := os.Stat(s.path()); errors.Is(err, fs.ErrNotExist) {
		_ = os.Rename(s.path()+replaced, s.path())
	}
	_, _ = remove(s.path()+making), remove(s.path()+replaced)
}

// maps opens the maps that are pinned, whatever else there is.
func (s *Set) maps() *Pinned {
	p := &Pinned{Maps: map[string]*ebpf.Map{}}
	for _, name := range s.Maps {
		if m, err := ebpf.LoadPinnedMap(filepath.Join(s.path(), "map_"+name), nil); err == nil {
			p.Maps[name] = m
		}
	}
	return p
}

// attach attaches one program.
func attach(p *ebpf.Program, hook string) (link.Link, error) {
	if p == nil {
		return nil, errors.New("it is not in the object")
	}
	if hook != Cgroup {
		return link.AttachTracing(link.TracingOptions{Program: p})
	}
	top, err := cgroups()
	if err != nil {
		return nil, err
	}
	return link.AttachCgroup(link.CgroupOptions{Path: top, Attach: ebpf.AttachCGroupDevice, Program: p})
}

// cgroups is where the hierarchy of version 2 is mounted.
func cgroups() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		var st unix.Stat_t
		const top = 1 // the number of the hierarchy's root in its own file system
		if m.FS == "cgroup2" && unix.Lstat(m.Point, &st) == nil && st.Ino == top {
			return m.Point, nil
		}
	}
	return "", errors.New("no cgroup hierarchy of version 2 is mounted")
}

// Changed says that what is pinned is not as Make left it.
type Changed struct{ Why string }

func (c *Changed) Error() string { return c.Why }

func changed(format string, args ...any) error { return &Changed{fmt.Sprintf(format, args...)} }

// Open opens what is pinned of a set. It is fs.ErrNotExist if nothing is, and a *Changed if it is not as Make left it.
func (s *Set) Open() (_ *Pinned, err error) {
	for _, suffix := range []string{making, replaced} {
		if _, err := os.Stat(s.path() + suffix); err == nil {
			return nil, changed("one that was not finished is beside it")
		}
	}
	if _, err := os.Stat(s.path()); err != nil {
		return nil, err
	}
	p := &Pinned{Maps: map[string]*ebpf.Map{}, links: map[string]link.Link{}, ids: map[ebpf.MapID]bool{}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for _, name := range s.Maps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(s.path(), "map_"+name), nil)
		if err != nil {
			return nil, gone("map "+name, err)
		}
		p.Maps[name] = m
		info, err := m.Info()
		if err != nil {
			return nil, err
		}
		if id, ok := info.ID(); ok {
			p.ids[id] = true
		}
	}
	for _, prog := range s.Programs {
		l, err := link.LoadPinnedLink(filepath.Join(s.path(), "link_"+prog.Name), nil)
		if prog.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, gone("program "+prog.Name, err)
		}
		p.links[prog.Name] = l
		if err := check(l, prog, p.ids); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// gone says that something is not pinned; other errors stay what they are.
func gone(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return changed("%s is not pinned", what)
	}
	return fmt.Errorf("%s cannot be opened: %w", what, err)
}

// check verifies that a link is attached, to the right place, and has the program of that name with our maps.
func check(l link.Link, prog Program, ours map[ebpf.MapID]bool) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	if cg := info.Cgroup(); prog.Hook == Cgroup && (cg == nil || cg.CgroupId == 0) {
		return changed("program %s is detached", prog.Name)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return err
	}
	defer program.Close()
	has, err := program.Info()
	if err != nil {
		return err
	}
	if !prog.is(has.Name) {
		return changed("program %s is another one (%q)", prog.Name, has.Name)
	}
	maps, _ := has.MapIDs()
	if !slices.ContainsFunc(maps, func(id ebpf.MapID) bool { return ours[id] }) {
		return changed("program %s uses other maps", prog.Name)
	}
	return nil
}

// Remove detaches and unpins a set, and whatever else stands in our directory.
func (s *Set) Remove() error {
	err := s.clear("")
	_, stray := s.strays(true)
	_ = os.Remove(dir) // if nothing else is there
	return errors.Join(err, stray)
}

// clear removes what stands in our directory and is not another set's, but for one name.
func (s *Set) clear(but string) (err error) {
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		other := slices.ContainsFunc(Sets, func(o *Set) bool { return o != s && strings.HasPrefix(e.Name(), o.Name) })
		if !other && e.Name() != but {
			err = errors.Join(err, remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// remove removes a directory of pinned objects: the programs first, so that nothing runs with maps that are gone.
func remove(path string) error {
	files, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return os.Remove(path)
	case err != nil:
		return err
	}
	slices.SortFunc(files, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }) // link_, map_
	for _, f := range files {
		err = errors.Join(err, os.Remove(filepath.Join(path, f.Name())))
	}
	return errors.Join(err, os.Remove(path))
}

// Try says why this system cannot carry a set, or nil: it loads the programs, attaches them where there is no more to prove, and takes them off again. It reads the kernel's
// description of its types, which takes tens of megabytes: it is for a process that ends soon, and so is Make.
func (s *Set) Try() error {
	if err := s.probe(); err != nil {
		return err
	}
	coll, err := s.load(0)
	if err != nil {
		return err
	}
	defer coll.Close()
	if s.proof() != nil {
		return nil // Prove attaches them, on a machine that needs them
	}
	return s.attached(coll, func() error { return nil })
}

// Prove attaches the programs of a set in a form that does nothing but count, finds out whether the kernel calls them where it has to,
// and takes them off again.
func (s *Set) Prove() error {
	prove := s.proof()
	if prove == nil {
		return nil
	}
	coll, err := s.load(uint32(os.Getpid()))
	if err != nil {
		return err
	}
	defer coll.Close()
	return s.attached(coll, func() error {
		return prove(func(hook int) (n uint64) {
			_ = coll.Maps["hits"].Lookup(uint32(hook), &n)
			return n
		})
	})
}

// attached runs something while a set's programs are attached, with maps that nobody fills.
func (s *Set) attached(coll *ebpf.Collection, run func() error) error {
	for _, prog := range s.Programs {
		if prog.Optional && prog.of(coll) == nil {
			continue
		}
		l, err := attach(prog.of(coll), prog.Hook)
		if err != nil && prog.Optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("program %s cannot be attached to %s: %w", prog.Name, prog.Hook, err)
		}
		defer l.Close()
	}
	return run()
}

// load loads a set into the kernel. With a process to prove them by, the programs do nothing but count that it calls them.
func (s *Set) load(probe uint32) (*ebpf.Collection, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(s.Object))
	if err != nil {
		return nil, fmt.Errorf("the programs cannot be read: %w", err)
	}
	if probe != 0 {
		v := spec.Variables["probe"]
		if v == nil {
			return nil, errors.New("the programs cannot be proved")
		}
		if err := v.Set(probe); err != nil {
			return nil, err
		}
	}
	for _, p := range s.Programs {
		if here := p.symbol(); here != p.Hook || p.Optional {
			if n, _ := args(here); n < 0 {
				if delete(spec.Programs, p.Name); p.Optional {
					continue
				}
			} else if x := spec.Programs[p.Name]; x != nil {
				x.AttachTo = here
			}
		}
		if p.Args == 0 {
			continue
		}
		n, err := args(p.Hook)
		if err != nil {
			return nil, err
		}
		unfit := p.Else
		if n != p.Args {
			unfit = p.Name
		}
		delete(spec.Programs, unfit)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses the programs: %w", err)
	}
	return coll, nil
}

// kernelTypes is the kernel's description of its types, read once: it is large.
var kernelTypes = sync.OnceValues(btf.LoadKernelSpec)

// symbol is what the kernel calls the hook.
func (p *Program) symbol() string {
	prefix := map[string]string{"amd64": "__x64_", "arm64": "__arm64_"}[runtime.GOARCH]
	if !strings.HasPrefix(p.Hook, "sys_") {
		prefix = ""
	}
	return prefix + p.Hook
}

// args is how many arguments one of the kernel's functions has; -1 if it has no such function.
func args(name string) (int, error) {
	types, err := kernelTypes()
	if err != nil {
		return -1, fmt.Errorf("the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): %w", short(err))
	}
	var f *btf.Func
	if err := types.TypeByName(name, &f); err != nil {
		return -1, fmt.Errorf("the kernel has no function %s", name)
	}
	p, ok := f.Type.(*btf.FuncProto)
	if !ok {
		return -1, fmt.Errorf("the kernel does not describe the arguments of %s", name)
	}
	return len(p.Params), nil
}

func (s *Set) probe() error {
	var st unix.Statfs_t
	if err := unix.Statfs(Root, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		return errors.New("the kernel's file system for programs is not mounted at " + Root)
	}
	for _, p := range s.Programs {
		kind := ebpf.Tracing
		if p.Hook == Cgroup {
			kind = ebpf.CGroupDevice
			if _, err := cgroups(); err != nil {
				return err
			}
		}
		if err := features.HaveProgramType(kind); err != nil {
			return fmt.Errorf("the kernel does not take programs of type %s: %w", kind, short(err))
		}
		if p.Hook == Cgroup || p.Optional {
			continue
		}
		types, err := kernelTypes()
		if err != nil {
			return fmt.Errorf("the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): %w", short(err))
		}
		var f *btf.Func
		var point *btf.Typedef
		if types.TypeByName(p.Hook, &f) != nil && types.TypeByName("btf_trace_"+p.Hook, &point) != nil {
			return fmt.Errorf("the kernel has no function %s", p.Hook)
		}
	}
	return nil
}

// short leaves out the verifier's long log.
func short(err error) error {
	var v *ebpf.VerifierError
	if errors.As(err, &v) {
		return fmt.Errorf("%v", v)
	}
	return err
}
