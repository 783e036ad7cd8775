package volume

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Releaser starts the child. The zero value runs this program as "release-disk DIR".
type Releaser struct {
	Command []string // used instead; the directory is appended to it
	// Keep is a directory for the names of stopped programs, so that Resume finds them after both the child and its
	// parent have died; "" keeps none.
	Keep string

	// For tests; zero means the deadlines above.
	Stall, Whole time.Duration
}

// The bounds of all releases together. Each child has a dozen threads, and one that is stuck in the kernel keeps them.
// Others wait for their turn, but no longer than a release may take.
const (
	maxChildren = 4
	maxUnreaped = 8
)

var (
	turns    = make(chan struct{}, maxChildren)
	unreaped atomic.Int32 // children that were killed and have not ended
)

// lookEvery is how often the disk's counters are read while a child works.
const lookEvery = 250 * time.Millisecond

// endWait is how long the child has to resume programs before it is killed.
const endWait = 5 * time.Second

// maxLine bounds a line of the child's output.
const maxLine = 64 << 10

// Release empties the disks of the device whose directory in sysfs is dir. It returns when that is done, when a
// deadline has passed, or when ctx has ended; never later. The device has to be taken away before finish is called,
// which resumes the programs that were stopped for that moment. step is called with what is being done.
func (r Releaser) Release(ctx context.Context, dir string, step func(string)) (res Result, finish func()) {
	stall, whole := r.Stall, r.Whole
	if stall == 0 {
		stall = stallLimit
	}
	if whole == 0 {
		whole = wholeLimit
	}
	disks, _ := disksBelow(dir)
	begun := time.Now() // the whole time counts from here, including the wait for a turn
	wait := time.NewTimer(whole)
	defer wait.Stop()
	select {
	case turns <- struct{}{}:
	default:
		step("waiting for other disks")
		select {
		case turns <- struct{}{}:
		case <-wait.C:
			return Result{Forced: "other disks took all the time there is", Lost: unwritten(disks)}, func() {}
		case <-ctx.Done():
			return Result{Forced: "the agent is stopping", Lost: unwritten(disks)}, func() {}
		}
	}
	if unreaped.Load() >= maxUnreaped {
		<-turns
		return Result{Forced: "programs that empty disks are stuck in the kernel", Lost: unwritten(disks)}, func() {}
	}
	c, err := r.start(dir)
	if err != nil {
		<-turns
		return Result{Forced: "the program that empties the disk cannot start: " + err.Error(), Lost: unwritten(disks)}, func() {}
	}
	last, sectors := time.Now(), written(disks)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case m, ok := <-c.lines:
			switch {
			case !ok:
				return Result{Forced: "the program that empties the disk has died", Lost: unwritten(disks)}, c.finish
			case m.Result != nil:
				if m.Result.Forced != "" && m.Result.Lost >= 0 {
					m.Result.Lost = max(m.Result.Lost, unwritten(disks)) // what arrived since
				}
				return *m.Result, c.finish
			case m.Step != "":
				step(m.Step)
			}
			last = time.Now()
		case <-tick.C:
			if n := written(disks); n != sectors {
				sectors, last = n, time.Now()
			}
			switch {
			case time.Since(begun) >= whole:
				return Result{Forced: "it was not empty after " + whole.String(), Lost: unwritten(disks)}, c.finish
			case time.Since(last) >= stall:
				return Result{Forced: stall.String() + " without progress", Lost: unwritten(disks)}, c.finish
			}
		case <-ctx.Done():
			return Result{Forced: "the agent is stopping", Lost: unwritten(disks)}, c.finish
		}
	}
}

// process is a running child. Only its own reaper waits for it: a call of the child into a user's file system may last
// for ever, beyond SIGKILL.
type process struct {
	cmd   *exec.Cmd
	keep  string // the file of stopped programs; "" for none
	in    *os.File
	out   *os.File
	lines chan message
	ended chan struct{}

	mu      sync.Mutex
	stopped []Program
	over    chan struct{}
	once    sync.Once
}

// start starts the child process.
func (r Releaser) start(dir string) (*process, error) {
	command := r.Command
	if len(command) == 0 {
		command = []string{"/proc/self/exe", "release-disk"}
	}
	command = append(slices.Clone(command), dir)
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), in.Close())
	}
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // our own program
	cmd.Dir, cmd.Env = "/", []string{"GOMAXPROCS=2"}
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	err = cmd.Start()
	_, _ = theirIn.Close(), theirOut.Close()
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	keep := ""
	if r.Keep != "" {
		keep = filepath.Join(r.Keep, fmt.Sprintf("%s%d", keepPrefix, cmd.Process.Pid))
	}
	c := &process{cmd: cmd, keep: keep, in: in, out: out, lines: make(chan message, 16), ended: make(chan struct{}),
		over: make(chan struct{})}
	go c.read()
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// read decodes the child's messages until it ends.
func (c *process) read() {
	defer close(c.lines)
	dec := json.NewDecoder(bufio.NewReader(io.LimitReader(c.out, 64*maxLine)))
	for {
		var m message
		if dec.Decode(&m) != nil {
			return
		}
		if len(m.Stopped) > 0 {
			c.remember(m.Stopped)
			_, _ = c.in.Write([]byte{1}) // the child waits for this before it stops them
			continue
		}
		select {
		case c.lines <- m:
		case <-c.over:
			return
		}
	}
}

// remember stores the names of programs that are about to be stopped.
func (c *process) remember(list []Program) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = append(c.stopped, list...)
	if b, err := json.Marshal(c.stopped); err == nil && c.keep != "" {
		_ = os.WriteFile(c.keep, b, 0o600) // in memory: it is needed after a kill, not after a power cut
	}
}

const keepPrefix = "stopped."

// Resume resumes programs that a child of an earlier agent had stopped, if neither lived to do it.
func Resume(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, keepPrefix+"*"))
	for _, f := range files {
		b, err := os.ReadFile(f) // written by us, as long as the child's list of programs, which is bounded
		var list []Program
		if err == nil && json.Unmarshal(b, &list) == nil {
			for _, p := range list {
				resume(p)
			}
		}
		_ = os.Remove(f)
	}
}

// finish ends the child in the background. If the child dies before it has resumed its programs, they are resumed here.
func (c *process) finish() {
	c.once.Do(func() {
		close(c.over)
		_ = c.in.Close()
		go func() {
			select {
			case <-c.ended:
			case <-time.After(endWait):
				_ = c.cmd.Process.Kill()
				unreaped.Add(1)
				go func() {
					<-c.ended
					unreaped.Add(-1)
				}()
			}
			_ = c.out.Close()
			<-turns
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, p := range c.stopped {
				resume(p)
			}
			if c.keep != "" {
				_ = os.Remove(c.keep)
			}
		}()
	})
}
