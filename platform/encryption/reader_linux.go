package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/mountinfo"
)

// Reader reads the mounts, the swaps and the block devices beneath. It opens no file of a mounted file system,
// which may be a user's and never answer.
type Reader struct {
	Sys, Proc, Dev string
	// Tables gives the targets of a device-mapper device; nil asks the kernel.
	Tables func(dev string) ([]Target, error)
	ask    asker
	// Locks says of a disk that encrypts by itself; nil asks the drive.
	Locks func(node string) bool
}

// The bounds of what is followed.
const (
	maxVolumes = 512
	maxDepth   = 24
	maxNodes   = 4096
)

// Observe fills the snapshot's volumes: every internal, writable, persistent file system that is mounted, and
// every swap, each once with all the places where it stands.
func (r *Reader) Observe(_ context.Context, m *fact.Machine) error {
	list, err := r.volumes()
	if err != nil {
		m.Volumes = fact.Unread[[]fact.Volume](err.Error())
		return err
	}
	m.Volumes = fact.Is(list)
	return nil
}

func (r *Reader) volumes() ([]fact.Volume, error) {
	text, err := os.ReadFile(r.Proc + "/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("the mounts cannot be read: %w", err)
	}
	mounts, skipped, err := mountinfo.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("the mounts cannot be read: %w", err)
	}
	if len(mounts) == 0 {
		return nil, errors.New("the list of mounts is empty")
	}
	l := look{r: r, mounts: mounts}
	var out []fact.Volume
	at := map[string]int{} // by device; -1: it is not looked at
	for _, mnt := range mounts {
		if mnt.ReadOnly {
			continue
		}
		if i, again := at[mnt.Dev]; again {
			if i >= 0 {
				out[i].Also = append(out[i].Also, enforce.Plain(mnt.Point))
			}
			continue
		}
		at[mnt.Dev] = -1
		v, is := l.volume(mnt)
		if !is {
			continue
		}
		if len(out) >= maxVolumes {
			return nil, fmt.Errorf("more than %d file systems are mounted", maxVolumes)
		}
		at[mnt.Dev] = len(out)
		out = append(out, v)
	}
	swaps, err := l.swaps()
	if err != nil {
		return nil, err
	}
	out = append(out, swaps...)
	if skipped > 0 {
		// A line that cannot be read may be a disk's.
		out = append(out, fact.Volume{Mount: "?", Encrypted: fact.Unread[bool](fmt.Sprintf("%d lines of the list of mounts cannot be read", skipped))})
	}
	for i := range out {
		slices.Sort(out[i].Also)
	}
	return out, nil
}

// look is one look at the machine.
type look struct {
	r      *Reader
	mounts []mountinfo.Mount
	nodes  int
}

// The file systems that are not on a block device of this machine, or in memory alone. One that is not known
// here and has no block device is no disk of this machine either; those that hide theirs are named.
var hidden = map[string]string{
	"zfs":      "ZFS encrypts by dataset, and Warder does not read which",
	"bcachefs": "bcachefs has its own encryption, and Warder does not read it",
}

// volume is a mount as far as it is looked at: false for what is not this machine's own, cannot be written, or
// is in memory.
func (l *look) volume(m mountinfo.Mount) (fact.Volume, bool) {
	v := fact.Volume{Dev: m.Dev, Mount: enforce.Plain(m.Point), FS: enforce.Plain(m.FS), External: fact.Is(false)}
	if why, is := hidden[m.FS]; is {
		v.Dev = m.FS + " " + enforce.Plain(m.Source)
		v.Encrypted = fact.Unread[bool](why)
		return v, true
	}
	var legs []string
	if m.FS == "btrfs" {
		var err error
		if legs, err = l.btrfs(m.Source); err != nil {
			v.Encrypted = fact.Unread[bool](err.Error())
			return v, true
		}
	} else if dir, err := filepath.EvalSymlinks(l.r.Sys + "/dev/block/" + m.Dev); err == nil {
		legs = []string{dir}
	} else {
		return v, false // tmpfs, proc, overlays, the network
	}
	system := l.isSystem(m.Dev)
	if !system && l.external(legs) {
		return v, false
	}
	l.judge(&v, legs)
	return v, true
}

