package media

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/bpf"
)

// tree makes a sysfs of files and links: a line is "path", "path = content" or "path -> target", relative to the root.
func tree(t *testing.T, lines string) string {
	t.Helper()
	root := t.TempDir()
	for l := range strings.Lines(lines) {
		l = strings.TrimSpace(l)
		if path, to, ok := strings.Cut(l, " -> "); ok {
			path = filepath.Join(root, path)
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			_ = os.MkdirAll(filepath.Join(root, to), 0o755)
			if err := os.Symlink(filepath.Join(root, to), path); err != nil {
				t.Fatal(err)
			}
		} else if path, text, ok := strings.Cut(l, " = "); ok {
			path = filepath.Join(root, path)
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// Where a disk hangs makes it external; what says of itself that it is removable does not.
func TestBus(t *testing.T) {
	const (
		ahci  = "devices/pci0000:00/0000:00:17.0/ata1/host0/"
		usb   = "devices/pci0000:00/0000:00:14.0/usb1/1-2/"
		card  = "devices/pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001/"
		dock  = "devices/pci0000:00/0000:00:07.0/"
		inner = "devices/pci0000:00/0000:00:1d.0/0000:02:00.0/"
	)
	for _, c := range []struct{ what, disk, lines, bus, model, serial string }{
		{"SATA whose medium says it is removable", ahci + "target0:0:0/0:0:0:0/block/sda", `
			` + ahci + `subsystem -> bus/scsi
			` + ahci + `scsi_host/host0/ahci_port_cmd = 44017
			` + ahci + `target0:0:0/0:0:0:0/block/sda/removable = 1
			` + ahci + `target0:0:0/0:0:0:0/vendor = ATA
			` + ahci + `target0:0:0/0:0:0:0/model = Samsung  SSD`, "", "ATA Samsung SSD", ""},
		{"a port that says hot-plug alone", ahci + "target0:0:0/0:0:0:0/block/sda", `
			` + ahci + `subsystem -> bus/scsi
			` + ahci + `scsi_host/host0/ahci_port_cmd = 44017`, "", "", ""},
		{"eSATA", ahci + "target0:0:0/0:0:0:0/block/sda", `
			` + ahci + `subsystem -> bus/scsi
			` + ahci + `scsi_host/host0/ahci_port_cmd = 24c017`, fact.BusESATA, "", ""},
		{"USB", usb + "1-2:1.0/host6/target6:0:0/6:0:0:0/block/sdb", `
			` + usb + `subsystem -> bus/usb
			` + usb + `1-2:1.0/subsystem -> bus/usb
			` + usb + `idVendor = 0951
			` + usb + `idProduct = 1666
			` + usb + `serial = SN 1`, fact.BusUSB, "", "SN 1"},
		{"a card", card + "block/mmcblk0", `
			` + card + `subsystem -> bus/mmc
			` + card + `type = SD
			` + card + `name = SL16G
			` + card + `serial = 0x12345678`, fact.BusCard, "SD SL16G", "0x12345678"},
		{"a card that the firmware calls removable", card + "block/mmcblk0", `
			` + card + `subsystem -> bus/mmc
			` + card + `removable = removable`, fact.BusCard, "", ""},
		{"eMMC", card + "block/mmcblk0", `
			` + card + `subsystem -> bus/mmc
			` + card + `type = MMC
			` + card + `removable = fixed`, "", "", ""},
		{"eMMC on an older kernel", card + "block/mmcblk0", `
			` + card + `subsystem -> bus/mmc
			` + card + `type = MMC
			` + card + `block/mmcblk0/mmcblk0boot0/dev = 179:8`, "", "", ""},
		{"Thunderbolt", dock + "0000:01:00.0/nvme/nvme0/nvme0n1", `
			` + dock + `subsystem -> bus/pci
			` + dock + `0000:01:00.0/subsystem -> bus/pci
			` + dock + `0000:01:00.0/removable = removable
			` + dock + `0000:01:00.0/nvme/nvme0/subsystem -> class/nvme
			` + dock + `0000:01:00.0/nvme/nvme0/serial = S1
			` + dock + `0000:01:00.0/nvme/nvme0/model = T5`, fact.BusPCI, "T5", "S1"},
		{"NVMe whose port says fixed", inner + "nvme/nvme0/nvme0n1", `
			` + inner + `subsystem -> bus/pci
			` + inner + `removable = fixed`, "", "", ""},
		{"NVMe with several ways, behind Thunderbolt", "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", `
			` + dock + `0000:01:00.0/subsystem -> bus/pci
			` + dock + `0000:01:00.0/removable = removable
			devices/virtual/nvme-subsystem/nvme-subsys0/nvme0 -> ` + dock + `0000:01:00.0/nvme/nvme0`, fact.BusPCI, "", ""},
		{"FireWire", "devices/pci0000:00/0000:00:1b.0/fw1/fw1.0/host7/target7:0:0/7:0:0:0/block/sdc", `
			devices/pci0000:00/0000:00:1b.0/fw1/fw1.0/subsystem -> bus/firewire`, fact.BusFireWire, "", ""},
		{"virtio", "devices/pci0000:00/0000:00:06.0/virtio2/block/vda", `
			devices/pci0000:00/0000:00:06.0/virtio2/subsystem -> bus/virtio`, "", "", ""},
	} {
		name := filepath.Base(c.disk)
		device := filepath.Dir(c.disk)
		if filepath.Base(device) == "block" {
			device = filepath.Dir(device)
		}
		root := tree(t, c.lines+"\n"+c.disk+"/dev = 8:0\n"+c.disk+"/device -> "+device+"\nclass/block/"+name+" -> "+c.disk)
		m := &Media{sys: root}
		d, ok := m.disk(name)
		if !ok {
			t.Fatalf("%s: no disk", c.what)
		}
		got := m.describe(d)
		if got.Bus != c.bus || got.External != fact.Is(c.bus != "") || got.Model != c.model || got.Serial != c.serial || c.bus == fact.BusUSB &&
			(got.USB == nil || *got.USB != fact.Plugged{Path: "1-2", Vendor: 0x0951, Product: 0x1666}) {
			t.Errorf("%s: %+v", c.what, got)
		}
		if list, err := m.disks(); err != nil || len(list) != 1 {
			t.Errorf("%s: %v %v", c.what, list, err)
		}
	}
}

// What rests on others, and parts of disks, are no disks of their own.
func TestDisks(t *testing.T) {
	root := tree(t, `devices/virtual/block/loop0/dev = 7:0
		class/block/loop0 -> devices/virtual/block/loop0
		devices/x/sda/dev = 8:0
		devices/x/sda/device -> devices/x
		devices/x/sda/sda1/partition = 1
		devices/x/sda/sda1/dev = 8:1
		devices/virtual/block/dm-0/dev = 253:0
		devices/x/sda/sda1/holders/dm-0 -> devices/virtual/block/dm-0
		class/block/sda -> devices/x/sda
		class/block/sda1 -> devices/x/sda/sda1
		class/block/dm-0 -> devices/virtual/block/dm-0`)
	m := &Media{sys: root}
	list, err := m.disks()
	if err != nil || len(list) != 1 || list[0].name() != "sda" {
		t.Fatal(list, err)
	}
	names, devs := list[0].parts()
	if strings.Join(names, " ") != "sda sda1" || devs[0] != bpf.Number(8, 0) || devs[1] != bpf.Number(8, 1) {
		t.Error(names, devs)
	}
	if names, devs := list[0].resting(); strings.Join(names, " ") != "sda sda1 dm-0" || strings.Join(devs, " ") != "8:0 8:1 253:0" {
		t.Error(names, devs)
	}
	for _, bad := range []string{"", "..", "../x", "nothing", "sda1", "loop0"} {
		if d, ok := m.disk(bad); ok {
			t.Errorf("%q is %+v", bad, d)
		}
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add(make([]byte, refusalSize))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := readRefusal(b); ok != (len(b) >= refusalSize) {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzUnitSerial(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x04WD-1"))
	f.Add([]byte("\x00\x80\xff\xff"))
	f.Add([]byte("\x00\x80\x00\x02\xff\x1b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := parseUnitSerial(b)
		for i := range len(s) {
			if s[i] < ' ' || s[i] > '~' {
				t.Errorf("%q", s)
			}
		}
	})
}
