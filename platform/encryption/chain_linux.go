package encryption

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/mountinfo"
)

// judge reports whether every path down from a volume's devices passes one that encrypts.
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

// answer is what was found beneath one device: the path down, and the disk where it ends without encryption.
type answer struct {
	chain   string // "dm-1 (crypt aes-xts-plain64) > sda3"
	plain   string // the disk that is reached without encryption
	unknown string // why it cannot be told
}

// follow goes down from a block device. Everything beneath it has to be encrypted, unless the device itself encrypts.
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

// all continues below a device, or a file, that rests on several others: each of them counts.
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

// over names what is beneath an encrypting device, which no longer matters.
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

// group formats several paths as one.
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
		a.unknown = fmt.Sprintf("%s writes back to %s, and that device cannot be determined: %v", filepath.Base(dir),
			enforce.Plain(back), err)
		return a
	}
	b := l.follow(to, "", depth+1)
	return answer{a.chain + " (memory) > " + b.chain, b.plain, b.unknown}
}

// loop is a file on another file system, or a block device under another name.
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

// file continues below the file system that contains a file, by its number.
func (l *look) file(dev, what string, a answer, depth int) answer {
	i := slices.IndexFunc(l.mounts, func(m mountinfo.Mount) bool { return m.Dev == dev })
	to, err := l.block(dev)
	if i < 0 && err == nil { // its mount is gone, or belongs to another namespace
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

// leaf is a disk or a partition without encryption above it.
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

// crypt says which ciphers are in the table of a device-mapper device, "" for none, and whether all of the device is
// encrypted.
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
		// dm-crypt has ciphers that change nothing, for its own tests.
		all = all && t.Cipher != "" && !strings.Contains(t.Cipher, "cipher_null")
		if !slices.Contains(named, t.Cipher) {
			named = append(named, t.Cipher)
		}
	}
	return strings.Join(named, ", "), all, nil
}
