package volume

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/warderd/warder/platform/mountinfo"
)

// Which mount a path is on: the nearest above it, and of two at one place the later.
func TestHolding(t *testing.T) {
	mounts := []mountinfo.Mount{{ID: 1, Point: "/"}, {ID: 2, Point: "/home"}, {ID: 3, Point: "/home/a"}, {ID: 4, Point: "/home/a"}}
	for path, want := range map[string]int{"/swap": 1, "/home": 2, "/home/b/x": 2, "/home/ab": 2, "/home/a/x": 4, "/home/a": 4} {
		if m, ok := holding(mounts, path); !ok || m.ID != want {
			t.Errorf("%s is on %d, not %d", path, m.ID, want)
		}
	}
	if m, ok := holding(mounts[1:], "/etc"); ok {
		t.Errorf("%+v", m)
	}
	for point, want := range map[string]bool{"/": true, "/home": true, "/home/a": true, "/homes": false, "/media/a": false, "/mnt": false, "/boot/efi": true} {
		if isSystem(point) != want {
			t.Errorf("%s: %t", point, !want)
		}
	}
}

// Disks are found by the kernel's class, wherever they stand below a device: an NVMe has no directory "block".
func TestDisksBelow(t *testing.T) {
	root := t.TempDir()
	class := filepath.Join(root, "class/block")
	make := func(dir, dev string, block bool) {
		dir = filepath.Join(root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		to := class
		if !block {
			to = filepath.Join(root, "class/other")
		}
		if err := os.WriteFile(dir+"/dev", []byte(dev+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, dir+"/subsystem"); err != nil {
			t.Fatal(err)
		}
	}
	make("pci/nvme/nvme0", "240:0", false)
	make("pci/nvme/nvme0/nvme0n1", "259:0", true)
	make("pci/nvme/nvme0/nvme0n1/nvme0n1p1", "259:1", true)
	if err := os.WriteFile(filepath.Join(root, "pci/nvme/nvme0/nvme0n1/nvme0n1p1/partition"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	make("pci/nvme/nvme0/ng0n1", "240:1", false)
	make("usb/1-1/host6/6:0:0:0/block/sda", "8:0", true)
	for dir, want := range map[string][]string{"pci": {"259:1", "259:0"}, "pci/nvme/nvme0": {"259:1", "259:0"}, "usb": {"8:0"}, "nothing": nil} {
		list, whole := disksBelow(filepath.Join(root, dir))
		var devs []string
		for _, d := range list {
			devs = append(devs, d.dev)
		}
		if !whole || len(devs) != len(want) || len(want) > 0 && devs[0] != want[0] {
			t.Errorf("%s: %v, wanted %v", dir, devs, want)
		}
	}
}
