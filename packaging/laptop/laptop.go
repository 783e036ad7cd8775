//go:build linux

// Package laptop is the test laptop: a Debian machine in QEMU, without KVM, into which tests plug real emulated USB
// devices. It owns the machine and the channel into it, and knows nothing about policies. build.sh makes the image; the
// guest sees the test's files as /host.
package laptop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of one boot.
type Options struct {
	Image  string   // directory that build.sh filled
	Share  string   // directory that the guest sees as /host; contains the guest binary
	Append string   // more of the kernel's command line
	Args   []string // more of QEMU's arguments
	Disk   string   // a writable overlay that survives a reboot; "" for a temporary one
	// Single has one processor instead of two. That emulator (QEMU before 8.1) can go on with an instruction that another processor has
	// replaced, and programs that are attached to functions of the kernel replace instructions: the kernel ends with "int3" then.
	Single bool
	// Counted has one processor that takes a nanosecond of the laptop's own time for each instruction, however busy the machine
	// beneath is: its times are counts of instructions. It is slower.
	Counted bool
	Initrd  string // another kernel than the image's; a name in the image's directory, or a path
	From    string // a directory that Save filled: the laptop goes on from there, with its clock as it was
}

// Laptop is a running machine.
type Laptop struct {
	dir  string
	qemu *exec.Cmd
	done chan struct{}
	qmp  *monitor

	mu      sync.Mutex
	guest   net.Conn
	next    int
	waiting map[int]chan reply
	ready   chan struct{}

	failed []string // what went wrong in the tests that use it; see rig.fatal
}

type reply struct {
	ID   int    `json:"id"`
	Out  string `json:"out"`
	Err  string `json:"err"`
	Code int    `json:"code"`
}

// boots and bootLimit: under software emulation on a busy machine, a kernel's first calibration of its timers can hang
// for ever. A boot without a sign of life is begun again.
const (
	boots     = 4
	bootLimit = 100 * time.Second
)

