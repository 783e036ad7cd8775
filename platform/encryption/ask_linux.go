package encryption

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// asker asks the kernel which device something is. A name is not enough: the path of a loop device's file belongs to
// the namespace in which it was made, a mount can hide another one, and a node can have any name.
type asker interface {
	// node returns the number of a block device by its node below /dev.
	node(path string) (dev string, err error)
	// backing returns the number of the file system with a loop device's file, or of the block device that the file is.
	backing(name string) (dev, device string, err error)
	// swap reports whether a path is a swap file in use, and returns the number of its file system.
	swap(path string) (dev string, err error)
}

// kernel asks the real kernel. Questions about a file system have a time limit, because a user's file system may never
// answer.
type kernel struct {
	stuck atomic.Int32
}

// The bounds of waiting.
const (
	askLimit = time.Second
	maxStuck = 4
)

var errStuck = errors.New("its file system does not answer")

// inTime runs a question with a time limit, and refuses when too many are stuck.
func (k *kernel) inTime(f func() (string, string, error)) (a, b string, err error) {
	if k.stuck.Load() >= maxStuck {
		return "", "", errStuck
	}
	type answer struct {
		a, b string
		err  error
	}
	c := make(chan answer, 1)
	k.stuck.Add(1)
	go func() { // ends when the kernel answers; there are at most maxStuck of them
		defer k.stuck.Add(-1)
		x, y, err := f()
		c <- answer{x, y, err}
	}()
	select {
	case x := <-c:
		return x.a, x.b, x.err
	case <-time.After(askLimit):
		return "", "", errStuck
	}
}

// numbers formats a device number as "major:minor".
func numbers(dev uint64) string {
	if dev == 0 {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
}

func (k *kernel) node(path string) (string, error) {
	to, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(path, "/dev/") || !strings.HasPrefix(to, "/dev/") {
		return "", errors.New("it is not a device node under /dev")
	}
	var st unix.Stat_t
	if err := unix.Lstat(to, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", errors.New("it is not a block device")
	}
	return numbers(st.Rdev), nil
}

func (k *kernel) backing(name string) (dev, device string, err error) {
	return k.inTime(func() (string, string, error) {
		f, err := os.OpenFile("/dev/"+name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", "", err
		}
		defer f.Close()
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		if err != nil {
			return "", "", err
		}
		return numbers(info.Device), numbers(info.Rdevice), nil
	})
}

func (k *kernel) swap(path string) (string, error) {
	dev, _, err := k.inTime(func() (string, string, error) {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", "", err
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return "", "", err
		}
		// The kernel refuses every write to a swap file in use, even one of zero bytes.
		if _, err := unix.Pwrite(int(f.Fd()), nil, 0); st.Mode&unix.S_IFMT != unix.S_IFREG || err != unix.ETXTBSY {
			return "", "", errors.New("a different file is at that path")
		}
		return numbers(st.Dev), "", nil
	})
	return dev, err
}
