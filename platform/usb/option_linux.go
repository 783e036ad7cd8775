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
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/durable"
)

// Option is the kernel's option that closes USB from the initramfs on, before any program of the disk runs
// (modprobe.d(5)). It is somebody's choice: with it no USB keyboard works where a disk's passphrase is asked for.
type Option struct {
	File    string // the module's option
	Boot    string // says of this boot what File does not: it was begun otherwise, or opened since
	Builtin string // the kernel's list of what is no module
}

// NewOption is this machine's.
func NewOption(run string) Option {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return Option{File: "/etc/modprobe.d/warder-usb.conf", Boot: filepath.Join(run, "usb-option"),
		Builtin: "/lib/modules/" + unix.ByteSliceToString(u.Release[:]) + "/modules.builtin"}
}

const optionText = "# Written by \"warder boot close-usb\"; \"warder boot open-usb\" removes it.\noptions usbcore authorized_default=0\n"

// Set reports whether the option is there.
func (o Option) Set() bool { _, err := os.Stat(o.File); return err == nil }

// What Boot holds.
const (
	begunClosed = "closed"
	begunOpen   = "open" // or opened since: what is closed now was closed by somebody else
)

// Closed reports whether this boot was begun with it, and nothing has been given back since.
func (o Option) Closed() bool {
	b, err := durable.Read(o.Boot, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return o.Set()
	}
	return err == nil && string(b) == begunClosed
}

// undone: what it closed was opened.
func (o Option) undone() {
	if o.Closed() {
		_ = o.began(begunOpen)
	}
}

// began remembers how this boot was begun.
func (o Option) began(how string) error {
	if err := os.MkdirAll(filepath.Dir(o.Boot), 0o755); err != nil {
		return err
	}
	return durable.Swap(o.Boot, []byte(how), 0o644)
}

// keep remembers how this boot was begun before the file changes.
func (o Option) keep() error {
	if o.Closed() {
		return o.began(begunClosed)
	}
	return o.began(begunOpen)
}

// ErrBuiltin: the kernel reads no options of modprobe.d for what is no module.
var ErrBuiltin = errors.New("USB is part of this kernel and no module of it, so it does not read the option")

// Close sets the option and makes the initramfs anew; say is told what takes long.
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
	if _, _, err := initramfs(); err != nil {
		return err
	}
	if err := o.keep(); err != nil {
		return err
	}
	if err := durable.Write(o.File, []byte(optionText), 0o644); err != nil {
		return err
	}
	return remake(ctx, say)
}

// Open drops the option and makes the initramfs anew.
func (o Option) Open(ctx context.Context, say func(string)) error {
	if !o.Set() {
		return nil
	}
	if err := o.keep(); err != nil {
		return err
	}
	if err := durable.Remove(o.File); err != nil {
		return err
	}
	return remake(ctx, say)
}

// tools make an initramfs, with the options of modprobe.d in it.
var tools = [][]string{{"update-initramfs", "-u", "-k", "all"}, {"dracut", "--force", "--regenerate-all"}, {"mkinitcpio", "-P"}}

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

func remake(ctx context.Context, say func(string)) error {
	path, args, err := initramfs()
	if err != nil {
		return err
	}
	say(fmt.Sprintf("making the initramfs anew, which can take minutes: %s %s", path, strings.Join(args, " ")))
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(string(out[max(0, len(out)-1000):])))
	}
	return nil
}
