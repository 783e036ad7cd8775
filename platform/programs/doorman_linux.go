package programs

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/fanotify"
)

// doorman keeps installed apps from being started where the kernel takes no programs that do so: the kernel asks it before it starts
// one of these files (fanotify, FAN_OPEN_EXEC_PERM), and it refuses each. It is asked about these files alone, never about a file
// system, and answers after a look at who asks and nothing else: nobody but who starts an app waits. The agent itself starts none of
// them: it would wait for itself. Once it is gone, however that came, the kernel lets all of them start.
type doorman struct {
	what     string // it refuses, for people
	log      *slog.Logger
	hand     func(refusal)
	died     func() // it answers no more, although nobody said so
	outdated func() // the files are others now

	mu     sync.Mutex
	on     bool
	group  int // fanotify's descriptor, while it is on
	wake   int
	ids    []string
	files  contents // those that are marked
	failed error    // why not all are
	over   chan struct{}
	told   chan asked
}

// asked is a question that was answered.
type asked struct {
	ino uint64
	by  refusal
}

const (
	maxAsked   = 64 // answers that nobody has looked after yet
	maxUnread  = 100
	answerWait = 5 * time.Second
)

// state says which apps it refuses. changed is what is not as it was told, by the kernel's own list.
func (d *doorman) state() (ids []string, on bool, changed string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on {
		return nil, false, "", nil
	}
	marks, err := fanotify.Marks(d.group)
	if err := errors.Join(err, d.failed); err != nil {
		return d.ids, true, "", err
	}
	for x := range d.files.files {
		if !slices.ContainsFunc(marks, func(m fanotify.Mark) bool {
			return m.Ino == x.Ino && m.Dev == x.Dev && m.Mask&unix.FAN_OPEN_EXEC_PERM != 0
		}) {
			var st unix.Stat_t
			if unix.Lstat(d.files.paths[x], &st) != nil || st.Ino != x.Ino {
				d.outdated() // it was removed, or there is a new version
				continue
			}
			return nil, true, fmt.Sprintf("%s is not watched any more", d.files.paths[x]), nil
		}
	}
	return d.ids, true, "", nil
}

// start refuses these apps, by these files, and no others; if they could not all be found, by those of before.
func (d *doorman) start(ids []string, has contents, unread error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on {
		if err := d.open(); err != nil {
			return err
		}
	}
	d.ids = ids
	if unread != nil {
		d.failed = unread
		return unread
	}
	return d.mark(has)
}

// renew refuses the same apps by the files that are theirs now, if it still does.
func (d *doorman) renew(ids []string, has contents) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on || !slices.Equal(d.ids, ids) {
		return nil // told otherwise meanwhile
	}
	return d.mark(has)
}

// mark has the kernel ask about these files and no others. The caller has the lock.
func (d *doorman) mark(has contents) error {
	old := d.files
	d.files = has.empty()
	var errs []error
	for x, path := range has.paths {
		// A file that was put there since it was found is found by the next look. The directories are root's alone.
		err := unix.FanotifyMark(d.group, unix.FAN_MARK_ADD|unix.FAN_MARK_DONT_FOLLOW, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, path)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("%s is not watched: %w", path, err))
			continue
		}
		if err == nil {
			d.files.files[x], d.files.paths[x] = has.files[x], path
		}
	}
	now := slices.Collect(maps.Values(d.files.paths))
	for _, path := range old.paths {
		if !slices.Contains(now, path) { // a file that was replaced there takes its mark with it
			_ = unix.FanotifyMark(d.group, unix.FAN_MARK_REMOVE|unix.FAN_MARK_DONT_FOLLOW, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, path)
		}
	}
	d.failed = errors.Join(errs...)
	return d.failed
}

// open makes a group, and has it answered.
func (d *doorman) open() error {
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("what is started cannot be watched (fanotify): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(group)
		return fmt.Errorf("what is started cannot be watched: %w", err)
	}
	d.on, d.failed, d.group, d.wake, d.over, d.told = true, nil, group, wake, make(chan struct{}), make(chan asked, maxAsked)
	go d.answer(group, wake, d.told, d.over)
	go d.tell(d.told)
	return nil
}