// system are the places that are this machine's, wherever their disk hangs.
var system = []string{"/", "/usr", "/var", "/home", "/boot", "/boot/efi", "/efi"}

func (l *look) isSystem(dev string) bool {
	return slices.ContainsFunc(l.mounts, func(m mountinfo.Mount) bool { return m.Dev == dev && slices.Contains(system, m.Point) })
}

// btrfs gives the block devices of a file system that has several. It mounts under a number of its own; its
// source is one of them.
func (l *look) btrfs(source string) ([]string, error) {
	unknown := func(why any) ([]string, error) {
		return nil, fmt.Errorf("cannot determine the disks of the btrfs file system on %s: %v", enforce.Plain(source), why)
	}
	one, err := l.node(source)
	if err != nil {
		return unknown(err)
	}
	found, _ := filepath.Glob(l.r.Sys + "/fs/btrfs/*/devices/" + filepath.Base(one))
	if len(found) != 1 {
		return unknown(fmt.Sprintf("%d file systems are on it", len(found)))
	}
	all, err := os.ReadDir(filepath.Dir(found[0]))
	if err != nil {
		return unknown(err)
	}
	var legs []string
	for _, e := range all {
		dir, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(found[0]), e.Name()))
		if err != nil {
			return unknown(err)
		}
		legs = append(legs, dir)
	}
	return legs, nil
}

// node is the directory of a block device, by its node.
func (l *look) node(path string) (string, error) {
	dev, err := l.r.ask.node(path)
	if err != nil {
		return "", err
	}
	return l.block(dev)
}

// block is the directory of a block device, by its number.
func (l *look) block(dev string) (string, error) {
	if dev == "" {
		return "", errors.New("it is not a block device")
	}
	return filepath.EvalSymlinks(l.r.Sys + "/dev/block/" + dev)
}

// external reports whether every leg hangs on a port outside: USB, a card, or PCI that says it is removable.
func (l *look) external(legs []string) bool {
	for _, dir := range legs {
		if !l.outside(dir, 0) {
			return false
		}
	}
	return len(legs) > 0
}

func (l *look) outside(dir string, depth int) bool {
	if depth > maxDepth {
		return false
	}
	if below := slaves(dir); len(below) > 0 {
		for _, s := range below {
			if !l.outside(s, depth+1) {
				return false
			}
		}
		return true
	}
	for at := dir; len(at) > len(l.r.Sys); at = filepath.Dir(at) {
		base := filepath.Base(at)
		if n, ok := strings.CutPrefix(base, "usb"); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return true
		}
		if strings.HasPrefix(base, "mmc") && line(at+"/type") == "SD" {
			return true
		}
		if line(at+"/removable") == "removable" { // a device's own word, and not a medium's "1"
			return true
		}
	}
	return false
}

// slaves are the block devices beneath one.
func slaves(dir string) []string {
	all, _ := os.ReadDir(dir + "/slaves")
	var out []string
	for _, e := range all {
		if to, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", e.Name())); err == nil {
			out = append(out, to)
		}
	}
	return out
}

func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// judge says of a volume whether every path down from its devices passes one that encrypts.
func (l *look) judge(v *fact.Volume, legs []string) {
	v.Encrypted = fact.Is(true)
	for _, dir := range legs {
		a := l.follow(dir, v.FS, 0)
		v.Chain = append(v.Chain, a.chain)
		switch {
		case a.plain != "" && !(v.Encrypted.OK && !v.Encrypted.V):
			v.Encrypted, v.Leaf = fact.Is(false), a.plain
		case a.unknown != "" && v.Encrypted.OK && v.Encrypted.V:
			v.Encrypted = fact.Unread[bool](a.unknown)
		}
	}
}

// answer is what was found beneath one device: the way down, and what ends it without encryption.
type answer struct {
	chain   string // "dm-1 (crypt aes-xts-plain64) > sda3"
	plain   string // the disk that is reached without encryption
	unknown string // why it cannot be told
}

