package bpf

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// proof finds out whether programs that were attached are called; nil for sets that need none. hits says how often each was.
func (s *Set) proof() func(hits func(hook int) uint64) error {
	if s == &FileSize {
		return proveFileSize
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

// proveFileSize writes files in the ways that pass through functions which a compiler may have put into their callers, where no
// program could run at them. Each has to call those programs that it depends on.
func proveFileSize(hits func(hook int) uint64) error {
	file := func() (*os.File, error) {
		fd, err := unix.MemfdCreate("warder", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("cannot make a file in memory: %w", err)
		}
		return os.NewFile(uintptr(fd), "memory"), nil
	}
	from, err := file()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := file()
	if err != nil {
		return err
	}
	defer to.Close()
	a, b := int(from.Fd()), int(to.Fd())
	text := []byte("warder")
	ways := []struct {
		name  string
		hooks []int
		run   func() error
	}{
		{"write", []int{hookWrite, hookAsk}, func() error { _, err := unix.Write(a, text); return err }},
		{"pwrite", []int{hookWrite, hookAsk}, func() error { _, err := unix.Pwrite(a, text, 0); return err }},
		{"writev", []int{hookWrite, hookAsk}, func() error { _, err := unix.Writev(a, [][]byte{text}); return err }},
		{"pwritev2", []int{hookWrite, hookAsk}, func() error { _, err := unix.Pwritev2(a, [][]byte{text}, 0, unix.RWF_APPEND); return err }},
		{"sendfile", []int{hookWrite, hookAsk}, func() error { var at int64; _, err := unix.Sendfile(b, a, &at, len(text)); return err }},
		{"copy_file_range", []int{hookWrite, hookAsk}, func() error {
			var at int64
			_, err := unix.CopyFileRange(a, &at, b, nil, len(text), 0)
			if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil // asked, and not for files in memory
			}
			return err
		}},
		{"fallocate", []int{hookAlloc, hookAsk}, func() error { return unix.Fallocate(a, 0, 0, 4096) }},
		{"ftruncate", []int{hookCut}, func() error { return unix.Ftruncate(a, 8192) }},
		{"fcntl", []int{hookFlags}, func() error { _, err := unix.FcntlInt(uintptr(a), unix.F_SETFL, 0); return err }},
		{"open", []int{hookOpen}, func() error {
			f, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		}},
	}
	for _, w := range ways {
		var before []uint64
		for _, h := range w.hooks {
			before = append(before, hits(h))
		}
		if err := w.run(); err != nil {
			return fmt.Errorf("%s, to try the programs: %w", w.name, err)
		}
		for i, h := range w.hooks {
			if hits(h) == before[i] {
				return fmt.Errorf("the kernel does not call the programs on %s (hook %d)", w.name, h)
			}
		}
	}
	return nil
}
