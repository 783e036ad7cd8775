//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// grow makes files in a directory in every way that there is, as large as the limit and one byte larger. It prints each way by which
// a file has grown past the limit or cannot reach it, each error that is not EFBIG, and how many ways there were.
func grow(args []string) error {
	dir := args[0]
	limit, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	bad := 0
	complain := func(format string, a ...any) { bad++; fmt.Printf(format+"\n", a...) }
	size := func(path string) int64 {
		st, err := os.Stat(path)
		if err != nil {
			return -1
		}
		return st.Size()
	}
	file, err := os.CreateTemp("", "source")
	if err != nil {
		return err
	}
	source := file.Name()
	if _, err := file.Write(bytes.Repeat([]byte("warder!\n"), int(limit/8)+1)); err != nil {
		return err
	}
	_ = file.Close()
	for _, w := range ways {
		path := filepath.Join(dir, "grow")
		_ = os.Remove(path)
		flags := unix.O_RDWR | unix.O_CREAT | w.flags
		fd, err := unix.Open(path, flags, 0o600)
		if err != nil {
			if w.flags&unix.O_DIRECT != 0 && errors.Is(err, unix.EINVAL) {
				continue // not in this file system
			}
			return fmt.Errorf("%s: %w", path, err)
		}
		x := &target{fd: fd, path: path, source: source, limit: limit}
		if !w.late { // up to one unit below the limit, so that the way itself takes the last step
			if err := unix.Ftruncate(fd, limit-w.unit()); err != nil {
				complain("%s: cannot be made: %v", w.name, err)
			}
			_, _ = unix.Seek(fd, limit-w.unit(), io.SeekStart)
		}
		err = w.reach(x, limit)
		switch {
		case err == nil && !w.late && !w.keeps && size(path) == limit-w.unit():
			fmt.Printf("(%s writes elsewhere in this file system)\n", w.name) // overlay before Linux 6.5 does not pass RWF_APPEND on
			_ = unix.Close(fd)
			continue
		case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, errUnfit):
			fmt.Printf("(%s is not known to this file system)\n", w.name)
			_ = unix.Close(fd)
			continue
		case err != nil:
			complain("%s: up to the limit: %v", w.name, err)
		case !w.keeps && size(path) != limit:
			complain("%s: up to the limit: %d bytes", w.name, size(path))
		}
		if err := w.pass(x, limit); !errors.Is(err, unix.EFBIG) && !errors.Is(err, unix.EOPNOTSUPP) {
			complain("%s: past the limit: %v, %d bytes", w.name, err, size(path))
		}
		if size(path) > limit {
			complain("%s: has grown to %d bytes", w.name, size(path))
		}
		_ = unix.Close(fd)
		_ = os.Remove(path)
	}
	if err := crowd(dir, limit); err != nil {
		complain("many at once: %v", err)
	}
	if err := flip(dir, limit); err != nil {
		complain("O_APPEND changed: %v", err)
	}
	fmt.Printf("%d ways, %d bad\n", len(ways)+2, bad)
	_ = os.Remove(source)
	os.Exit(min(bad, 1))
	return nil
}

type target struct {
	fd           int
	path, source string
	limit        int64
}

var errUnfit = errors.New("unfit")

// way is one way of making a file larger.
type way struct {
	name        string
	flags       int
	late        bool // it takes all of the way, from an empty file
	block       bool // it writes blocks
	keeps       bool // the file's size does not show it
	reach, pass func(t *target, limit int64) error
}

func (w *way) unit() int64 {
	if w.block {
		return 4096
	}
	return 1
}

// at makes both steps from one that writes a unit at a position.
func at(name string, flags int, block bool, write func(t *target, pos int64, b []byte) error) way {
	w := way{name: name, flags: flags, block: block}
	b := aligned(w.unit())
	w.reach = func(t *target, limit int64) error { return write(t, limit-w.unit(), b) }
	w.pass = func(t *target, limit int64) error { return write(t, limit, b) }
	return w
}

func aligned(n int64) []byte {
	b, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	return b[:n]
}

func got(_ int, err error) error { return err }

// exact makes both steps from one that gives the file a size.
func exact(name string, to func(t *target, size int64) error) way {
	return way{name: name, late: true, reach: to, pass: func(t *target, limit int64) error { return to(t, limit+1) }}
}

