package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/mountinfo"
)

// starter knows which disks the boot waits for. If one of them is refused, the boot ends in an emergency shell.
type starter struct {
	sys, proc, dev  string // of sysfs, procfs and the device nodes
	fstab, crypttab string
	inside          []string // disks that were inside the machine when the agent last ran
}

func newStarter(h platform.Host) *starter {
	return &starter{sys: h.Sysfs, proc: h.Proc, dev: "/dev", fstab: "/etc/fstab", crypttab: "/etc/crypttab", inside: h.Early.Of(name)}
}

// need is a disk that the boot waits for: how it is named, and what for.
type need struct{ spec, what string }

// The bounds of the two tables.
const (
	maxTable = 1 << 20
	maxNeeds = 1024
)

// needs reads both tables. A table that cannot be read may name anything.
func (s *starter) needs() (out []need, err error) {
	read := func(path string, parse func(string) ([]need, error)) {
		b, rerr := durable.Read(path, maxTable)
		if errors.Is(rerr, fs.ErrNotExist) {
			return
		}
		var list []need
		if rerr == nil {
			list, rerr = parse(string(b))
		}
		out, err = append(out, list...), errors.Join(err, rerr)
	}
	read(s.fstab, parseFstab)
	read(s.crypttab, parseCrypttab)
	return out, err
}

// parseFstab returns what is mounted, and used as swap, at boot (fstab(5), systemd.mount(5)). The boot does not wait
// for entries that may be missing, or that are mounted on first use.
func parseFstab(text string) ([]need, error) {
	return parseTable(text, 4, func(f []string) (specs []string, options, what string) {
		return []string{f[0]}, f[3], f[1] + " of /etc/fstab"
	})
}

// parseCrypttab returns the disks that are unlocked at boot, and those with a key or a header for them (crypttab(5)).
func parseCrypttab(text string) ([]need, error) {
	return parseTable(text, 2, func(f []string) (specs []string, options, what string) {
		if len(f) > 3 {
			options = f[3]
		}
		specs = []string{f[1]}
		if len(f) > 2 {
			if _, on, ok := strings.Cut(f[2], ":"); ok {
				specs = append(specs, on)
			} else {
				specs = append(specs, f[2])
			}
		}
		for o := range strings.SplitSeq(options, ",") {
			if header, ok := strings.CutPrefix(o, "header="); ok {
				if _, on, ok := strings.Cut(header, ":"); ok {
					specs = append(specs, on)
				}
			}
		}
		return specs, options, f[0] + " of /etc/crypttab"
	})
}

// parseTable reads a table of at least so many fields per line; row returns the disks that a line names.
func parseTable(text string, least int, row func([]string) (specs []string, options, what string)) (out []need, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		for len(f) < least {
			f = append(f, "defaults")
		}
		specs, options, what := row(f)
		list := strings.Split(options, ",")
		if slices.ContainsFunc(list, func(o string) bool {
			return o == "noauto" || o == "nofail" || o == "_netdev" || o == "x-systemd.automount"
		}) {
			continue
		}
		for _, spec := range specs {
			if len(out) >= maxNeeds {
				return out, errors.New("more than 1024 disks are named")
			}
			if isDisk(spec) {
				out = append(out, need{spec, enforce.Plain(what)})
			}
		}
	}
	return out, nil
}

// tags are the names by which a disk is found (fstab(5)), and where udev keeps them.
var tags = map[string]string{"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel", "ID": "by-id"}

// isDisk reports whether a specification names a disk, and not a network share or a pseudo file system.
func isDisk(spec string) bool {
	tag, _, ok := strings.Cut(spec, "=")
	return ok && tags[tag] != "" || strings.HasPrefix(spec, "/dev/") && spec != "/dev/urandom" && spec != "/dev/random" &&
		spec != "/dev/null"
}

// node is the device node of a disk, which may not exist.
func (s *starter) node(spec string) string {
	tag, v, ok := strings.Cut(spec, "=")
	if !ok || tags[tag] == "" {
		return s.dev + strings.TrimPrefix(unescape(spec), "/dev")
	}
	v = unescape(strings.Trim(v, `"`))
	if tag == "UUID" || tag == "PARTUUID" {
		lower := strings.ToLower(v)
		if _, err := os.Lstat(s.dev + "/disk/" + tags[tag] + "/" + udevName(v)); err != nil {
			v = lower
		}
	}
	return s.dev + "/disk/" + tags[tag] + "/" + udevName(v)
}

