package usb

import (
	"bytes"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
)

// device is the directory of one device in sysfs, held open. It stays that device's, whatever comes to stand
// at its port: of one that went away every file is gone. And its files are found without walking the path to
// it again, which is what takes longest on the way from a plug to its decision.
type device struct {
	name, dir string
	fd        int
}

// open opens a device, or a root hub. The caller closes it.
func (p *Ports) open(name string) (device, error) {
	d := device{name: name, dir: p.dir(name)}
	var err error
	d.fd, err = openat(unix.AT_FDCWD, d.dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return d, &fs.PathError{Op: "open", Path: d.dir, Err: err}
	}
	return d, nil
}

func (d device) close() { _ = unix.Close(d.fd) }

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
	case errors.Is(err, fs.ErrNotExist):
		return enforce.Reading{State: enforce.Absent, How: path}
	}
	return enforce.Reading{State: enforce.Unknown, How: path + ": " + err.Error()}
}

// slurp reads a sysfs file up to the size of b with three system calls: os.File would register each
// one with the poller, which costs as much again on the path from a plug to its decision.
func slurp(at int, path string, b []byte) (int, error) {
	fd, err := openat(at, path, unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
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

// spill writes a value into a sysfs file.
func spill(at int, path string, v enforce.Value) error {
	fd, err := openat(at, path, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Write(fd, []byte(v)); err != unix.EINTR {
			return err
		}
	}
}

func openat(at int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
