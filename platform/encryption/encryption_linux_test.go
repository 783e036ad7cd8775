package encryption

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// machine is a sysfs and a procfs made of files.
type machine struct {
	t      *testing.T
	root   string
	tables map[string][]Target
	n      int
	mounts []string
	swaps  []string
	opal   string
	files  map[string][2]string // of loop devices and swap files: the number of their file system, and their own
}

// The kernel's answers.
func (m *machine) node(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "/dev/")
	if !ok {
		return "", errors.New("it is not a device node under /dev")
	}
	to, err := filepath.EvalSymlinks(m.root + "/dev/" + rest)
	if err != nil {
		return "", errors.New("it is not there")
	}
	return m.n1(filepath.Base(to)), nil
}

func (m *machine) backing(name string) (string, string, error) {
	f, ok := m.files[name]
	if !ok {
		return "", "", errStuck
	}
	return f[0], f[1], nil
}

func (m *machine) swap(path string) (string, error) {
	f, ok := m.files[path]
	if !ok {
		return "", errors.New("a different file is at that path")
	}
	return f[0], nil
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, root: t.TempDir(), tables: map[string][]Target{}, n: 1, files: map[string][2]string{}}
}

func (m *machine) put(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(at, to string) {
	m.t.Helper()
	at = filepath.Join(m.root, at)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(m.root, to), at); err != nil {
		m.t.Fatal(err)
	}
}

// block makes a block device below a directory of sysfs, on others, and returns its number.
func (m *machine) block(dir, name string, on ...string) string {
	m.t.Helper()
	m.n++
	dev := fmt.Sprintf("8:%d", m.n)
	at := "sys/" + dir + "/" + name
	m.put(at+"/dev", dev+"\n")
	m.link("sys/dev/block/"+dev, at)
	m.link("sys/class/block/"+name, at)
	m.put("dev/"+name, "")
	for _, s := range on {
		m.link(at+"/slaves/"+s, m.at(s))
	}
	return dev
}

// at is where a block device is.
func (m *machine) at(name string) string {
	m.t.Helper()
	to, err := filepath.EvalSymlinks(filepath.Join(m.root, "sys/class/block", name))
	if err != nil {
		m.t.Fatal(err)
	}
	rel, _ := filepath.Rel(m.root, to)
	return rel
}

const inside = "devices/pci0000:00/0000:00:1d.0/nvme/nvme0"

// part is a partition of a disk inside the machine.
func (m *machine) part(name string) string {
	dev := m.block(inside+"/nvme0n1", name)
	m.put("sys/"+inside+"/nvme0n1/"+name+"/partition", "1\n")
	return dev
}

// dm is a device of device-mapper with the types of its targets, a cipher after a colon.
func (m *machine) dm(name, targets string, on ...string) string {
	dev := m.block("devices/virtual/block", name, on...)
	for _, t := range strings.Fields(targets) {
		kind, cipher, _ := strings.Cut(t, ":")
		m.tables[dev] = append(m.tables[dev], Target{kind, cipher})
	}
	return dev
}

func (m *machine) mount(dev, point, format string, more ...string) {
	source := "/dev/x"
	super := "rw"
	for _, x := range more {
		if strings.HasPrefix(x, "/") {
			source = x
		} else {
			super = x
		}
	}
	m.mounts = append(m.mounts, fmt.Sprintf("%d 1 %s / %s rw - %s %s %s", 20+len(m.mounts), dev, point, format, source, super))
}

func (m *machine) look() []fact.Volume {
	m.t.Helper()
	m.put("proc/self/mountinfo", strings.Join(m.mounts, "\n")+"\n")
	m.put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"+strings.Join(m.swaps, "\n"))
	r := &Reader{Sys: m.root + "/sys", Proc: m.root + "/proc", Dev: m.root + "/dev", ask: m,
		Tables: func(dev string) ([]Target, error) {
			if t, ok := m.tables[dev]; ok {
				return t, nil
			}
			return nil, errors.New("no table")
		}, Locks: func(node string) bool { return filepath.Base(node) == m.opal }}
	var out fact.Machine
	if err := r.Observe(context.Background(), &out); err != nil {
		m.t.Fatal(err)
	}
	return out.Volumes.V
}

// stands is the result for one volume: "yes", "no LEAF" or "? WHY", and the chain.
func stands(list []fact.Volume, mount string) string {
	for _, v := range list {
		if v.Mount != mount && !(v.Swap && mount == "swap") {
			continue
		}
		switch {
		case !v.Encrypted.OK:
			return "? " + v.Encrypted.Why
		case v.Encrypted.V:
			return "yes " + strings.Join(v.Chain, ", ")
		}
		return "no " + v.Leaf + " by " + strings.Join(v.Chain, ", ")
	}
	return "not listed"
}

