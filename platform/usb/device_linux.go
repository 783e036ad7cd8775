package usb

import (
	"bytes"
	"io/fs"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
)

// device is the directory of one device in sysfs, held open. It stays that device's, whatever comes to stand
// at its port: of one that went away every file is gone. And its files are found without walking the path to
// it again, which is what takes longest on the way from a plug to its decision.
type device struct {
	name, dir string
	fd        int
	number    int // as it was announced; 0: its file says
}

// open opens a device, or a root hub. The caller closes it.
func (p *Ports) open(name string) (device, error) {
	d := device{name: name, dir: p.dir(name)}
	var err error
	if d.fd, err = openat(unix.AT_FDCWD, d.dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return d, &fs.PathError{Op: "open", Path: d.dir, Err: err}
	}
	return d, nil
}

// meet opens a device that came, from the directory of the hub that it came to: the path that its announcement
// names is long.
func (p *Ports) meet(c came) (device, error) {
	if c.path != "" && path.Clean(c.path) == c.path {
		if fd, err := p.hubs.open(p.Root, c.path); err == nil {
			return device{name: c.name, dir: p.dir(c.name), fd: fd, number: c.number}, nil
		}
	}
	return p.open(c.name)
}

// hubs are the directories of hubs that something came to, held open. That of a hub that went away has nothing
// in it.
type hubs struct {
	mu  sync.Mutex
	fds map[string]int
}

// maxHubs bounds them; most machines have fewer than ten.
const maxHubs = 64

// open opens what is at a path below the root of sysfs.
func (h *hubs) open(root, at string) (int, error) {
	const how = unix.O_PATH | unix.O_DIRECTORY
	hub, name := path.Split(at)
	h.mu.Lock()
	defer h.mu.Unlock()
	if fd, ok := h.fds[hub]; ok {
		if got, err := openat(fd, name, how); err == nil {
			return got, nil
		}
		_ = unix.Close(fd) // another hub is there by now, or none
		delete(h.fds, hub)
	}
	fd, err := openat(unix.AT_FDCWD, root+hub, how)
	if err != nil {
		return -1, err
	}
	if len(h.fds) >= maxHubs {
		h.drop()
	}
	if h.fds == nil {
		h.fds = map[string]int{}
	}
	h.fds[hub] = fd
	return openat(fd, name, how)
}

// drop closes them all.
func (h *hubs) drop() {
	for hub, fd := range h.fds {
		_ = unix.Close(fd)
		delete(h.fds, hub)
	}
}

// close is called when no device is met any more.
func (h *hubs) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop()
}

func (d device) close() { _ = unix.Close(d.fd) }

// which is the device's number on its bus.
func (d device) which() (int, error) {
	if d.number > 0 {
		return d.number, nil
	}
	v, err := d.text("devnum")
	if err != nil {
		return 0, err
	}
	n, _ := strconv.Atoi(v)
	return n, nil
}

// slurp reads one of its files up to the size of b.
func (d device) slurp(file string, b []byte) (int, error) {
	n, err := slurp(d.fd, file, b)
	if err != nil {
		return n, &fs.PathError{Op: "read", Path: d.dir + "/" + file, Err: err}
	}
	return n, nil
}

// text reads a small file without its newline.
func (d device) text(file string) (string, error) {
	b := make([]byte, 512) // an attribute is at most a page; none here comes near this
	n, err := d.slurp(file, b)
	if err != nil {
		return "", err
	}
	return string(bytes.TrimRight(b[:n], "\n")), nil
}

// reading is one of its files as evidence.
func (d device) reading(file string) enforce.Reading {
	v, err := d.text(file)
	return readingOf(d.dir+"/"+file, v, err)
}

// edit opens one of its files to be read and written.
func (d device) edit(file string) (int, error) {
	fd, err := openat(d.fd, file, unix.O_RDWR)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: d.dir + "/" + file, Err: err}
	}
	return fd, nil
}

// reading is one file as evidence.
func reading(path string) enforce.Reading {
	b := make([]byte, 512)
	n, err := slurp(unix.AT_FDCWD, path, b)
	return readingOf(path, string(bytes.TrimRight(b[:n], "\n")), err)
}

func readingOf(path, v string, err error) enforce.Reading {
	switch {
	case err == nil:
		return enforce.Reading{Value: enforce.Value(v), State: enforce.Present, How: path}
	case unplugged(err):
		return enforce.Reading{State: enforce.Absent, How: path}
	}
	return enforce.Reading{State: enforce.Unknown, How: path + ": " + err.Error()}
}

// slurp reads a sysfs file up to the size of b with three system calls: os.File would register each
// one with the poller, which costs as much again on the path from a plug to its decision.
func slurp(at int, file string, b []byte) (int, error) {
	fd, err := openat(at, file, unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return drain(fd, b)
}

// drain reads an open file from its beginning.
func drain(fd int, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Pread(fd, b[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		n += m
		if m == 0 || m < 4096 && n < len(b) {
			break // attributes and descriptors come whole, or in pages
		}
	}
	return n, nil
}

// spill writes a value into an open file.
func spill(fd int, v enforce.Value) error {
	for {
		if _, err := unix.Pwrite(fd, []byte(v), 0); err != unix.EINTR {
			return err
		}
	}
}

func openat(at int, file string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, file, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
