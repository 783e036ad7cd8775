package media

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/bpf"
)

// disk is one disk in sysfs.
type disk struct {
	dir    string // of the disk itself, "/sys/devices/…/block/sda"
	device string // of what it is a disk of: a SCSI device, a card, an NVMe controller; "" for one that rests on others
}

// maxDisks bounds what is listed. A machine has a handful; each is read.
const maxDisks = 1024

// disks lists the machine's disks, without those that rest on others.
func (m *Media) disks() ([]disk, error) {
	list, err := os.ReadDir(m.sys + "/class/block")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a machine without any
	}
	if err != nil {
		return nil, err
	}
	var out []disk
	for _, e := range list {
		if d, ok := m.disk(e.Name()); ok && len(out) < maxDisks {
			out = append(out, d)
		}
	}
	return out, nil
}

// disk finds one disk by the kernel's name. ok is false for partitions, for what rests on others, and for what is gone.
func (m *Media) disk(name string) (d disk, ok bool) {
	if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return d, false
	}
	dir, err := filepath.EvalSymlinks(m.sys + "/class/block/" + name)
	if err != nil {
		return d, false
	}
	if _, err := os.Stat(dir + "/partition"); err == nil {
		return d, false
	}
	device, err := filepath.EvalSymlinks(dir + "/device")
	if err != nil || line(dir+"/hidden") == "1" {
		return d, false // loop, device-mapper, md, zram, nbd; one of several ways to a disk, which cannot be opened
	}
	return disk{dir, device}, true
}

func (d disk) name() string { return filepath.Base(d.dir) }

// line reads a file of sysfs; "" if it cannot be read.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// parts are the device numbers of the disk and its partitions, the disk's first, by name.
func (d disk) parts() (names []string, devs []uint32) {
	add := func(dir string) {
		if n, ok := bpf.NumberOf(line(dir + "/dev")); ok {
			names, devs = append(names, filepath.Base(dir)), append(devs, n)
		}
	}
	add(d.dir)
	list, _ := filepath.Glob(d.dir + "/*/partition")
	for _, p := range list {
		add(filepath.Dir(p))
	}
	return names, devs
}

// maxParents is how far up a bus is looked for, as in platform/bpf/c/media.c.
const maxParents = 40

// bus says what makes a disk external, by where it hangs, and the directory of the USB device or card; "" if it is internal.
// Only the buses between the disk and the processor count: "removable" of a disk says something about its medium, and ports
// that say "hot-plug" are found inside machines.
func (m *Media) bus(d disk) (bus, at string) {
	at = d.device
	if sub := m.subsystem(d); sub != "" {
		at = sub
	}
	top := filepath.Clean(m.sys) + "/devices"
	for range maxParents {
		if at == top || !strings.HasPrefix(at, top+"/") {
			return "", ""
		}
		kind, _ := filepath.EvalSymlinks(at + "/subsystem")
		switch filepath.Base(kind) {
		case "usb":
			if _, err := os.Stat(at + "/idVendor"); err == nil {
				return fact.BusUSB, at // the device; its interfaces are below
			}
		case "firewire":
			return fact.BusFireWire, at
		case "mmc":
			if fixed(at) {
				return "", ""
			}
			return fact.BusCard, at
		case "pci":
			if line(at+"/removable") == "removable" {
				return fact.BusPCI, at
			}
		case "scsi_host":
		case "scsi":
			if strings.HasPrefix(filepath.Base(at), "host") && outside(at) {
				return fact.BusESATA, at
			}
		}
		at = filepath.Dir(at)
	}
	return "", ""
}

// subsystem is the controller of an NVMe disk that has several ways to it: such a disk hangs below none of them.
func (m *Media) subsystem(d disk) string {
	if !strings.HasPrefix(filepath.Base(d.device), "nvme-subsys") {
		return ""
	}
	list, _ := filepath.Glob(d.device + "/nvme*")
	for _, x := range list {
		if to, err := filepath.EvalSymlinks(x); err == nil && to != x && strings.Contains(to, "/pci") {
			return to
		}
	}
	return ""
}