// from makes both steps from one that copies from another file to a position.
func from(name string, copy func(t *target, in int, n, pos int64) error) way {
	run := func(extra int64) func(t *target, limit int64) error {
		return func(t *target, limit int64) error {
			in, err := unix.Open(t.source, unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(in)
			return copy(t, in, 1+extra, limit-1)
		}
	}
	return way{name: name, reach: run(0), pass: run(1)}
}

// clone makes both steps from one that shares a part of a file on the same file system: 4096 bytes at the end.
func clone(name string, share func(t *target, in int, n, pos int64) error) way {
	run := func(extra int64) func(t *target, limit int64) error {
		return func(t *target, limit int64) error {
			near := t.path + "-near"
			defer os.Remove(near)
			in, err := unix.Open(near, unix.O_RDWR|unix.O_CREAT, 0o600)
			if err != nil {
				return err
			}
			defer unix.Close(in)
			if _, err := unix.Pwrite(in, bytes.Repeat([]byte("x"), 8192), 0); err != nil {
				return err
			}
			return share(t, in, 4096+extra, limit-4096)
		}
	}
	return way{name: name, block: true, reach: run(0), pass: run(4096)}
}

// rwfNoAppend has a write go to its position although the file is appended to; since Linux 6.9.
const rwfNoAppend = 0x20

var ways = []way{
	at("write", 0, false, func(t *target, _ int64, b []byte) error { return got(unix.Write(t.fd, b)) }),
	at("pwrite", 0, false, func(t *target, pos int64, b []byte) error { return got(unix.Pwrite(t.fd, b, pos)) }),
	at("writev", 0, false, func(t *target, _ int64, b []byte) error { return got(unix.Writev(t.fd, [][]byte{b})) }),
	at("pwritev", 0, false, func(t *target, pos int64, b []byte) error { return got(unix.Pwritev(t.fd, [][]byte{b}, pos)) }),
	at("append", unix.O_APPEND, false, func(t *target, _ int64, b []byte) error { return got(unix.Write(t.fd, b)) }),
	at("pwrite of an appended file", unix.O_APPEND, false, func(t *target, _ int64, b []byte) error { return got(unix.Pwrite(t.fd, b, 0)) }),
	at("pwritev2, appending", 0, false, func(t *target, _ int64, b []byte) error {
		return got(unix.Pwritev2(t.fd, [][]byte{b}, 0, unix.RWF_APPEND))
	}),
	at("pwritev2, at the file's position", 0, false, func(t *target, _ int64, b []byte) error { return got(unix.Pwritev2(t.fd, [][]byte{b}, -1, 0)) }),
	at("pwritev2, not appending", unix.O_APPEND, false, func(t *target, pos int64, b []byte) error {
		return got(unix.Pwritev2(t.fd, [][]byte{b}, pos, rwfNoAppend))
	}),
	{name: "pwritev2, not appending, far away", flags: unix.O_APPEND, late: true, reach: func(t *target, n int64) error { return unix.Ftruncate(t.fd, n) },
		pass: func(t *target, n int64) error {
			return got(unix.Pwritev2(t.fd, [][]byte{[]byte("x")}, 1<<33, rwfNoAppend))
		}},
	at("io_uring, not appending", unix.O_APPEND, false, func(t *target, pos int64, b []byte) error { return ringWrite(t.fd, b, uint64(pos), rwfNoAppend) }),
	at("O_DIRECT", unix.O_DIRECT, true, func(t *target, pos int64, b []byte) error { return got(unix.Pwrite(t.fd, b, pos)) }),
	at("O_DIRECT, appending", unix.O_DIRECT|unix.O_APPEND, true, func(t *target, _ int64, b []byte) error { return got(unix.Write(t.fd, b)) }),
	at("O_SYNC", unix.O_SYNC, false, func(t *target, _ int64, b []byte) error { return got(unix.Write(t.fd, b)) }),
	at("io_uring", 0, false, func(t *target, pos int64, b []byte) error { return ringWrite(t.fd, b, uint64(pos), 0) }),
	at("io_uring, appending", 0, false, func(t *target, _ int64, b []byte) error { return ringWrite(t.fd, b, 0, unix.RWF_APPEND) }),
	at("io_uring, at the file's position", 0, false, func(t *target, _ int64, b []byte) error { return ringWrite(t.fd, b, ^uint64(0), 0) }),
	at("AIO", 0, false, func(t *target, pos int64, b []byte) error { return aioWrite(t.fd, b, pos, 0) }),
	at("AIO, appending", 0, false, func(t *target, _ int64, b []byte) error { return aioWrite(t.fd, b, 0, unix.RWF_APPEND) }),
	at("AIO of O_DIRECT", unix.O_DIRECT, true, func(t *target, pos int64, b []byte) error { return aioWrite(t.fd, b, pos, 0) }),
	exact("ftruncate", func(t *target, n int64) error { return unix.Ftruncate(t.fd, n) }),
	exact("truncate", func(t *target, n int64) error { return unix.Truncate(t.path, n) }),
	exact("fallocate", func(t *target, n int64) error { return unix.Fallocate(t.fd, 0, 0, n) }),
	exact("fallocate of zeroes", func(t *target, n int64) error { return unix.Fallocate(t.fd, unix.FALLOC_FL_ZERO_RANGE, 0, n) }),
	exact("io_uring, fallocate", func(t *target, n int64) error { return ringAllocate(t.fd, n) }),
	{name: "fallocate that keeps the size", late: true, keeps: true,
		reach: func(t *target, n int64) error { return unix.Fallocate(t.fd, unix.FALLOC_FL_KEEP_SIZE, 0, n) },
		pass:  func(t *target, n int64) error { return unix.Fallocate(t.fd, unix.FALLOC_FL_KEEP_SIZE, 0, n+1) }},
	{name: "fallocate that inserts", block: true, reach: func(t *target, n int64) error { return unix.Fallocate(t.fd, unix.FALLOC_FL_INSERT_RANGE, 0, 4096) },
		pass: func(t *target, n int64) error { return unix.Fallocate(t.fd, unix.FALLOC_FL_INSERT_RANGE, 0, 4096) }},
	{name: "a mapping", late: true, reach: func(t *target, n int64) error {
		if err := unix.Ftruncate(t.fd, n); err != nil {
			return err
		}
		b, err := unix.Mmap(t.fd, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		b[n-1] = 'x'
		return unix.Munmap(b)
	}, pass: func(t *target, n int64) error { return unix.Ftruncate(t.fd, n+1) }},
	from("sendfile", func(t *target, in int, n, pos int64) error {
		if _, err := unix.Seek(t.fd, pos, io.SeekStart); err != nil {
			return err
		}
		return got(unix.Sendfile(t.fd, in, nil, int(n)))
	}),
	from("copy_file_range", func(t *target, in int, n, pos int64) error {
		err := got(unix.CopyFileRange(in, nil, t.fd, &pos, int(n), 0))
		if errors.Is(err, unix.EXDEV) {
			return errUnfit // between two file systems: not since Linux 5.19
		}
		return err
	}),
	from("splice", func(t *target, in int, n, pos int64) error {
		var p [2]int
		if err := unix.Pipe(p[:]); err != nil {
			return err
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		if _, err := unix.Write(p[1], make([]byte, n)); err != nil {
			return err
		}
		_, err := unix.Splice(p[0], nil, t.fd, &pos, int(n), 0)
		return err
	}),
	clone("FICLONERANGE", func(t *target, in int, n, pos int64) error {
		err := unix.IoctlFileCloneRange(t.fd, &unix.FileCloneRange{Src_fd: int64(in), Src_length: uint64(n), Dest_offset: uint64(pos)})
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
			return errUnfit
		}
		return err
	}),
	clone("copy_file_range in one file system", func(t *target, in int, n, pos int64) error {
		var begin int64
		return got(unix.CopyFileRange(in, &begin, t.fd, &pos, int(n), 0))
	}),
	{name: "a hole far away", late: true, reach: func(t *target, n int64) error { return unix.Ftruncate(t.fd, n) },
		pass: func(t *target, n int64) error { return got(unix.Pwrite(t.fd, []byte("x"), 1<<33)) }},
	{name: "a write that begins below", late: true, reach: func(t *target, n int64) error { return unix.Ftruncate(t.fd, n) },
		pass: func(t *target, n int64) error { return got(unix.Pwrite(t.fd, make([]byte, 8192), n-100)) }},
}

// crowd has many threads append to a file at once, each as much as would fit alone, and one write near the limit. Some of it has to
// arrive, and when all have ended, exactly what is left fits.
func crowd(dir string, limit int64) error {
	path := filepath.Join(dir, "crowd")
	defer os.Remove(path)
	piece := make([]byte, limit*2/3)
	for range 5 {
		_ = os.Remove(path)
		var all sync.WaitGroup
		begin := make(chan struct{})
		for i := range 16 {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|map[bool]int{true: os.O_APPEND}[i%2 == 0], 0o600)
			if err != nil {
				return err
			}
			all.Go(func() {
				defer f.Close()
				<-begin
				switch {
				case i == 7:
					_, _ = unix.Pwrite(int(f.Fd()), piece[:1], limit-limit/16)
				case i%2 == 0:
					_, _ = f.Write(piece)
				default:
					_, _ = unix.Pwritev2(int(f.Fd()), [][]byte{piece}, 0, unix.RWF_APPEND)
				}
			})
		}
		close(begin)
		all.Wait()
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Size() > limit || st.Size() == 0 {
			return fmt.Errorf("%d bytes", st.Size())
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		if _, err := f.Write(make([]byte, limit-st.Size())); err != nil {
			return fmt.Errorf("the rest of %d bytes: %w", st.Size(), err)
		}
		if _, err := f.Write([]byte("x")); !errors.Is(err, unix.EFBIG) {
			return fmt.Errorf("one more: %v", err)
		}
		_ = f.Close()
	}
	return nil
}

// flip changes whether a file is appended to while its beginning is written. It has its largest size: whatever is appended is too much.
func flip(dir string, limit int64) error {
	path := filepath.Join(dir, "flip")
	defer os.Remove(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var stop atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; !stop.Load(); n++ {
			_, _ = unix.FcntlInt(f.Fd(), unix.F_SETFL, n%2*unix.O_APPEND)
		}
	})
	if err := unix.Ftruncate(int(f.Fd()), limit); err != nil {
		return err
	}
	b := make([]byte, 4096)
	for range 1000 {
		_, _ = unix.Pwrite(int(f.Fd()), b, 0)
	}
	stop.Store(true)
	all.Wait()
	if st, err := f.Stat(); err == nil && st.Size() > limit {
		return fmt.Errorf("has grown to %d bytes", st.Size())
	}
	return nil
}

func ringWrite(fd int, b []byte, pos uint64, flags int) error {
	const opWrite = 23
	return submit(func(e []byte) {
		e[0] = opWrite
		*(*int32)(unsafe.Pointer(&e[4])) = int32(fd)
		*(*uint64)(unsafe.Pointer(&e[8])) = pos
		*(*uint64)(unsafe.Pointer(&e[16])) = uint64(uintptr(unsafe.Pointer(&b[0])))
		*(*uint32)(unsafe.Pointer(&e[24])) = uint32(len(b))
		*(*uint32)(unsafe.Pointer(&e[28])) = uint32(flags)
	})
}

func ringAllocate(fd int, n int64) error {
	const opFallocate = 17
	return submit(func(e []byte) {
		e[0] = opFallocate
		*(*int32)(unsafe.Pointer(&e[4])) = int32(fd)
		*(*uint64)(unsafe.Pointer(&e[16])) = uint64(n) // the length is where an address is otherwise
	})
}

// aioWrite writes by the kernel's older asynchronous calls (io_submit).
func aioWrite(fd int, b []byte, pos int64, flags uint32) error {
	type iocb struct {
		_          uint64
		_, flags   uint32
		op         uint16
		_          int16
		fd         uint32
		buf, bytes uint64
		offset     int64
		_          uint64
		_, _       uint32
	}
	var ctx uintptr
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ctx)), 0); e != 0 {
		return e
	}
	defer unix.Syscall(unix.SYS_IO_DESTROY, ctx, 0, 0)
	const opPwrite = 1
	c := &iocb{op: opPwrite, flags: flags, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&b[0]))), bytes: uint64(len(b)), offset: pos}
	list := []*iocb{c}
	if _, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, 1, uintptr(unsafe.Pointer(&list[0]))); e != 0 {
		return e
	}
	var ev [4]int64
	if _, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, ctx, 1, 1, uintptr(unsafe.Pointer(&ev)), 0, 0); e != 0 {
		return e
	}
	if ev[2] < 0 {
		return unix.Errno(-ev[2])
	}
	return nil
}