// follow goes down from a block device. All that it stands on has to be encrypted, unless it encrypts itself.
func (l *look) follow(dir, format string, depth int) answer {
	name := filepath.Base(dir)
	a := answer{chain: name}
	if l.nodes++; depth > maxDepth || l.nodes > maxNodes {
		a.unknown = name + " has too many layers to follow"
		return a
	}
	if strings.HasPrefix(name, "dm-") {
		ciphers, all, err := l.crypt(dir)
		switch {
		case err != nil:
			a.unknown = fmt.Sprintf("the table of %s cannot be read: %v", name, err)
			return a
		case all:
			a.chain += " (crypt " + ciphers + ")"
			return a.over(slaves(dir))
		case ciphers != "":
			a.chain += " (crypt " + ciphers + ", which does not encrypt all of it)"
		}
	}
	if strings.HasPrefix(name, "zram") {
		return l.zram(dir, a, depth)
	}
	if strings.HasPrefix(name, "loop") {
		return l.loop(dir, a, depth)
	}
	below := slaves(dir)
	if len(below) == 0 {
		return l.leaf(dir, format, a)
	}
	return l.all(a, below, format, depth)
}

// all goes on below a device, or a file, that stands on several: each of them counts.
func (l *look) all(a answer, below []string, format string, depth int) answer {
	var ways []string
	for _, s := range below {
		b := l.follow(s, format, depth+1)
		ways = append(ways, b.chain)
		if a.plain == "" {
			a.plain = b.plain
		}
		if a.unknown == "" {
			a.unknown = b.unknown
		}
	}
	a.chain += " > " + group(ways)
	return a
}

// over names what an encrypting device stands on, which matters no more.
func (a answer) over(below []string) answer {
	var names []string
	for _, s := range below {
		names = append(names, filepath.Base(s))
	}
	if len(names) > 0 {
		a.chain += " > " + group(names)
	}
	return a
}

func group(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	slices.Sort(list)
	return "{" + strings.Join(list, ", ") + "}"
}

// zram is memory, unless it writes back to a disk.
func (l *look) zram(dir string, a answer, depth int) answer {
	back := line(dir + "/backing_dev")
	if back == "" || back == "none" {
		a.chain += " (memory)"
		return a
	}
	to, err := l.node(back)
	if err != nil {
		a.unknown = fmt.Sprintf("%s writes back to %s, and that device cannot be determined: %v", filepath.Base(dir), enforce.Plain(back), err)
		return a
	}
	b := l.follow(to, "", depth+1)
	return answer{a.chain + " (memory) > " + b.chain, b.plain, b.unknown}
}

// loop is a file, which lies on another file system; or, called by another name, a block device.
func (l *look) loop(dir string, a answer, depth int) answer {
	whole := dir
	if _, err := os.Stat(dir + "/partition"); err == nil {
		whole = filepath.Dir(dir)
	}
	dev, device, err := l.r.ask.backing(filepath.Base(whole))
	if err != nil {
		a.unknown = fmt.Sprintf("cannot determine which file system the file of %s is on: %v", filepath.Base(whole), err)
		return a
	}
	if to, err := l.block(device); err == nil {
		return l.all(a, []string{to}, "", depth)
	}
	return l.file(dev, "the file of "+filepath.Base(whole), a, depth)
}

// file goes on below the file system that a file lies on, by its number.
func (l *look) file(dev, what string, a answer, depth int) answer {
	i := slices.IndexFunc(l.mounts, func(m mountinfo.Mount) bool { return m.Dev == dev })
	to, err := l.block(dev)
	if i < 0 && err == nil { // its mount was taken away, or is another namespace's
		a.chain += " > a file"
		return l.all(a, []string{to}, "", depth)
	}
	if i < 0 {
		a.unknown = what + " is on a file system that is not mounted here"
		return a
	}
	m := l.mounts[i]
	a.chain += " > a file on " + enforce.Plain(m.Point)
	switch {
	case err == nil:
		return l.all(a, []string{to}, m.FS, depth)
	case m.FS == "tmpfs" || m.FS == "ramfs":
		a.chain += " (memory)"
	case m.FS == "btrfs":
		legs, err := l.btrfs(m.Source)
		if err == nil {
			return l.all(a, legs, m.FS, depth)
		}
		a.unknown = err.Error()
	default:
		a.unknown = fmt.Sprintf("%s is on %s, which cannot be followed to a disk", what, enforce.Plain(m.FS))
	}
	return a
}