// Boot starts the machine and waits until it answers.
func Boot(o Options) (*Laptop, error) {
	var errs []error
	for range boots {
		l, err := boot(o)
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// boot starts QEMU once.
func boot(o Options) (*Laptop, error) {
	dir, err := os.MkdirTemp("", "laptop")
	if err != nil {
		return nil, err
	}
	l := &Laptop{dir: dir, done: make(chan struct{}), waiting: map[int]chan reply{}, ready: make(chan struct{})}
	disk, snapshot := filepath.Join(o.Image, "root.img"), ",snapshot=on"
	format := "raw"
	if o.Disk != "" {
		disk, snapshot, format = o.Disk, "", "qcow2"
	}
	if o.From != "" {
		disk, snapshot, format = filepath.Join(dir, "disk.qcow2"), "", "qcow2"
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", filepath.Join(o.From, savedDisk), disk).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		o.Args = append([]string{"-incoming", "exec:cat " + filepath.Join(o.From, savedState)}, o.Args...)
	}
	initrd := o.Initrd
	switch {
	case initrd == "":
		initrd = filepath.Join(o.Image, "initrd.gz")
	case !filepath.IsAbs(initrd):
		initrd = filepath.Join(o.Image, initrd)
	}
	processors := "2"
	threads := "tcg,thread=multi"
	if o.Single || o.Counted {
		processors = "1"
	}
	if o.Counted {
		threads = "tcg,thread=single"
		o.Args = append([]string{"-icount", "shift=0"}, o.Args...)
	}
	args := []string{
		"-M", "q35", "-accel", threads, "-cpu", "max", "-smp", processors, "-m", "1024",
		"-nographic", "-no-reboot", "-net", "none", "-monitor", "none",
		"-kernel", filepath.Join(o.Image, "vmlinuz"), "-initrd", initrd,
		// norandmaps: the emulator translates a program again at each new place in memory. With random places, every
		// curl is translated again; when its cache is full, all of it is dropped, and the whole laptop is five times as
		// slow for a second.
		"-append", "console=ttyS0 norandmaps no_timer_check panic=-1 quiet loglevel=4 systemd.show_status=false net.ifnames=0 " + o.Append,
		"-drive", "file=" + disk + ",if=virtio,format=" + format + snapshot,
		"-serial", "file:" + filepath.Join(dir, "console.log"),
		"-chardev", "socket,id=qmp,path=" + filepath.Join(dir, "qmp") + ",server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=guest,path=" + filepath.Join(dir, "guest") + ",server=on,wait=off",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=guest,name=laptop",
		"-virtfs", "local,path=" + o.Share + ",mount_tag=host,security_model=none",
		"-device", "qemu-xhci,id=xhci,p2=8,p3=8",
	}
	l.qemu = exec.Command("qemu-system-x86_64", append(args, o.Args...)...)
	log, err := os.Create(filepath.Join(dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	l.qemu.Stdout, l.qemu.Stderr = log, log
	l.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.qemu.Start(); err != nil {
		return nil, err
	}
	go func() { _ = l.qemu.Wait(); close(l.done) }()
	if err := l.connect(o.From != ""); err != nil {
		l.Close()
		return nil, fmt.Errorf("%w\n%s", err, l.Console())
	}
	return l, nil
}

// connect opens the channels to the guest and to QEMU, and has one that was saved go on.
func (l *Laptop) connect(saved bool) error {
	conn, err := l.dial("qmp")
	if err != nil {
		return err
	}
	if l.qmp, err = newMonitor(conn); err != nil {
		return err
	}
	if l.guest, err = l.dial("guest"); err != nil {
		return err
	}
	go l.read()
	if saved {
		return l.resume()
	}
	select {
	case <-l.ready:
		return nil
	case <-l.done:
		return errors.New("the laptop stopped while booting")
	case <-time.After(bootLimit):
		return fmt.Errorf("the laptop did not come up in %s", bootLimit)
	}
}

// dial connects to one of QEMU's sockets, which appear a moment after its start.
func (l *Laptop) dial(name string) (net.Conn, error) {
	var err error
	for range 200 {
		var c net.Conn
		if c, err = net.Dial("unix", filepath.Join(l.dir, name)); err == nil {
			return c, nil
		}
		select {
		case <-l.done:
			out, _ := os.ReadFile(filepath.Join(l.dir, "qemu.log"))
			return nil, fmt.Errorf("qemu ended: %s", out)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, err
}

// read passes replies on to those who wait for them.
func (l *Laptop) read() {
	in := bufio.NewReaderSize(l.guest, 1<<20)
	var once sync.Once
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var r reply
		if json.Unmarshal(line, &r) != nil {
			continue
		}
		if r.ID == 0 {
			once.Do(func() { close(l.ready) })
			continue
		}
		l.mu.Lock()
		c := l.waiting[r.ID]
		delete(l.waiting, r.ID)
		l.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
}

// The files of a saved laptop.
const (
	savedDisk  = "disk.qcow2"
	savedState = "state"
)

// Save ends the laptop and keeps it as it is: what is in its memory in dir, beside its disk, which has to be there (Options.Disk). The
// share is not there any more then, because the emulator cannot keep it: nothing may run from it.
func (l *Laptop) Save(dir string) error {
	defer l.Close()
	if r, err := l.Run(time.Minute, "sync; umount /host"); err != nil || r.Code != 0 {
		return fmt.Errorf("the share is in use: %w %s", err, r.Err)
	}
	if _, err := l.qmp.do("stop", nil); err != nil {
		return err
	}
	if _, err := l.qmp.do("migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 40}); err != nil {
		return err
	}
	if _, err := l.qmp.do("migrate", map[string]any{"uri": "exec:cat >" + filepath.Join(dir, savedState)}); err != nil {
		return err
	}
	err := l.until("query-migrate", "completed", "failed")
	if err == nil {
		_, err = l.qmp.do("quit", nil)
		<-l.done
	}
	return err
}

// resume has a saved laptop go on, with its share.
func (l *Laptop) resume() error {
	if err := l.until("query-status", "paused", "internal-error"); err != nil {
		return err
	}
	if _, err := l.qmp.do("cont", nil); err != nil {
		return err
	}
	r, err := l.Run(time.Minute, "mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /host")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("the share: %s", r.Err)
	}
	return err
}

// until waits until what the emulator says of itself is a word; bad ends it.
func (l *Laptop) until(command, word, bad string) error {
	for end := time.Now().Add(bootLimit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		b, err := l.qmp.do(command, nil)
		if err != nil {
			return err
		}
		var r struct {
			Status string `json:"status"`
		}
		if err := json.Unmarshal(b, &r); err != nil || r.Status == bad {
			return fmt.Errorf("%s: %s %w", command, b, err)
		}
		if r.Status == word {
			return nil
		}
	}
	return fmt.Errorf("%s: it did not come to %q", command, word)
}

// Result is what a script printed, and its exit code.
type Result struct {
	Out, Err string
	Code     int
}

// Ask is one call of the policy server in the laptop; Until has it repeated until all of these match in one piece of the answer.
type Ask struct {
	Method string   `json:"method"`
	URL    string   `json:"url"`
	Body   string   `json:"body"`
	Until  []string `json:"until"`
}

// Run runs a shell script in the laptop as root, for at most the given time.
func (l *Laptop) Run(limit time.Duration, script string) (Result, error) {
	return l.request(limit, map[string]any{"script": script})
}

// Call asks the policy server, as the administrator whose token is in /root/token. The code is 22 when it refused.
func (l *Laptop) Call(limit time.Duration, a Ask) (Result, error) {
	return l.request(limit, map[string]any{"ask": a})
}

func (l *Laptop) request(limit time.Duration, what map[string]any) (Result, error) {
	l.mu.Lock()
	l.next++
	id, c := l.next, make(chan reply, 1)
	l.waiting[id] = c
	what["id"], what["seconds"] = id, int(limit.Seconds())
	line, _ := json.Marshal(what)
	_, err := l.guest.Write(append(line, '\n'))
	l.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	select {
	case r := <-c:
		return Result{strings.TrimRight(r.Out, "\n"), strings.TrimRight(r.Err, "\n"), r.Code}, nil
	case <-l.done:
		return Result{}, errors.New("the laptop stopped")
	case <-time.After(limit + 30*time.Second):
		return Result{}, fmt.Errorf("no answer of the laptop to %.2000s", line)
	}
}

// Console is the end of the laptop's serial output.
func (l *Laptop) Console() string {
	b, _ := os.ReadFile(filepath.Join(l.dir, "console.log"))
	return string(b[max(0, len(b)-2000):])
}

// Close stops the machine at once, like a power cut.
func (l *Laptop) Close() {
	if l.qemu.Process != nil {
		_ = l.qemu.Process.Kill()
		<-l.done
	}
	_ = os.RemoveAll(l.dir)
}
