package usb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/durable"
)

// Option is the kernel's option that closes USB from the initramfs on, before any program on the disk runs
// (modprobe.d(5)). An administrator chooses it: with it, no USB keyboard works where a disk's passphrase is asked for.
type Option struct {
	File    string // the file with the module's option; it stays, without the option, until no initramfs has the option
	Boot    string // records for this boot when File no longer says how it began
	Builtin string // the kernel's list of built-in modules
	Line    string // the kernel's command line, which has the last word
	// Remake builds the initramfs again; nil: with the system's program.
	Remake func(context.Context, func(string)) error
}

// NewOption is this machine's option.
func NewOption(run string) Option {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return Option{File: "/etc/modprobe.d/warder-usb.conf", Boot: filepath.Join(run, "usb-option"),
		Builtin: "/lib/modules/" + unix.ByteSliceToString(u.Release[:]) + "/modules.builtin", Line: "/proc/cmdline"}
}

const (
	optionLine = "options usbcore authorized_default=0\n"
	optionText = "# Written by \"warder boot close-usb\"; \"warder boot open-usb\" removes it.\n" + optionLine
	makingText = "# The initramfs is being made.\n" + optionText // it was not closed, and stays so
	unsureText = "# An initramfs may still close USB. \"warder boot open-usb\" rebuilds it and removes this.\n"
)

// Set reports whether the initramfs is closed, or may be.
func (o Option) Set() bool { _, err := os.Stat(o.File); return err == nil }

// Sure reports whether it is known which.
func (o Option) Sure() bool {
	b, err := durable.Read(o.File, 1<<10)
	return errors.Is(err, fs.ErrNotExist) || err == nil && string(b) == optionText
}

// The values in Boot. What was opened counts as closed for a while, because a device may have been on its way.
const (
	begunClosed = "closed"
	begunOpen   = "open"
	opened      = "opened at " // plus the time since boot, in nanoseconds
	openedFor   = 10 * time.Second
)

// Closed reports whether this boot began closed by the option, and USB was not opened since. If USB is closed after
// that, somebody else has closed it.
func (o Option) Closed() bool {
	line, _ := durable.Read(o.Line, 64<<10)
	if strings.Contains(string(line), "usbcore.authorized_default=") {
		return false
	}
	b, err := durable.Read(o.Boot, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return o.Set()
	}
	if at, was := strings.CutPrefix(string(b), opened); was {
		n, err := strconv.ParseInt(at, 10, 64)
		return err == nil && sinceBoot()-time.Duration(n) < openedFor
	}
	return err == nil && string(b) == begunClosed
}

// sinceBoot is the time since the machine was started.
func sinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}

// undone records that what the option closed was opened.
func (o Option) undone() {
	b, _ := durable.Read(o.Boot, 64)
	if o.Closed() && !strings.HasPrefix(string(b), opened) {
		_ = o.began(opened + strconv.FormatInt(int64(sinceBoot()), 10))
	}
}

// began returns how this boot began.
func (o Option) began(how string) error {
	if err := os.MkdirAll(filepath.Dir(o.Boot), 0o755); err != nil {
		return err
	}
	return durable.Swap(o.Boot, []byte(how), 0o644)
}

// keep records how this boot began before the file changes.
func (o Option) keep() error {
	switch _, err := os.Stat(o.Boot); {
	case err == nil:
		return nil // it is recorded
	case o.Closed():
		return o.began(begunClosed)
	}
	return o.began(begunOpen)
}

// ErrBuiltin means that the kernel ignores modprobe.d for usbcore, because it is built in.
var ErrBuiltin = errors.New("USB is part of this kernel and no module of it, so it does not read the option")

// Close sets the option and builds the initramfs again; say is called before each long step.
func (o Option) Close(ctx context.Context, say func(string)) error {
	f, err := os.Open(o.Builtin)
	if err == nil {
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			if strings.HasSuffix(in.Text(), "/usbcore.ko") {
				return ErrBuiltin
			}
		}
	}
	if o.Remake == nil {
		if _, _, err := initramfs(); err != nil {
			return err
		}
	}
	if err := o.keep(); err != nil {
		return err
	}
	if err := durable.Write(o.File, []byte(makingText), 0o644); err != nil {
		return err
	}
	if err := o.remake(ctx, say); err != nil {
		// Some may have been built, and others not. Those built later are open.
		return errors.Join(err, durable.Write(o.File, []byte(unsureText), 0o644))
	}
	return durable.Write(o.File, []byte(optionText), 0o644)
}

// Open removes the option and builds the initramfs again. If that fails, it can be repeated, and until then every boot
// counts as closed.
func (o Option) Open(ctx context.Context, say func(string)) error {
	if !o.Set() {
		return nil
	}
	if err := o.keep(); err != nil {
		return err
	}
	if err := durable.Write(o.File, []byte(unsureText), 0o644); err != nil {
		return err
	}
	if err := o.remake(ctx, say); err != nil {
		return err
	}
	return durable.Remove(o.File)
}

// remake builds the initramfs with Remake, or with the system's program.
func (o Option) remake(ctx context.Context, say func(string)) error {
	if o.Remake != nil {
		return o.Remake(ctx, say)
	}
	return remake(ctx, say)
}

// tools build an initramfs that contains the options of modprobe.d.
var tools = [][]string{{"update-initramfs", "-u", "-k", "all"}, {"dracut", "--force", "--regenerate-all"}, {"mkinitcpio", "-P"}}

// initramfs finds the system's program that builds the initramfs.
func initramfs() (path string, args []string, err error) {
	for _, t := range tools {
		for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
			if info, err := os.Stat(filepath.Join(dir, t[0])); err == nil && info.Mode().IsRegular() {
				return filepath.Join(dir, t[0]), t[1:], nil
			}
		}
	}
	return "", nil, errors.New("no program that makes an initramfs was found (update-initramfs, dracut or mkinitcpio)")
}

// remake runs the system's program.
func remake(ctx context.Context, say func(string)) error {
	path, args, err := initramfs()
	if err != nil {
		return err
	}
	say(fmt.Sprintf("rebuilding the initramfs, which can take minutes: %s %s", path, strings.Join(args, " ")))
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(string(out[max(0, len(out)-1000):])))
	}
	return nil
}
