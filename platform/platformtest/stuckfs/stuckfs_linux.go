// Package stuckfs is a FUSE file system that a test mounts to make other programs wait for ever. It has a root and one
// file, "file", and never answers requests for the file's attributes and contents. A program that asks for them is
// stuck beyond SIGKILL until the file system is closed. It is only for tests, in which it plays a user who wants a
// privileged program to hang.
package stuckfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// FS is a mounted file system.
type FS struct {
	dir string
	dev int
	// Mute has it answer nobody who opens a file either.
	Mute atomic.Bool
	once sync.Once
	done chan struct{}
}

// The requests of the FUSE protocol that are answered (linux/fuse.h).
const (
	opLookup  = 1
	opGetattr = 3
	opOpen    = 14
	opInit    = 26
)

// Mount mounts a new one at a directory.
func Mount(dir string) (*FS, error) {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", dev, os.Getuid(), os.Getgid())
	if err := unix.Mount("stuckfs", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(dev)
		return nil, fmt.Errorf("cannot mount a FUSE file system: %w", err)
	}
	f := &FS{dir: dir, dev: dev, done: make(chan struct{})}
	go f.serve()
	return f, nil
}

// Close ends it, and with it every wait.
func (f *FS) Close() {
	f.once.Do(func() {
		_ = unix.Unmount(f.dir, unix.MNT_FORCE) // ends the connection, also if the mount is busy
		_ = unix.Unmount(f.dir, unix.MNT_DETACH)
		<-f.done
	})
}

// serve reads requests until the file system is closed.
func (f *FS) serve() {
	defer close(f.done)
	defer unix.Close(f.dev)
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(f.dev, b)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		f.answer(b[:n])
	}
}

// answer answers one request, or leaves it unanswered.
func (f *FS) answer(q []byte) {
	op, unique, node := binary.NativeEndian.Uint32(q[4:]), binary.NativeEndian.Uint64(q[8:]), binary.NativeEndian.Uint64(q[16:])
	switch {
	case op == opInit:
		out := make([]byte, 64)
		binary.NativeEndian.PutUint32(out[0:], 7)
		binary.NativeEndian.PutUint32(out[4:], 31)
		binary.NativeEndian.PutUint32(out[20:], 4096) // max_write
		f.reply(unique, out)
	case op == opGetattr && node == 1:
		out := make([]byte, 16+88)
		binary.NativeEndian.PutUint64(out[0:], 3600)
		attributes(out[16:], 1, unix.S_IFDIR|0o755)
		f.reply(unique, out)
	case op == opLookup && node == 1:
		out := make([]byte, 40+88)
		binary.NativeEndian.PutUint64(out[0:], 2)     // node
		binary.NativeEndian.PutUint64(out[16:], 3600) // how long the name is valid
		attributes(out[40:], 2, unix.S_IFREG|0o666)   // and the attributes are not
		f.reply(unique, out)
	case op == opOpen && !f.Mute.Load():
		f.reply(unique, make([]byte, 16))
	}
}

// attributes writes a struct fuse_attr.
func attributes(out []byte, inode uint64, mode uint32) {
	binary.NativeEndian.PutUint64(out[0:], inode)
	binary.NativeEndian.PutUint32(out[60:], mode)
	binary.NativeEndian.PutUint32(out[64:], 1)
}

// reply writes an answer with its header.
func (f *FS) reply(unique uint64, body []byte) {
	out := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(out[0:], uint32(16+len(body)))
	binary.NativeEndian.PutUint64(out[8:], unique)
	_, _ = unix.Write(f.dev, append(out, body...))
}

// Wait makes the calling program wait for ever: it asks for what is never answered.
func Wait(dir string) {
	var st unix.Stat_t
	_ = unix.Stat(dir+"/file", &st)
	time.Sleep(time.Hour) // only if it was answered after all
}
