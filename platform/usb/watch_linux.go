package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/fanotify"
	"github.com/warderd/warder/platform/uevent"
)

// Watch reports which programs write to the files that say which devices the kernel may use. One mark on the whole of
// sysfs needs no renewal as devices come and go. Each network namespace can have a sysfs of its own, which the mark
// does not cover: a device authorised there is noticed by the guard (see interfaces), a changed default by the next
// look.
func (b Backend) Watch(ctx context.Context, changed func(platform.Touch)) error {
	b.touch.Store(&changed)
	context.AfterFunc(ctx, func() { b.touch.Store(nil) }) // the guard still reports if the files cannot be watched
	var fs unix.Statfs_t
	if err := unix.Statfs(b.Root, &fs); err != nil || fs.Type != unix.SYSFS_MAGIC {
		<-ctx.Done() // a stand-in, to which nobody else writes
		return nil
	}
	w, err := watchWrites(b.Root)
	if err != nil {
		return platform.Unwatched{Why: fmt.Sprintf("cannot watch %s: %v", b.Root, err)}
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.close)()
	err = w.run(func(file string, inode uint64, by int) {
		if t, ok := b.touched(file, inode); ok {
			t.By = program(by)
			changed(t)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// touched says which resource a file of sysfs decides; false for an irrelevant file. "" stands for a file that is
// unknown, such as one that can only be written: that somebody wrote matters more than which file.
func (b Backend) touched(file string, inode uint64) (platform.Touch, bool) {
	b.mu.Lock()
	k, ours := b.inodes[inode]
	b.mu.Unlock()
	if ours && inode != 0 {
		return platform.Touch{Key: k}, true // whatever it is called where it was written
	}
	dir, name := path.Split(path.Clean("/" + file))
	of := path.Base(dir)
	usb, root := deviceName(of)
	switch {
	case file == "" || !strings.HasPrefix(file, b.Root+"/"): // through another mount of the same file system: its path says nothing
		return platform.Touch{}, true
	case !strings.Contains(dir, "/usb"): // Thunderbolt names its devices alike
	case name == "authorized_default" && usb && root:
		return platform.Touch{Key: enforce.Key{Kind: kindDefault, ID: of}}, true
	case name == "authorized_default" && strings.HasSuffix(dir, "/usbcore/parameters/"):
		return platform.Touch{Key: enforce.Key{Kind: kindParam, ID: name}}, true
	case (name == "authorized" || name == "bConfigurationValue") && usb && !root:
		return b.touchedDevice(of), true
	case name == "authorized":
		if device, _, is := strings.Cut(of, ":"); is { // an interface, "1-2:1.0"
			if usb, root := deviceName(device); usb && !root {
				return b.touchedDevice(device), true
			}
		}
	case name == "interface_authorized_default" && usb:
		return platform.Touch{}, true
	}
	return platform.Touch{}, false
}

// touchedDevice names the device whose interfaces appeared, by its present number.
func (b Backend) touchedDevice(name string) platform.Touch {
	d, err := b.open(name)
	if err != nil {
		return platform.Touch{}
	}
	defer d.close()
	n, err := d.text("devnum")
	if err != nil {
		return platform.Touch{}
	}
	return platform.Touch{Key: enforce.Key{Kind: kindDevice, ID: name + "@" + n}}
}

// program says what a process runs, by its executable: a process can choose its own name.
func program(pid int) enforce.Program {
	p := enforce.Program{PID: pid}
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err == nil {
		p.Name = enforce.Plain(strings.TrimSuffix(exe, " (deleted)"))
	}
	return p
}

// interfaces notices a device that was refused and no longer is, because its interfaces appeared. This is announced for
// every namespace, within milliseconds, and before a driver has created a disk. The interfaces of a device that has
// just arrived say nothing new.
func (g *Guard) interfaces(u *uevent.Event) {
	name, _, _ := strings.Cut(path.Base(u.Path), ":")
	if ok, root := deviceName(name); !ok || root {
		return
	}
	g.mu.Lock()
	_, idle := g.idle[name]
	g.mu.Unlock()
	if f := g.touch.Load(); idle && f != nil {
		(*f)(Backend{g.Ports}.touchedDevice(name))
	}
}

// writes is a fanotify group that reports every write on one file system.
type writes struct {
	file *os.File
	own  int
}

// watchWrites marks the file system that contains root.
func watchWrites(root string) (*writes, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE)
	if err != nil {
		return nil, err
	}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_MODIFY, unix.AT_FDCWD, root); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &writes{os.NewFile(uintptr(fd), "fanotify"), os.Getpid()}, nil
}

func (w *writes) close() { _ = w.file.Close() }

// maxUntold is how many events in a row may come without a file before that counts as an error of the group.
const maxUntold = 1000

// run reports each write of another process, with the file's path, or "" if the kernel could not open the file for us:
// files that can only be written, and an overflow of the queue.
func (w *writes) run(f func(file string, inode uint64, by int)) error {
	b := make([]byte, 32*fanotify.EventSize)
	for untold := 0; ; {
		n, err := w.file.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return err
		}
		if err != nil {
			// Files that can only be written are refused one by one: each is an event, and no error of the group.
			if refused := errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL); refused {
				untold = 0
			} else if untold++; untold > maxUntold {
				return fmt.Errorf("cannot read what is written: %w", err)
			}
			f("", 0, 0)
			continue
		}
		untold = 0
		for rest := b[:n]; len(rest) > 0; {
			e, size, ok := fanotify.Parse(rest)
			if !ok {
				return fmt.Errorf("an event of %d bytes cannot be read", len(rest))
			}
			rest = rest[size:]
			file, inode := "", uint64(0)
			if e.Fd >= 0 {
				var st unix.Stat_t
				if unix.Fstat(int(e.Fd), &st) == nil {
					inode = st.Ino
				}
				file, _ = os.Readlink("/proc/self/fd/" + strconv.Itoa(int(e.Fd)))
				_ = unix.Close(int(e.Fd))
			}
			if int(e.Pid) != w.own {
				f(file, inode, int(e.Pid))
			}
		}
	}
}