// Every path down has to pass something that encrypts.
func TestChains(t *testing.T) {
	const aes = "crypt:aes-xts-plain64"
	for _, c := range []struct {
		name string
		make func(m *machine)
		at   string
		want string
	}{
		{"a plain partition", func(m *machine) { m.mount(m.part("p1"), "/", "ext4") }, "/", "no p1 by p1"},
		{"LUKS", func(m *machine) { m.part("p1"); m.mount(m.dm("dm-0", aes, "p1"), "/", "ext4") }, "/",
			"yes dm-0 (crypt aes-xts-plain64) > p1"},
		{"LVM on LUKS", func(m *machine) {
			m.part("p1")
			m.dm("dm-0", aes, "p1")
			m.mount(m.dm("dm-1", "linear linear", "dm-0"), "/", "ext4")
		}, "/", "yes dm-1 > dm-0 (crypt aes-xts-plain64) > p1"},
		{"LUKS on LVM", func(m *machine) {
			m.part("p1")
			m.dm("dm-0", "linear", "p1")
			m.mount(m.dm("dm-1", aes, "dm-0"), "/", "ext4")
		}, "/", "yes dm-1 (crypt aes-xts-plain64) > dm-0"},
		{"LVM that grew onto a plain disk", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.dm("dm-0", aes, "p1")
			m.mount(m.dm("dm-1", "linear linear", "dm-0", "p2"), "/home", "ext4")
		}, "/home", "no p2 by dm-1 > {dm-0 (crypt aes-xts-plain64) > p1, p2}"},
		{"md over LUKS", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.dm("dm-0", aes, "p1")
			m.dm("dm-1", aes, "p2")
			m.mount(m.block("devices/virtual/block", "md0", "dm-0", "dm-1"), "/", "ext4")
		}, "/", "yes md0 > {dm-0 (crypt aes-xts-plain64) > p1, dm-1 (crypt aes-xts-plain64) > p2}"},
		{"LUKS over md", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.block("devices/virtual/block", "md0", "p1", "p2")
			m.mount(m.dm("dm-0", aes, "md0"), "/", "ext4")
		}, "/", "yes dm-0 (crypt aes-xts-plain64) > md0"},
		{"md with one plain leg", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.dm("dm-0", aes, "p1")
			m.mount(m.block("devices/virtual/block", "md0", "dm-0", "p2"), "/", "ext4")
		}, "/", "no p2 by md0 > {dm-0 (crypt aes-xts-plain64) > p1, p2}"},
		{"a cipher that does nothing", func(m *machine) { m.part("p1"); m.mount(m.dm("dm-0", "crypt:cipher_null-ecb", "p1"), "/", "ext4") },
			"/",
			"no p1 by dm-0 (crypt cipher_null-ecb, which does not encrypt all of it) > p1"},
		{"half of a table", func(m *machine) { m.part("p1"); m.mount(m.dm("dm-0", aes+" linear", "p1"), "/", "ext4") }, "/",
			"no p1 by dm-0 (crypt aes-xts-plain64, which does not encrypt all of it) > p1"},
		{"integrity and verity do not encrypt", func(m *machine) { m.part("p1"); m.mount(m.dm("dm-0", "integrity", "p1"), "/", "ext4") },
			"/", "no p1 by dm-0 > p1"},
		{"a table that cannot be read", func(m *machine) {
			m.part("p1")
			m.mount(m.block("devices/virtual/block", "dm-0", "p1"), "/", "ext4")
		}, "/", "? the table of dm-0 cannot be read: no table"},
		{"bcache with a plain cache", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.dm("dm-0", aes, "p1")
			m.mount(m.block("devices/virtual/block", "bcache0", "dm-0", "p2"), "/", "ext4")
		}, "/", "no p2 by bcache0 > {dm-0 (crypt aes-xts-plain64) > p1, p2}"},
		{"btrfs on two", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.dm("dm-0", aes, "p1")
			m.dm("dm-1", aes, "p2")
			for _, d := range []string{"dm-0", "dm-1"} {
				m.link("sys/fs/btrfs/1234/devices/"+d, m.at(d))
			}
			m.link("dev/mapper/root", "dev/dm-0")
			m.mount("0:40", "/", "btrfs", "/dev/mapper/root")
		}, "/", "yes dm-0 (crypt aes-xts-plain64) > p1, dm-1 (crypt aes-xts-plain64) > p2"},
		{"btrfs with a plain second", func(m *machine) {
			m.part("p1")
			m.part("p2")
			m.dm("dm-0", aes, "p1")
			m.link("sys/fs/btrfs/1234/devices/dm-0", m.at("dm-0"))
			m.link("sys/fs/btrfs/1234/devices/p2", m.at("p2"))
			m.mount("0:40", "/", "btrfs", "/dev/dm-0")
		}, "/", "no p2 by dm-0 (crypt aes-xts-plain64) > p1, p2"},
		{"btrfs that is not found", func(m *machine) { m.mount("0:40", "/", "btrfs", "/dev/dm-7") }, "/",
			"? cannot determine the disks of the btrfs file system on /dev/dm-7: it is not there"},
		{"ZFS", func(m *machine) { m.mount("0:41", "/tank", "zfs", "tank") }, "/tank",
			"? ZFS encrypts by dataset, and Warder does not read which"},
		{"OPAL", func(m *machine) { m.opal = "nvme0n1"; m.mount(m.part("p1"), "/", "ext4") }, "/",
			"? nvme0n1 encrypts itself (OPAL); how its key is protected cannot be read"},
		{"a loop file on an encrypted disk", func(m *machine) {
			m.part("p1")
			root := m.dm("dm-0", aes, "p1")
			m.mount(root, "/", "ext4")
			m.files["loop0"] = [2]string{root}
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "yes loop0 > a file on / > dm-0 (crypt aes-xts-plain64) > p1"},
		{"a loop file on a plain one", func(m *machine) {
			m.part("p1")
			m.mount(m.dm("dm-0", aes, "p1"), "/", "ext4")
			data := m.part("p2")
			m.mount(data, "/data", "ext4")
			m.files["loop0"] = [2]string{data}
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "no p2 by loop0 > a file on /data > p2"},
		{"a loop file on a disk that is mounted elsewhere", func(m *machine) {
			m.part("p1")
			m.mount(m.dm("dm-0", aes, "p1"), "/", "ext4")
			m.files["loop0"] = [2]string{m.part("p2")}
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "no p2 by loop0 > a file > p2"},
		{"a loop file on what is nowhere", func(m *machine) {
			m.files["loop0"] = [2]string{"0:99"}
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "? the file of loop0 is on a file system that is not mounted here"},
		{"a loop device of a node in memory", func(m *machine) {
			m.mount("0:30", "/tmp", "tmpfs")
			m.files["loop0"] = [2]string{"0:30", m.part("p2")}
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "no p2 by loop0 > p2"},
		{"a loop file in memory", func(m *machine) {
			m.mount("0:30", "/tmp", "tmpfs")
			m.files["loop0"] = [2]string{"0:30"}
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "yes loop0 > a file on /tmp (memory)"},
		{"a loop file that does not answer", func(m *machine) {
			m.mount(m.block("devices/virtual/block", "loop0"), "/mnt", "ext4")
		}, "/mnt", "? cannot determine which file system the file of loop0 is on: its file system does not answer"},
		{"a decoy beside a plain root", func(m *machine) {
			m.mount(m.part("p1"), "/", "ext4")
			m.block("devices/virtual/block", "loop0")
			m.mount(m.dm("dm-0", aes, "loop0"), "/mnt", "ext4")
		}, "/", "no p1 by p1"},
		{"zram", func(m *machine) {
			m.block("devices/virtual/block", "zram0")
			m.put("sys/devices/virtual/block/zram0/backing_dev", "none\n")
			m.swaps = append(m.swaps, "/dev/zram0 partition 1024 0 -2")
			m.mount(m.part("p1"), "/", "ext4")
		}, "swap", "yes zram0 (memory)"},
		{"zram that writes back", func(m *machine) {
			m.part("p1")
			m.block("devices/virtual/block", "zram0")
			m.put("sys/devices/virtual/block/zram0/backing_dev", "/dev/p1\n")
			m.swaps = append(m.swaps, "/dev/zram0 partition 1024 0 -2")
			m.mount("0:5", "/", "overlay")
		}, "swap", "no p1 by zram0 (memory) > p1"},
		{"a swap file", func(m *machine) {
			root := m.part("p1")
			m.mount(root, "/", "ext4")
			m.files["/swap file"] = [2]string{root}
			m.swaps = append(m.swaps, `/swap\040file file 1024 0 -2`)
		}, "swap", "no p1 by /swap file > a file on / > p1"},
		{"another file has the swap's name", func(m *machine) {
			m.part("p1")
			m.mount(m.dm("dm-0", aes, "p1"), "/", "ext4")
			m.swaps = append(m.swaps, `/swapfile file 1024 0 -2`)
		}, "swap", "? cannot determine which file system the swap file /swapfile is on: a different file is at that path"},
		{"a node that is called like an encrypted one", func(m *machine) {
			m.part("p1")
			m.mount(m.dm("dm-0", aes, "p1"), "/", "ext4")
			m.swaps = append(m.swaps, `/tmp/n/dm-0 partition 1024 0 -2`)
		}, "swap", "? cannot determine which device /tmp/n/dm-0 is: it is not a device node under /dev"},
		{"a swap of device-mapper", func(m *machine) {
			m.part("p1")
			m.dm("dm-0", aes, "p1")
			m.link("dev/mapper/swap", "dev/dm-0")
			m.swaps = append(m.swaps, "/dev/mapper/swap partition 1024 0 -2")
			m.mount("0:5", "/", "overlay")
		}, "swap", "yes dm-0 (crypt aes-xts-plain64) > p1"},
		{"a swap that makes no sense", func(m *machine) { m.swaps = append(m.swaps, "what"); m.mount("0:5", "/", "overlay") }, "swap",
			"? line 2 of the list of swaps cannot be read"},
		{"a ring", func(m *machine) {
			m.block("devices/virtual/block", "md0")
			m.link("sys/devices/virtual/block/md0/slaves/md0", m.at("md0"))
			m.mount(m.n1("md0"), "/", "ext4")
		}, "/", "? md0 has too many layers to follow"},
		{"a stick", func(m *machine) {
			m.mount(m.block("devices/pci0/usb2/2-1/2-1:1.0/host0/block/sda", "sda1"), "/media/ann/secret", "vfat")
		}, "/media/ann/secret", "not listed"},
		{"LUKS on a stick", func(m *machine) {
			m.block("devices/pci0/usb2/2-1/2-1:1.0/host0/block/sda", "sda1")
			m.mount(m.dm("dm-0", aes, "sda1"), "/media/x", "ext4")
		}, "/media/x", "not listed"},
		{"a system on a stick", func(m *machine) {
			m.mount(m.block("devices/pci0/usb2/2-1/2-1:1.0/host0/block/sda", "sda1"), "/", "ext4")
		}, "/", "no sda1 by sda1"},
		{"a card", func(m *machine) {
			m.put("sys/devices/pci0/mmc_host/mmc0/mmc0:0001/type", "SD\n")
			m.mount(m.block("devices/pci0/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "mmcblk0p1"), "/media/card", "vfat")
		}, "/media/card", "not listed"},
		{"a chip that is soldered in", func(m *machine) {
			m.put("sys/devices/pci0/mmc_host/mmc0/mmc0:0001/type", "MMC\n")
			m.mount(m.block("devices/pci0/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "mmcblk0p1"), "/data", "ext4")
		}, "/data", "no mmcblk0p1 by mmcblk0p1"},
		{"read-only", func(m *machine) { m.mount(m.part("p1"), "/ro", "squashfs", "ro") }, "/ro", "not listed"},
		{"memory", func(m *machine) { m.mount("0:22", "/tmp", "tmpfs") }, "/tmp", "not listed"},
	} {
		m := newMachine(t)
		c.make(m)
		if got := stands(m.look(), c.at); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// n1 is the number of a block device that was made.
func (m *machine) n1(name string) string {
	b, _ := os.ReadFile(filepath.Join(m.root, m.at(name), "dev"))
	return strings.TrimSpace(string(b))
}

// One file system with several mount points is one volume; a line that cannot be read is not skipped.
func TestPlaces(t *testing.T) {
	m := newMachine(t)
	dev := m.part("p1")
	m.mount(dev, "/boot", "ext4")
	m.mount(dev, "/srv/data", "ext4")
	list := m.look()
	if len(list) != 1 || list[0].Mount != "/boot" || strings.Join(list[0].Also, " ") != "/srv/data" {
		t.Errorf("%+v", list)
	}
	m.mounts = append(m.mounts, "nonsense")
	if got := stands(m.look(), "?"); !strings.HasPrefix(got, "? 1 lines") {
		t.Error(got)
	}
	r := &Reader{Sys: m.root, Proc: m.root + "/none", Dev: m.root, ask: m}
	var out fact.Machine
	if err := r.Observe(context.Background(), &out); err == nil || out.Volumes.OK || out.Volumes.Why == "" {
		t.Errorf("%+v %v", out.Volumes, err)
	}
}

func target(kind, text string, next uint32) []byte {
	b := make([]byte, unix.SizeofDmTargetSpec)
	binary.NativeEndian.PutUint32(b[20:], next)
	copy(b[24:40], kind)
	return append(append(b, text...), 0, 0, 0, 0)
}

func TestParseTable(t *testing.T) {
	one := target("crypt", "aes-xts-plain64 00112233 0 7:0 32768", 88)
	one = append(one, make([]byte, 88-len(one))...)
	two := append(one, target("linear", "8:1 0", 0)...)
	got, err := parseTable(two, 2)
	if err != nil || len(got) != 2 || got[0] != (Target{"crypt", "aes-xts-plain64"}) || got[1] != (Target{"linear", ""}) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []struct {
		b []byte
		n int
	}{{nil, 1}, {two, 3}, {two[:100], 2}, {target("crypt", "x", 0), 2}} {
		if got, err := parseTable(bad.b, bad.n); err == nil {
			t.Errorf("%+v", got)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(target("crypt", "aes-xts-plain64 00 0 7:0 1", 0), 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 1000 {
			return
		}
		if got, err := parseTable(b, n); err == nil && len(got) != n {
			t.Errorf("%d of %d", len(got), n)
		}
	})
}

func FuzzParseSwap(f *testing.F) {
	f.Add(`/swap\040file file 1024 0 -2`)
	f.Fuzz(func(t *testing.T, s string) {
		if path, kind, ok := parseSwap(s); ok && (path == "" || kind != "file" && kind != "partition") {
			t.Errorf("%q %q", path, kind)
		}
	})
}

func TestHasEncrypt(t *testing.T) {
	b := make([]byte, 128)
	binary.LittleEndian.PutUint16(b[0x38:], 0xef53)
	if hasEncrypt(b) || hasEncrypt(b[:60]) {
		t.Error("no feature is taken for one")
	}
	binary.LittleEndian.PutUint32(b[0x60:], 0x10000|0x2c2)
	if !hasEncrypt(b) {
		t.Error("the feature is not found")
	}
}

// A mount is reported, and the watch ends with its context.
func TestWatch(t *testing.T) {
	r := &Reader{Sys: "/sys", Proc: "/proc", Dev: "/dev"}
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		done <- r.Watch(ctx, func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
	}()
	if os.Getuid() == 0 {
		dir := t.TempDir()
		seen := false
		for range 300 {
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				cannot(t, fmt.Sprintf("nothing can be mounted here: %v", err))
				seen = true
				break
			}
			select {
			case <-told:
				seen = true
			case <-time.After(100 * time.Millisecond):
			}
			_ = unix.Unmount(dir, 0)
			if seen {
				break
			}
		}
		if !seen {
			t.Error("a mount is not told")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// cannot says why a test cannot run here; with CI=true that is a failure.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Error(why)
		return
	}
	t.Log(why)
}

// The kernel's own answers, on a real loop device and a real swap file.
func TestKernelAnswers(t *testing.T) {
	if os.Getuid() != 0 {
		cannot(t, "loop devices and swap files need root")
		return
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	var k kernel
	image := dir + "/image"
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	loop := run("losetup", "-f", "--show", image)
	defer func() { run("losetup", "-d", loop) }()
	if dev, device, err := k.backing(filepath.Base(loop)); err != nil || dev != numbers(st.Dev) || device != "" {
		t.Errorf("%s is on %s: %q %q %v", loop, numbers(st.Dev), dev, device, err)
	}
	want := line("/sys/class/block/" + filepath.Base(loop) + "/dev")
	if dev, err := k.node(loop); err != nil || dev != want {
		t.Errorf("%s: %q %v, want %s", loop, dev, err, want)
	}
	link := dir + "/link"
	if err := os.Symlink(loop, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, image, "/dev/null", "/dev/none"} {
		if dev, err := k.node(path); err == nil {
			t.Errorf("%s is taken for device %s", path, dev)
		}
	}

	swap := dir + "/swap"
	if err := os.WriteFile(swap, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run("mkswap", swap)
	if dev, err := k.swap(swap); err == nil {
		t.Errorf("a file that is not in use is taken for a swap on %s", dev)
	}
	run("swapon", swap)
	defer func() { run("swapoff", swap) }()
	if dev, err := k.swap(swap); err != nil || dev != numbers(st.Dev) {
		t.Errorf("%q %v, want %s", dev, err, numbers(st.Dev))
	}
}