// unescape reads the octal escapes of the tables.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// udevName is a label as the name of a link (systemd's encode_devnode_name).
func udevName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte("#+-.:=@_", c) >= 0 || c >= 0x80:
			b.WriteByte(c)
		default:
			b.WriteString(`\x` + string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]))
		}
	}
	return b.String()
}

// number is the number of a disk's block device; "" if there is none.
func (s *starter) number(spec string) string {
	var st unix.Stat_t
	if unix.Stat(s.node(spec), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// Observe reports which disk the boot waits for that has not been seen.
func (s *starter) Observe(_ context.Context, m *fact.Machine) error {
	m.Starting = &fact.Starting{}
	list, err := s.needs()
	if err != nil {
		m.Starting.Waits = enforce.Plain("something (" + err.Error() + ")")
	}
	for _, n := range list {
		if !slices.Contains(s.inside, n.spec) && s.number(n.spec) == "" {
			m.Starting.Waits = enforce.Plain(n.spec + " (" + n.what + ")")
			break
		}
	}
	return nil
}

// Carries names what is on a device's disk and is in use, or will be: nothing can be emptied yet.
func (s *starter) Carries(dir string) string {
	if place := Carries(dir); place != "" {
		return place
	}
	disks, whole := disksBelow(dir)
	switch {
	case len(disks) == 0:
		return ""
	case !whole:
		return "perhaps a part of the system (" + errTooMany.Error() + ")"
	}
	if what := s.uses(disks); what != "" {
		return what
	}
	list, err := s.needs()
	for _, n := range list {
		if slices.Contains(s.inside, n.spec) {
			continue // a stick with the same name is another disk
		}
		if dev := s.number(n.spec); slices.ContainsFunc(disks, func(d disk) bool { return d.dev == dev }) {
			return n.what
		}
	}
	if err != nil {
		return "perhaps a part of the system (" + enforce.Plain(err.Error()) + ")"
	}
	return ""
}

// uses names what uses one of these disks already.
func (s *starter) uses(disks []disk) string {
	f, err := os.Open(s.proc + "/self/mountinfo")
	if err != nil {
		return "perhaps a part of the system (the list of mounts cannot be read)"
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if err != nil {
		return "perhaps a part of the system (the list of mounts cannot be read)"
	}
	for _, m := range mounts {
		if on(disks, m) {
			return enforce.Plain(m.Point)
		}
	}
	swaps, _ := os.ReadFile(s.proc + "/swaps")
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/dev/") {
			if dev := s.number(f[0]); slices.ContainsFunc(disks, func(d disk) bool { return d.dev == dev }) {
				return "swap"
			}
		}
	}
	for _, d := range disks {
		if d.stacked {
			return "something that stands on " + d.name
		}
	}
	return ""
}

// Note lists the disks that the boot waits for and that are internal, by their present names, so that the next early
// start knows this before they appear.
func (s *starter) Note() (out []string) {
	list, _ := s.needs()
	for _, n := range list {
		dev := s.number(n.spec)
		if dev == "" || slices.Contains(out, n.spec) {
			continue
		}
		if dir, err := filepath.EvalSymlinks(s.sys + "/dev/block/" + dev); err == nil && s.isInside(dir, 0) {
			out = append(out, n.spec)
		}
	}
	slices.Sort(out)
	return out
}

// isInside reports whether every disk below a block device is known, and none is attached to USB.
func (s *starter) isInside(dir string, depth int) bool {
	if depth > maxDepth || onUSB(dir) {
		return false
	}
	if _, err := os.Stat(dir + "/partition"); err == nil {
		dir = filepath.Dir(dir)
	}
	below, _ := filepath.Glob(dir + "/slaves/*")
	for _, b := range below {
		to, err := filepath.EvalSymlinks(b)
		if err != nil || !s.isInside(to, depth+1) {
			return false
		}
	}
	// The disks of NVMe with several paths rest on nothing.
	return len(below) > 0 || !strings.Contains(dir, "/virtual/") || strings.Contains(dir, "/virtual/nvme-subsystem/")
}

// onUSB reports whether a device of sysfs is attached to a USB bus.
func onUSB(dir string) bool {
	for e := range strings.SplitSeq(dir, "/") {
		if n, ok := strings.CutPrefix(e, "usb"); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return true
		}
	}
	return false
}

// drop is the early start's release: disks in use are not taken away, so there is nothing to empty.
func drop(context.Context, string, func(string)) (platform.Released, func()) {
	return platform.Released{}, func() {}
}
