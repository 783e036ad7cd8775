package bpf

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// proof finds out whether programs that were attached are called; nil for sets that need none. hits says how often each was.
func (s *Set) proof() func(hits func(hook int) uint64) error {
	switch s {
	case &FileSize:
		return proveFileSize
	case &CloudSync, &Screenshots:
		return proveStarts
	}
	return nil
}

// The order of filesize.c's hooks.
const (
	hookWrite = 2 + iota
	hookAlloc
	_
	hookAsk
	hookCut
	hookOpen
	hookFlags
)

// The order of cloudsync.c's hooks.
const (
	hookExec = iota
	hookMap
	hookProtect
)

// way is one way to call programs, and which.
type way struct {
	name  string
	hooks []int
	run   func() error
	// barred: the unit's own filter of system calls (MemoryDenyWriteExecute) may refuse it before the kernel gets to ask. Then it
	// cannot be tried.
	barred bool
}

// proveFileSize writes files in the ways that pass through functions which a compiler may have put into their callers, where no
// program could run at them. Each has to call those programs that it depends on.
func proveFileSize(hits func(hook int) uint64) error {
	from, err := inMemory()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := inMemory()
	if err != nil {
		return err
	}
	defer to.Close()
	a, b := int(from.Fd()), int(to.Fd())
	text := []byte("warder")
	return called(hits, []way{
		{name: "write", hooks: []int{hookWrite, hookAsk}, run: func() error { _, err := unix.Write(a, text); return err }},
		{name: "pwrite", hooks: []int{hookWrite, hookAsk}, run: func() error { _, err := unix.Pwrite(a, text, 0); return err }},
		{name: "writev", hooks: []int{hookWrite, hookAsk}, run: func() error { _, err := unix.Writev(a, [][]byte{text}); return err }},
		{name: "pwritev2", hooks: []int{hookWrite, hookAsk}, run: func() error { _, err := unix.Pwritev2(a, [][]byte{text}, 0, unix.RWF_APPEND); return err }},
		{name: "sendfile", hooks: []int{hookWrite, hookAsk}, run: func() error { var at int64; _, err := unix.Sendfile(b, a, &at, len(text)); return err }},
		{name: "copy_file_range", hooks: []int{hookWrite, hookAsk}, run: func() error {
			var at int64
			_, err := unix.CopyFileRange(a, &at, b, nil, len(text), 0)
			if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil // asked, and not for files in memory
			}
			return err
		}},
		{name: "fallocate", hooks: []int{hookAlloc, hookAsk}, run: func() error { return unix.Fallocate(a, 0, 0, 4096) }},
		{name: "ftruncate", hooks: []int{hookCut}, run: func() error { return unix.Ftruncate(a, 8192) }},
		{name: "fcntl", hooks: []int{hookFlags}, run: func() error { _, err := unix.FcntlInt(uintptr(a), unix.F_SETFL, 0); return err }},
		{name: "open", hooks: []int{hookOpen}, run: func() error {
			f, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		}},
	})
}

// proveStarts starts something that is no program, and maps it.
func proveStarts(hits func(hook int) uint64) error {
	f, err := inMemory()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("warder"); err != nil {
		return err
	}
	return called(hits, []way{
		{name: "execve", hooks: []int{hookExec}, run: func() error {
			if err := unix.Exec(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []string{"none"}, nil); !errors.Is(err, unix.ENOEXEC) {
				return err
			}
			return nil
		}},
		{name: "mmap", hooks: []int{hookMap}, run: func() error {
			b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
			if err == nil {
				err = unix.Munmap(b)
			}
			return err
		}},
		{name: "mprotect", hooks: []int{hookProtect}, barred: true, run: func() error {
			b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
			if err != nil {
				return err
			}
			return errors.Join(unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC), unix.Munmap(b))
		}},
	})
}

// inMemory makes a file in memory.
func inMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("warder", unix.MFD_CLOEXEC|unix.MFD_EXEC) // some machines let none of them be run otherwise
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("warder", unix.MFD_CLOEXEC) // Linux before 6.3
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "memory"), nil
}

// called goes each way, which has to call its programs.
func called(hits func(hook int) uint64, ways []way) error {
	for _, w := range ways {
		var before []uint64
		for _, h := range w.hooks {
			before = append(before, hits(h))
		}
		err := w.run()
		for i, h := range w.hooks {
			if hits(h) != before[i] {
				continue
			}
			if w.barred && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
				continue
			}
			if err != nil {
				return fmt.Errorf("%s, to try the programs: %w", w.name, err)
			}
			return fmt.Errorf("the kernel does not call the programs on %s (hook %d)", w.name, h)
		}
		// They were asked. What somebody else refuses afterwards is not our concern.
	}
	return nil
}
