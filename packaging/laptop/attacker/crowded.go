//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// crowded has many threads write to files of a directory at the same time, for so many seconds: one half what fits, the other half what
// does not. It prints how many writes did what they should not. On a kernel that takes the processor away from a thread in the middle
// of a program that is attached to one of its functions, others come by that program meanwhile.
func crowded(args []string) error {
	limit, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	seconds, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	var grown, refused, all atomic.Int64
	var threads sync.WaitGroup
	var files []*os.File
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for i := range 32 {
		f, err := os.OpenFile(filepath.Join(args[0], fmt.Sprintf("crowd%d", i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		files = append(files, f)
		threads.Go(func() {
			runtime.LockOSThread()
			fd, one := int(f.Fd()), []byte{1}
			for time.Now().Before(end) {
				for range 100 {
					all.Add(1)
					if i%2 == 0 {
						if _, err := unix.Pwrite(fd, one, int64(i)); err != nil {
							refused.Add(1)
						}
					} else if _, err := unix.Pwrite(fd, one, limit); err == nil {
						grown.Add(1)
						_ = unix.Ftruncate(fd, 0)
					}
				}
			}
		})
	}
	threads.Wait()
	for _, f := range files {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	fmt.Printf("%d writes: %d have grown, %d were refused\n", all.Load(), grown.Load(), refused.Load())
	return missed("/sys/fs/bpf/warder")
}

// missed prints how often the kernel has passed over each program.
func missed(dir string) error {
	list, _ := filepath.Glob(dir + "/*/link_*")
	for _, path := range list {
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		info, err := l.Info()
		if err != nil {
			return err
		}
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return err
		}
		s, err := p.Stats()
		if err != nil {
			return err
		}
		if s.RecursionMisses > 0 {
			fmt.Println(filepath.Base(path), s.RecursionMisses)
		}
		p.Close()
		l.Close()
	}
	os.Exit(0)
	return nil
}