// fixed reports whether a card is soldered: eMMC in a slot that the firmware calls fixed, or one with boot areas, which
// cards that can be taken out do not have.
func fixed(card string) bool {
	if line(card+"/removable") == "fixed" {
		return true
	}
	boot, _ := filepath.Glob(card + "/block/mmcblk*/mmcblk*boot0")
	return line(card+"/type") == "MMC" && len(boot) > 0
}

// outside reports whether the firmware says that an AHCI port is external (PxCMD.ESP, AHCI 1.3.1 section 3.3.7).
func outside(host string) bool {
	const esp = 1 << 21
	v, err := strconv.ParseUint(line(host+"/scsi_host/"+filepath.Base(host)+"/ahci_port_cmd"), 16, 32)
	return err == nil && v&esp != 0
}

// describe reads everything about a disk but what the kernel does with it.
func (m *Media) describe(d disk) fact.Medium {
	out := fact.Medium{Name: d.name(), Dev: line(d.dir + "/dev"), Exchangeable: line(d.dir+"/removable") == "1"}
	bus, at := m.bus(d)
	out.Bus, out.External = bus, fact.Is(bus != "")
	if out.Dev == "" {
		out.External = fact.Unread[bool]("it has gone")
	}
	model := []string{line(d.device + "/vendor"), line(d.device + "/model")}
	switch bus {
	case fact.BusUSB:
		vendor, err1 := strconv.ParseUint(line(at+"/idVendor"), 16, 16)
		product, err2 := strconv.ParseUint(line(at+"/idProduct"), 16, 16)
		if err1 == nil && err2 == nil {
			out.USB = &fact.Plugged{Path: filepath.Base(at), Vendor: uint16(vendor), Product: uint16(product)}
		}
		b, _ := os.ReadFile(at + "/serial")
		out.Serial = strings.TrimSuffix(string(b), "\n")
	case fact.BusCard:
		model = []string{line(at + "/type"), line(at + "/name")}
		out.Serial = line(at + "/serial")
	default:
		if out.Serial = line(d.device + "/serial"); out.Serial == "" {
			out.Serial = unitSerial(d.device + "/vpd_pg80")
		}
	}
	if bus == "" {
		out.Serial = "" // nothing asks for it, and it is reported
	}
	out.Model = strings.Join(strings.Fields(strings.Join(model, " ")), " ")
	if len(out.Model) > maxText || len(out.Serial) > maxText {
		out.Model, out.Serial = "", "" // not what anybody made
	}
	return out
}

const maxText = 256

// unitSerial reads the serial of a SCSI disk.
func unitSerial(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return parseUnitSerial(b)
}

// parseUnitSerial reads the page of the unit's serial number (SPC-5, 7.7.13): four bytes, of which the last two are a length,
// then the text. One that is no text is given in hex.
func parseUnitSerial(b []byte) string {
	if len(b) < 4 {
		return ""
	}
	n := min(int(b[2])<<8|int(b[3]), len(b)-4)
	s := strings.TrimSpace(strings.TrimRight(string(b[4:4+n]), "\x00"))
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return hex.EncodeToString([]byte(s))
		}
	}
	return s
}

// resting are the device numbers and names of a disk, its partitions and what rests on them.
func (d disk) resting() (names, devs []string) {
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		if dev := line(dir + "/dev"); dev != "" && !slices.Contains(devs, dev) && depth < 8 && len(devs) < maxDisks {
			names, devs = append(names, filepath.Base(dir)), append(devs, dev)
			for _, pattern := range []string{"/holders/*", "/*/partition"} {
				list, _ := filepath.Glob(dir + pattern)
				for _, x := range list {
					if pattern == "/*/partition" {
						x = filepath.Dir(x)
					}
					if to, err := filepath.EvalSymlinks(x); err == nil {
						walk(to, depth+1)
					}
				}
			}
		}
	}
	walk(d.dir, 0)
	return names, devs
}
