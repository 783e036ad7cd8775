//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refusals tries to mount a disk a number of times (with "EINVAL": one without a file system), and prints how long each try took, in
// microseconds: the median and the 99th of a hundred. It fails if one succeeds.
func refusals(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	want := unix.EPERM
	if len(args) > 2 {
		want = unix.EINVAL
	}
	var took []time.Duration
	for range n {
		begun := time.Now()
		err := unix.Mount(args[0], "/mnt", "vfat", 0, "")
		took = append(took, time.Since(begun))
		if err != want {
			return fmt.Errorf("mount: %v", err)
		}
	}
	slices.Sort(took)
	fmt.Println(took[n/2].Microseconds(), took[n*99/100].Microseconds())
	os.Exit(0)
	return nil
}

// uring opens a file by io_uring, in the kernel's own worker thread, and ends well if that succeeds.
func uring(args []string) error {
	path := append([]byte(args[0]), 0)
	err := submit(func(e []byte) {
		const opOpenat, async, here = 18, 1 << 4, -100
		e[0], e[1] = opOpenat, async
		*(*int32)(unsafe.Pointer(&e[4])) = here
		*(*uint64)(unsafe.Pointer(&e[16])) = uint64(uintptr(unsafe.Pointer(&path[0])))
	})
	runtime.KeepAlive(path)
	if err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// submit has io_uring carry out one request, which fill writes down, and returns its error.
func submit(fill func(entry []byte)) error {
	var p struct {
		sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
		_                                                    [3]uint32
		sq                                                   struct {
			head, tail, mask, entries, flags, dropped, array, _ uint32
			addr                                                uint64
		}
		cq struct {
			head, tail, mask, entries, overflow, cqes, flags, _ uint32
			addr                                                uint64
		}
	}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return e
	}
	defer unix.Close(int(fd))
	rings, err := unix.Mmap(int(fd), 0, int(max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*16)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(rings) }()
	entries, err := unix.Mmap(int(fd), 0x10000000, int(p.sqEntries)*64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(entries) }()
	fill(entries[:64])
	at := func(n uint32) *uint32 { return (*uint32)(unsafe.Pointer(&rings[n])) }
	*at(p.sq.array) = 0
	*at(p.sq.tail) = 1
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, 1, 1, 1, 0, 0); e != 0 {
		return e
	}
	if result := *(*int32)(unsafe.Pointer(&rings[p.cq.cqes+8])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}
