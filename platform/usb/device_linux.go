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

// device is the open directory of one device in sysfs. It always refers to that device: if the device goes away, its
// files are gone, whatever is plugged into the port next. Opening files relative to it also avoids walking the path
// again, which is the slowest part between a plug and its decision.
type device struct {
	name, dir string
	fd        int
	number    int      // as announced; 0: read it from its file
	arrival   *arrival // until its own directory is opened; otherwise nil
}

// arrival is a device that has just arrived: its files are opened by name in its hub's directory. Everything read that
// way belongs to one and the same device if authorized, opened first, can still be read afterwards.
type arrival struct {
	hub        *hub
	authorized int // its open file; -1 if nothing has to be written
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

// meet opens an arriving device through the directory of its hub, because the path in its announcement is long. act: it
// may be written.
func (p *Ports) meet(c came, act bool) (device, error) {
	if at, name := path.Split(c.path); name == c.name && path.Clean(c.path) == c.path {
		how, file := unix.O_RDONLY, "/descriptors"
		if act {
			how, file = unix.O_RDWR, "/authorized"
		}
		if h, fd, err := p.hubs.take(p.Root, at, name+file, how); err == nil {
			if !act {
				_ = unix.Close(fd)
				fd = -1
			}
			return device{name: c.name, dir: p.dir(c.name), fd: -1, number: c.number, arrival: &arrival{h, fd}}, nil
		}
	}
	return p.open(c.name)
}

// settle opens the directory of what is at the port now, the arriving device or another. The caller closes the result,
// and no longer needs d.
func (p *Ports) settle(d device) (device, error) {
	if d.arrival == nil {
		return d, nil
	}
	defer d.close()
	at := device{name: d.name, dir: d.dir, number: d.number}
	var err error
	if at.fd, err = openat(d.arrival.hub.fd, d.name, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return device{fd: -1}, &fs.PathError{Op: "open", Path: d.dir, Err: err}
	}
	return at, nil
}

// hubs are the open directories of hubs at which something arrived. The directory of a hub that went away is empty.
type hubs struct {
	mu   sync.Mutex
	open map[string]*hub
}

type hub struct {
	of    *hubs
	fd    int
	users int // plus one while it is in the list
}

// maxHubs bounds them; most machines have fewer than ten.
const maxHubs = 64

// take opens a file below a hub; put returns the hub.
func (s *hubs) take(root, at, file string, how int) (*hub, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.open[at]; ok {
		if got, err := openat(h.fd, file, how); err == nil {
			h.users++
			return h, got, nil
		}
		s.drop(at) // another hub is there by now, or none
	}
	fd, err := openat(unix.AT_FDCWD, root+at, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, -1, err
	}
	h := &hub{of: s, fd: fd, users: 1}
	if len(s.open) >= maxHubs {
		s.dropAll()
	}
	if s.open == nil {
		s.open = map[string]*hub{}
	}
	s.open[at] = h
	got, err := openat(fd, file, how)
	if err != nil {
		return nil, -1, err
	}
	h.users++
	return h, got, nil
}

// put returns a hub that take has lent.
func (h *hub) put() {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.leave()
}

// leave closes a hub's directory when its last user has left.
func (h *hub) leave() {
	if h.users--; h.users == 0 {
		_ = unix.Close(h.fd)
	}
}

func (s *hubs) drop(at string) {
	s.open[at].leave()
	delete(s.open, at)
}

// dropAll drops every hub from the list.
func (s *hubs) dropAll() {
	for at := range s.open {
		s.drop(at)
	}
}

// close is called when no more devices arrive.
func (s *hubs) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropAll()
}

// close closes a device's directory.
func (d device) close() {
	if d.arrival == nil {
		_ = unix.Close(d.fd)
		return
	}
	if d.arrival.authorized >= 0 {
		_ = unix.Close(d.arrival.authorized)
	}
	d.arrival.hub.put()
}

// at returns the directory and name with which to open one of its files.
func (d device) at(file string) (int, string) {
	if d.arrival != nil {
		return d.arrival.hub.fd, d.name + "/" + file
	}
	return d.fd, file
}

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
	dir, at := d.at(file)
	n, err := slurp(dir, at, b)
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

// reading returns one of its files as evidence.
func (d device) reading(file string) enforce.Reading {
	v, err := d.text(file)
	return readingOf(d.dir+"/"+file, v, err)
}

// edit returns its file authorized, open for reading and writing, and a function that closes it.
func (d device) edit() (int, func(), error) {
	if d.arrival != nil && d.arrival.authorized >= 0 {
		return d.arrival.authorized, func() {}, nil
	}
	dir, at := d.at("authorized")
	fd, err := openat(dir, at, unix.O_RDWR)
	if err != nil {
		return -1, nil, &fs.PathError{Op: "open", Path: d.dir + "/authorized", Err: err}
	}
	return fd, func() { _ = unix.Close(fd) }, nil
}

// reading returns one file as evidence.
func reading(path string) enforce.Reading {
	b := make([]byte, 512)
	n, err := slurp(unix.AT_FDCWD, path, b)
	return readingOf(path, string(bytes.TrimRight(b[:n], "\n")), err)
}

// readingOf makes evidence of a file's content, or of the error.
func readingOf(path, v string, err error) enforce.Reading {
	switch {
	case err == nil:
		return enforce.Reading{Value: enforce.Value(v), State: enforce.Present, How: path}
	case unplugged(err):
		return enforce.Reading{State: enforce.Absent, How: path}
	}
	return enforce.Reading{State: enforce.Unknown, How: path + ": " + err.Error()}
}

// slurp reads a sysfs file up to the size of b with three system calls. os.File would register it with the poller,
// which costs as much again between a plug and its decision.
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

// openat opens a file relative to a directory, and repeats after EINTR.
func openat(at int, file string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, file, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
