package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const fstab = `# /etc/fstab
UUID=11aa  /          ext4  errors=remount-ro 0 1
/dev/disk/by-uuid/22bb /home ext4 defaults 0 2
LABEL=my\040data /data vfat defaults 0 2
UUID=33cc /backup ext4 defaults,nofail 0 2
UUID=44dd /media/x ext4 noauto,user 0 0
UUID=55ee /lazy ext4 x-systemd.automount 0 0
server:/export /nfs nfs _netdev 0 0
tmpfs /tmp tmpfs defaults 0 0
/swapfile none swap sw 0 0
PARTUUID="66FF" none swap sw
broken
`

const crypttab = `# name source key options
home UUID=77aa none luks
data /dev/sdb1 /keyfile:LABEL=KEYS luks
vault UUID=88bb /dev/disk/by-id/usb-key luks,header=/hdr:UUID=99cc
later UUID=aadd none luks,nofail
swap /dev/vg/swap /dev/urandom swap
`

// What the boot waits for, and nothing else.
func TestNeeds(t *testing.T) {
	list, err := parseFstab(fstab)
	if err != nil {
		t.Fatal(err)
	}
	more, err := parseCrypttab(crypttab)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range append(list, more...) {
		got = append(got, n.spec)
	}
	want := `UUID=11aa /dev/disk/by-uuid/22bb LABEL=my\040data PARTUUID="66FF" UUID=77aa /dev/sdb1 LABEL=KEYS UUID=88bb ` +
		`/dev/disk/by-id/usb-key UUID=99cc /dev/vg/swap`
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	s := starter{dev: "/D"}
	for spec, node := range map[string]string{
		`LABEL=my\040data`: `/D/disk/by-label/my\x20data`, `PARTUUID="66FF"`: "/D/disk/by-partuuid/66ff", "/dev/sdb1": "/D/sdb1",
		"ID=usb-x_y-0:0": "/D/disk/by-id/usb-x_y-0:0",
	} {
		if got := s.node(spec); got != node {
			t.Errorf("%s: %s, want %s", spec, got, node)
		}
	}
	if list, _ := parseFstab("UUID=1 /a ext4 " + strings.Repeat("x", 70<<10) + "\nUUID=2 /b ext4 defaults\n"); len(list) != 2 {
		t.Errorf("a long line hides others: %v", list)
	}
}

// The boot waits for a disk that has not been seen, unless it is known to be internal.
func TestWaits(t *testing.T) {
	dir := t.TempDir()
	s := starter{sys: dir, dev: dir + "/dev", proc: dir, fstab: dir + "/fstab", crypttab: dir + "/crypttab"}
	waits := func() string {
		t.Helper()
		var m fact.Machine
		if err := s.Observe(context.Background(), &m); err != nil {
			t.Fatal(err)
		}
		return m.Starting.Waits
	}
	if got := waits(); got != "" {
		t.Errorf("without the tables it waits for %q", got)
	}
	put(t, s.fstab, "UUID=11aa / ext4 defaults 0 1\nUUID=22bb /data ext4 defaults 0 2\n")
	if got := waits(); got != "UUID=11aa (/ of /etc/fstab)" {
		t.Errorf("waits for %q", got)
	}
	s.inside = []string{"UUID=11aa"}
	if got := waits(); got != "UUID=22bb (/data of /etc/fstab)" {
		t.Errorf("waits for %q", got)
	}
	s.inside = append(s.inside, "UUID=22bb")
	if got := waits(); got != "" {
		t.Errorf("waits for %q", got)
	}
	if err := os.Remove(s.fstab); err != nil {
		t.Fatal(err)
	}
	for what, made := range map[string]func() error{
		"a directory": func() error { return os.Mkdir(s.fstab, 0o755) },
		"a pipe":      func() error { return unix.Mkfifo(s.fstab, 0o644) },
		"too long":    func() error { return os.WriteFile(s.fstab, make([]byte, maxTable+1), 0o644) },
	} {
		_ = os.Remove(s.fstab)
		if err := made(); err != nil {
			t.Fatal(err)
		}
		if got := waits(); !strings.HasPrefix(got, "something (") {
			t.Errorf("%s: waits for %q", what, got)
		}
	}
}

// The path down to a disk says where it is attached.
func TestInside(t *testing.T) {
	sys := t.TempDir()
	s := starter{sys: sys}
	dirs := map[string]string{
		"nvme":  "devices/pci0000:00/0000:00:01.0/nvme/nvme0/nvme0n1",
		"part":  "devices/pci0000:00/0000:00:01.0/nvme/nvme0/nvme0n1/nvme0n1p1",
		"stick": "devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/block/sda",
		"lvm":   "devices/virtual/block/dm-0", "mixed": "devices/virtual/block/dm-1", "loop": "devices/virtual/block/loop0",
		"multipath": "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "deep": "devices/virtual/block/dm-2",
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(sys, d, "slaves"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(sys, dirs["part"], "partition"), "1")
	link := func(from, to string) {
		if err := os.Symlink(filepath.Join(sys, dirs[to]), filepath.Join(sys, dirs[from], "slaves", filepath.Base(dirs[to]))); err != nil {
			t.Fatal(err)
		}
	}
	link("lvm", "part")
	link("mixed", "part")
	link("mixed", "stick")
	link("deep", "lvm")
	for name, want := range map[string]bool{"nvme": true, "part": true, "lvm": true, "deep": true, "multipath": true, "stick": false,
		"mixed": false, "loop": false} {
		if got := s.isInside(filepath.Join(sys, dirs[name]), 0); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The machine that runs this test: what is noted of it is in its tables, and the early door lends what the usual one
// does.
func TestStartOfThisMachine(t *testing.T) {
	h := platform.Host{Sysfs: "/sys", Proc: "/proc"}
	list, _ := newStarter(h).needs()
	for _, spec := range newStarter(h).Note() {
		found := false
		for _, n := range list {
			found = found || n.spec == spec
		}
		if !found {
			t.Errorf("%s is noted, and named nowhere", spec)
		}
	}
	names := func(c platform.Capability) (out string) {
		for _, p := range c.Provides {
			out += p.Name + " "
		}
		return out
	}
	usual := names(Capability(h))
	h.Early = &platform.Notes{}
	if got := names(Capability(h)); got != usual {
		t.Errorf("early it lends %s, else %s", got, usual)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzTables(f *testing.F) {
	f.Add(fstab)
	f.Add(crypttab)
	f.Fuzz(func(t *testing.T, text string) {
		s := starter{dev: "/D"}
		for _, parse := range []func(string) ([]need, error){
			parseFstab, parseCrypttab,
		} {
			list, _ := parse(text)
			if len(list) > maxNeeds {
				t.Fatalf("%d", len(list))
			}
			for _, n := range list {
				if node := s.node(n.spec); !strings.HasPrefix(node, "/D") {
					t.Fatalf("%q is looked for at %q", n.spec, node)
				}
			}
		}
	})
}