// leaf is a disk or a partition that nothing above has encrypted.
func (l *look) leaf(dir, format string, a answer) answer {
	name := filepath.Base(dir)
	disk := name
	if _, err := os.Stat(dir + "/partition"); err == nil {
		disk = filepath.Base(filepath.Dir(dir))
	}
	locks := l.r.Locks
	if locks == nil {
		locks = opal
	}
	if locks(l.r.Dev + "/" + disk) {
		a.unknown = disk + " encrypts itself (OPAL); how its key is protected cannot be read"
		return a
	}
	if format == "ext4" || format == "f2fs" {
		if encrypts(l.r.Sys, l.r.Dev+"/"+name, format) {
			a.unknown = fmt.Sprintf("some directories of %s on %s may be encrypted (fscrypt), and Warder cannot tell which", format, name)
			return a
		}
	}
	a.plain = name
	return a
}

// swaps are those in use.
func (l *look) swaps() ([]fact.Volume, error) {
	b, err := os.ReadFile(l.r.Proc + "/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without
	}
	if err != nil {
		return nil, fmt.Errorf("the swaps cannot be read: %w", err)
	}
	var out []fact.Volume
	for i, text := range strings.Split(string(b), "\n") {
		path, kind, ok := parseSwap(text)
		if i == 0 || text == "" {
			continue
		}
		v := fact.Volume{Mount: "swap", Swap: true, External: fact.Is(false), Dev: enforce.Plain(path)}
		switch {
		case !ok || len(out) >= maxVolumes:
			v.Encrypted = fact.Unread[bool](fmt.Sprintf("line %d of the list of swaps cannot be read", i+1))
		case kind == "file":
			a := answer{chain: enforce.Plain(path)}
			if dev, err := l.r.ask.swap(path); err != nil {
				a.unknown = fmt.Sprintf("cannot determine which file system the swap file %s is on: %v", enforce.Plain(path), err)
			} else {
				a = l.file(dev, "the swap file "+enforce.Plain(path), a, 0)
			}
			v.Chain, v.Encrypted, v.Leaf = []string{a.chain}, fact.Is(a.plain == ""), a.plain
			if a.plain == "" && a.unknown != "" {
				v.Encrypted = fact.Unread[bool](a.unknown)
			}
		default:
			dir, err := l.node(path)
			if err != nil {
				v.Encrypted = fact.Unread[bool](fmt.Sprintf("cannot determine which device %s is: %v", enforce.Plain(path), err))
				break
			}
			l.judge(&v, []string{dir})
		}
		out = append(out, v)
	}
	return out, nil
}

// parseSwap reads a line of /proc/swaps (proc(5)): the path, with blanks as \040, then "file" or "partition".
func parseSwap(text string) (path, kind string, ok bool) {
	f := strings.Fields(text)
	if len(f) < 5 || f[1] != "file" && f[1] != "partition" {
		return "", "", false
	}
	if _, err := strconv.ParseUint(f[2], 10, 64); err != nil {
		return "", "", false
	}
	return mountinfo.Unescape(f[0]), f[1], true
}

// crypt says which ciphers stand in the table of a device-mapper device, "" for none, and whether it encrypts
// all of it.
func (l *look) crypt(dir string) (ciphers string, all bool, err error) {
	tables := l.r.Tables
	if tables == nil {
		tables = dmTables
	}
	list, err := tables(line(dir + "/dev"))
	if err != nil {
		return "", false, err
	}
	var named []string
	all = len(list) > 0
	for _, t := range list {
		if t.Type != "crypt" {
			all = false
			continue
		}
		// Ciphers that leave everything as it is exist, for dm-crypt's own tests.
		all = all && t.Cipher != "" && !strings.Contains(t.Cipher, "cipher_null")
		if !slices.Contains(named, t.Cipher) {
			named = append(named, t.Cipher)
		}
	}
	return strings.Join(named, ", "), all, nil
}