// stop lets all of them start. Whoever waits for an answer gets it.
func (d *doorman) stop() {
	d.mu.Lock()
	on, over := d.on, d.over
	d.on, d.files, d.ids = false, contents{}, nil
	if on { // while it is, the descriptor is that
		_, _ = unix.Write(d.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	d.mu.Unlock()
	if !on {
		return
	}
	select {
	case <-over:
	case <-time.After(answerWait):
		d.log.Warn("what watches which programs are started does not end")
	}
}

// answer answers until it is woken, one question at a time: of several the kernel would hide that one of them could not be handed over.
func (d *doorman) answer(group, wake int, told chan asked, over chan struct{}) {
	failed := d.questions(group, wake, told)
	// No more questions; those that were asked get their answer, and then nobody can be waiting.
	_ = unix.FanotifyMark(group, unix.FAN_MARK_FLUSH, 0, unix.AT_FDCWD, "")
	b := make([]byte, fanotify.EventSize)
	for {
		if n, err := unix.Read(group, b); err != nil || !d.question(group, b[:n], true, told) {
			break
		}
	}
	d.mu.Lock()                          // nobody marks by a number that another file may get
	if failed != nil && d.over == over { // and there is no new one
		d.on, d.files, d.ids = false, contents{}, nil
	}
	_, _ = unix.Close(group), unix.Close(wake)
	d.mu.Unlock()
	close(told)
	close(over)
	if failed != nil {
		d.log.Error(d.what+" can start: what watches that has failed", "error", failed)
		d.died()
	}
}

// questions answers them, until it is woken; or says why it cannot.
func (d *doorman) questions(group, wake int, told chan asked) error {
	b := make([]byte, fanotify.EventSize)
	wait := []unix.PollFd{{Fd: int32(group), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for bad := 0; ; {
		wait[0].Revents, wait[1].Revents = 0, 0
		if _, err := unix.Poll(wait, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if wait[1].Revents != 0 {
			return nil
		}
		if wait[0].Revents == 0 {
			continue
		}
		// A file that cannot be handed over is refused by the kernel itself.
		if n, err := unix.Read(group, b); err == nil && d.question(group, b[:n], false, told) {
			bad = 0
		} else if bad++; bad > maxUnread {
			return cmp.Or(err, errors.New("its questions cannot be read"))
		}
	}
}

// question answers one, and has it told.
func (d *doorman) question(group int, b []byte, allow bool, told chan asked) (ok bool) {
	e, _, ok := fanotify.Parse(b)
	if !ok || e.Fd < 0 {
		return ok
	}
	var by refusal
	if !allow {
		by = asker(e.Pid) // it waits, and may be gone afterwards
	}
	err := fanotify.Answer(group, e.Fd, allow)
	var st unix.Stat_t
	if err == nil && !allow && unix.Fstat(int(e.Fd), &st) == nil {
		select {
		case told <- asked{st.Ino, by}:
		default: // so many at once
		}
	}
	_ = unix.Close(int(e.Fd))
	return err == nil
}

// asker is who asks. The kernel answers by itself: no file system is asked.
func asker(pid int32) refusal {
	r := refusal{PID: uint32(pid), Why: byName, Program: "a program"} //nolint:gosec // not negative
	dir := fmt.Sprintf("/proc/%d", pid)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		r.UID = st.Uid
	}
	if b, err := os.ReadFile(dir + "/comm"); err == nil {
		r.Program = enforce.Plain(strings.TrimSpace(string(b)))
	}
	return r
}

// tell tells of refusals, apart from the answers: nobody waits for that.
func (d *doorman) tell(told chan asked) {
	for a := range told {
		r := a.by
		d.mu.Lock()
		for x, of := range d.files.files {
			if x.Ino == a.ino {
				r.App, r.File = of.String(), d.files.paths[x][strings.LastIndexByte(d.files.paths[x], '/')+1:]
			}
		}
		d.mu.Unlock()
		if r.App != "" {
			d.hand(r)
		}
	}
}
