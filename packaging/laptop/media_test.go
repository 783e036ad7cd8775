//go:build linux

package laptop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	noExternal = `{"policy_data":{"storage":{"external_storage_allowed":false}}}`
	// opens tries to open a disk in every way; it prints those that succeed. $1 is the disk, $2 a partition of it.
	opens = `d=$1 p=$2
try() { "$@" >/run/try.out 2>&1 && echo "opened: $*"; }
mkdir -p /run/try
for x in $p $d; do [ -b $x ] || continue
  try mount $x /run/try && unmount /run/try
  try mount -o ro $x /run/try && unmount /run/try
  try unshare -m mount $x /run/try
  try timeout 20 udisksctl mount --no-user-interaction -b $x && udisksctl unmount -b $x
  try timeout 5 systemd-mount --collect $x /run/try && systemctl stop run-try.mount
  try dd if=$x of=/dev/null count=1
  try dd if=$x of=/dev/null bs=4096 count=1 iflag=direct
  try sh -c "exec 3<>$x"
  try losetup --find --show $x && losetup -d $(cat /run/try.out)
  try systemd-run -q --wait -p DeviceAllow=$x dd if=$x of=/dev/null count=1
  try blkid -p $x
  try /host/attacker uring $x
  n=$(cat /sys/class/block/${x#/dev/}/dev)
  try dmsetup create tried --table "0 2048 linear $n 0" && dmsetup remove tried
  rm -f /srv/node; mknod /srv/node b ${n%:*} ${n#*:}; chmod 666 /srv/node
  try dd if=/srv/node of=/dev/null count=1
  try setpriv --reuid 65534 --clear-groups dd if=/srv/node of=/dev/null count=1
  try setpriv --reuid 65534 --clear-groups unshare -Ur dd if=/srv/node of=/dev/null count=1
  try unshare -C dd if=/srv/node of=/dev/null count=1
done
true`
)

// media starts a laptop with a card in a slot, in which two partitions are, and the policy server.
func media(t *testing.T, suite string) *rig {
	t.Helper()
	image, _ := need(t)
	// The kernel's patience with an NVMe is half a minute of real time, for which a busy host may stop; then it takes the disk away.
	o := Options{Image: image + suite, Single: true, Append: "nvme_core.io_timeout=600 nvme_core.admin_timeout=600"}
	if _, err := os.Stat(filepath.Join(o.Image, "stamp")); err != nil {
		t.Fatalf("the laptop's image is not built: %v", err)
	}
	dir := t.TempDir()
	card, nvme := filepath.Join(dir, "card.img"), filepath.Join(dir, "nvme.img")
	aml, err := filepath.Abs("testdata/external-port.aml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{nvme, nvme + "2"} {
		if out, err := exec.Command("sh", "-c", `truncate -s 256M "$0" && mkfs.ext4 -q "$0"`, f).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command("sh", "-c", `truncate -s 64M "$0" && printf '2048 65536 c\n67584 - c\n' | sed 's/^\([0-9]*\) \([^ ]*\) \(.\)/\1,\2,\3/' | sfdisk -q "$0" && `+
		`mkfs.vfat --offset 2048 "$0" 32768 >/dev/null`, card).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o.Args = []string{"-drive", "if=none,id=card,format=raw,cache=unsafe,file=" + card, "-device", "sdhci-pci", "-device", "sd-card,drive=card",
		// An NVMe behind a port that leads outside, and one behind a port that does not, which can be hot-plugged just the same.
		"-acpitable", "file=" + aml,
		"-device", "pcie-root-port,id=outside,bus=pcie.0,addr=0x8,chassis=1", "-device", "pcie-root-port,id=inside,bus=pcie.0,addr=0x9,chassis=2",
		"-drive", "if=none,id=nv1,format=raw,cache=unsafe,file=" + nvme, "-device", "nvme,drive=nv1,serial=outside-1,bus=outside",
		"-drive", "if=none,id=nv2,format=raw,cache=unsafe,file=" + nvme + "2", "-device", "nvme,drive=nv2,serial=inside-1,bus=inside"}
	r := start(t, o)
	r.wait("the card and the disks are there", "test -b /dev/mmcblk0p2 -a -b /dev/nvme0n1 -a -b /dev/nvme1n1")
	r.server("")
	r.install()
	r.enroll()
	// A disk that something still has open comes back under another name.
	r.sh(`cat >/root/nv <<'E'
for c in /sys/class/nvme/nvme*; do grep -q "$1" $c/serial && for x in $c/nvme*n*; do test -e /dev/${x##*/} && echo /dev/${x##*/}; done; done; true
E
mkdir -p /run/card`)
	r.sh("cat >/root/opens <<'E'\n%s\nE", strings.ReplaceAll(opens, "%", "%%"))
	return r
}

func containsAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		contains(t, text, p)
	}
}

// opened lists the ways in which a disk could be opened.
func (r *rig) opened(disk, part string) string {
	r.t.Helper()
	return strings.TrimSpace(r.sh("sh /root/opens /dev/%s /dev/%s", disk, part))
}

// External disks that USB does not carry: a card in a slot, an NVMe behind a port that leads outside.
func TestMediaTrixie(t *testing.T) {
	parallel(t, 5)
	t.Run("debian-trixie", func(t *testing.T) { testMedia(t, media(t, "-trixie"), false) })
}

// Two tests, because each takes one of the places for laptops when it begins: a part that asked for one would get it last.
func TestMedia(t *testing.T) {
	parallel(t, 20)
	t.Run("debian", func(t *testing.T) { testMedia(t, media(t, ""), true) })
}

const (
	external    = "storage.external_storage_allowed"
	unpinned    = "test ! -e /sys/fs/bpf/warder"
	mmcRefused  = "test -b /dev/mmcblk0 && dd if=/dev/mmcblk0 of=/dev/null count=1 2>&1 | grep -q 'Operation not permitted' && ! dd if=/dev/mmcblk0 of=/dev/null count=1 && ! dd if=/dev/mmcblk0p1 of=/dev/null count=1"
	reinsert    = "basename $(readlink -f /sys/block/mmcblk0/device/../../..) >/root/slot; echo $(cat /root/slot) >/sys/bus/pci/drivers/sdhci-pci/unbind; echo $(cat /root/slot) >/sys/bus/pci/drivers/sdhci-pci/bind"
	bothRefused = "2 external disk(s) are refused, first disk mmcblk0"
)

// soak reports whether this is the long run (make soak).
func soak() bool { return os.Getenv("WARDER_SOAK") != "" }

// kills is how often the agent is killed: so often, and 200 times in the soak.
func kills(few int) int {
	if soak() {
		return 200
	}
	return few
}

func testMedia(t *testing.T, whole *rig, first bool) {
	part := func(name string, f func(t *testing.T, r *rig)) {
		// What depends on the kernel is tried on both; the rest on Debian 13 in the soak. There alone is what is measured, and most of what
		// is done where the kernel takes no programs.
		kernel := name == "in every way" || name == "every file system" || name == "removed"
		if long := name == "at once" || name == "passed over" || name == "disks without a driver" || name == "its own disk, without programs"; !soak() && (long || !first && !kernel) {
			return
		}
		if t.Failed() {
			return // each part begins with what the one before left: what fails after this says nothing
		}
		t.Run(name, func(t *testing.T) {
			r := &rig{whole.Laptop, t, whole.dir, whole.policy}
			defer func() {
				if t.Failed() {
					out, _ := r.Run(minute, "dmesg | grep -iE 'nvme|mmc|sdhci|error|stall|hung|blocked' | tail -n 30; grep -E 'nvme|mmc|vault|/run/' /proc/mounts; ls /dev/nvme* /dev/mmc*; uptime")
					whole.failed = append(whole.failed, t.Name()+" failed; of the kernel:\n"+out.Out)
				}
			}()
			f(t, r)
		})
	}
	finding := bothRefused
	refusedNow := func(r *rig) {
		r.t.Helper()
		r.wait("what has no exception is refused", "warder status --json | grep -q '%s' && %s", finding, mmcRefused)
	}
	free := func(r *rig) {
		r.t.Helper()
		r.set(`{"policy_data":{}}`)
		r.wait("everything can be used", unpinned+" && test -b /dev/mmcblk0p1 -a -b $(sh /root/nv outside-1) && blkid -p /dev/mmcblk0p1 && blkid -p $(sh /root/nv outside-1)")
	}

	disks := func(r *rig) [][2]string {
		nv := strings.TrimPrefix(strings.TrimSpace(r.sh("sh /root/nv outside-1")), "/dev/")
		return [][2]string{{"mmcblk0", "mmcblk0p1"}, {nv, nv}}
	}
	part("in every way", func(t *testing.T, r *rig) {
		r.sh("rm -f /etc/systemd/system/udisks2.service; systemctl daemon-reload; systemctl start udisks2")
		defer r.try("systemctl stop udisks2")
		for _, x := range disks(r) {
			if out := r.opened(x[0], x[1]); strings.Count(out, "opened:") < 25 || !strings.Contains(out, "opened: mount /dev/"+x[1]) || !strings.Contains(out, "opened: timeout 20 udisksctl mount") {
				t.Fatalf("without a policy %s opens by: %s", x[0], out)
			}
		}
		t.Log(r.sh("grep VmRSS /proc/$(pidof warder)/status"))
		// One is mounted, and a program writes to it, when the policy comes.
		r.sh(`mount /dev/mmcblk0p1 /run/card
(i=0; while :; do i=$((i+1)); echo $i >>/run/card/log || exit; sync /run/card/log && echo $i >/run/synced; sleep 0.01; done) >/dev/null 2>&1 & echo $! >/run/writer; echo kept >/run/card/kept; sleep 1`)
		r.set(noExternal)
		refusedNow(r)
		r.told("denied", "it may have been open before")
		// Where the card was, it would go on writing, and on whatever is mounted there next.
		r.sh("kill $(cat /run/writer); while kill -0 $(cat /run/writer); do sleep 0.1; done 2>/dev/null; rm -f /run/card/log")
		if r.try("grep mmcblk /proc/mounts").Out != "" {
			t.Error("it is still mounted")
		}
		for _, x := range disks(r) {
			if out := r.opened(x[0], x[1]); out != "" {
				t.Errorf("it is refused, and opens by: %s", out)
			}
		}
		r.told("denied", "tried to open mmcblk0")
		r.sh("mount $(sh /root/nv inside-1) /run/try && unmount /run/try") // inside, although that port can be hot-plugged
		containsAll(t, r.sh("warder explain storage /dev/mmcblk0p1"), "DENY", "it is a card in a slot", `"disk:0xdeadbeef"`, "the kernel refuses it (read back)")
		containsAll(t, r.sh("warder explain storage $(sh /root/nv outside-1)"), "DENY", "it is behind a port that leads outside", "disk:outside-1")
		containsAll(t, r.sh("warder explain storage $(sh /root/nv inside-1)"), "ALLOW", "it is one of this machine's own disks")
		containsAll(t, r.sh("warder explain storage /root"), "ALLOW", "vda", "one of this machine's own")
		t.Log(r.finding(external), r.sh("grep VmRSS /proc/$(pidof warder)/status"))
		free(r)
		r.sh(`mount /dev/mmcblk0p1 /run/card; test "$(cat /run/card/kept)" = kept; test "$(tail -n 1 /run/card/log)" -ge "$(cat /run/synced)"; unmount /run/card`)
	})
	part("at once", func(t *testing.T, r *rig) {
		r.set(noExternal)
		refusedNow(r)
		t.Log("a mount is refused after (µs, p50 and p99 of 1,000): ", r.sh("/host/attacker refusals /dev/mmcblk0 1000"))
		free(r)
	})
	part("every file system", func(t *testing.T, r *rig) {
		list := []string{"vfat", "ext4", "ntfs"} // each on one of the kernels, and all on both in the soak
		switch {
		case soak():
			list = []string{"vfat", "exfat", "ext4", "btrfs", "ntfs"}
		case !first:
			list = []string{"exfat", "btrfs"}
		}
		for _, fs := range list {
			mkfs, with := "mkfs."+fs+" $(sh /root/nv outside-1)", "mount $(sh /root/nv outside-1) /run/card"
			switch fs {
			case "ext4", "btrfs":
				mkfs = strings.Replace(mkfs, " $(", map[string]string{"ext4": " -q -F $(", "btrfs": " -q -f -M $("}[fs], 1)
			case "ntfs":
				mkfs, with = "mkfs.ntfs -q -F -f $(sh /root/nv outside-1)", "ntfs-3g $(sh /root/nv outside-1) /run/card" // FUSE, which has the device itself open
			}
			r.sh("set -e; %s >/dev/null 2>&1; %s; head -c 8M /dev/urandom >/run/card/big; sha256sum </run/card/big >/run/sum; sync -f /run/card; exec 5>/run/card/held; sleep 300 >&5 2>&1 5>&1 &", mkfs, with)
			begun := r.sh("date +%s%N")
			r.set(noExternal)
			r.wait(fs+" is taken away", "! grep -q /run/card /proc/mounts && warder status --json | grep -q '%s'", bothRefused)
			t.Log(fs, r.sh("echo $(( ($(date +%%s%%N) - %s) / 1000000 )) ms", strings.TrimSpace(begun)))
			if out := r.try(with).Code; out == 0 {
				t.Errorf("%s can be mounted", fs)
			}
			free(r)
			r.sh("pkill -x sleep; true") // the same btrfs cannot be mounted again while a program has the dead one open
			r.sh("set -e; " + with + "; sha256sum </run/card/big | cmp - /run/sum; unmount /run/card; ! mountpoint -q /run/card")
		}
		r.sh("mkfs.ext4 -q -F $(sh /root/nv outside-1)")
	})
	part("sizes", func(t *testing.T, r *rig) {
		list := []string{"vfat"} // and all of them, on both kernels, in the soak
		if soak() {
			list = []string{"vfat", "exfat", "ext4", "btrfs", "ntfs"}
		}
		testFileSize(t, r, list, first || soak())
	})
	part("files are taken", testTaken) // before anything else is
	part("passed over", testPassedOver)
	part("disks without a driver", testDisksOff)
	part("the doorman", testDoorman)
	if soak() {
		part("its own disk", func(t *testing.T, r *rig) { testOwnDisk(t, r, limited) })
	}
	part("its own disk, without programs", func(t *testing.T, r *rig) {
		defer r.withoutPrograms()()
		testOwnDisk(t, r, "warder status --json | grep -q 'files of more than 1048576 bytes are taken off 2 external disk(s)'")
	})
	part("sync clients", func(t *testing.T, r *rig) { testCloudSync(t, r, first || soak()) })
	part("without the agent", func(t *testing.T, r *rig) {
		r.set(noExternal)
		refusedNow(r)
		r.sh("systemctl kill -s STOP warder; " + reinsert)
		r.wait("the card is back", "test -b /dev/mmcblk0")
		if out := r.opened("mmcblk0", "mmcblk0p1"); out != "" {
			t.Errorf("while the agent stands still it opens by: %s", out)
		}
		r.sh("systemctl kill -s CONT warder")
		refusedNow(r)
		for i := range kills(4) { // and as many elsewhere
			if i%2 == 0 {
				r.sh("(%s) >/dev/null 2>&1 & systemctl kill -s KILL warder; wait", reinsert)
			} else { // while the policy comes and goes
				r.change([]string{noExternal, `{"policy_data":{}}`}[i/2%2])
				r.sh("sleep 0.%d; systemctl kill -s KILL warder", i%10)
			}
			r.wait("the agent is back", "systemctl is-active warder && warder status --json | grep -q '\"agent\": \"running\"'")
		}
		r.set(noExternal)
		refusedNow(r)
		free(r)
	})
	part("changed by another program", func(t *testing.T, r *rig) {
		r.set(noExternal)
		refusedNow(r)
		for _, by := range []string{"rm /sys/fs/bpf/warder/media/link_media_open", "rm -r /sys/fs/bpf/warder", "rm /sys/fs/bpf/warder/media/map_allowed",
			"mv /sys/fs/bpf/warder/media /sys/fs/bpf/warder/elsewhere"} {
			// Nobody can open it meanwhile: the agent has the programs open, too. (Without the maps, what is there can be used until
			// it is judged, as at first.)
			if out := r.sh(by + "; for i in $(seq 80); do dd if=/dev/mmcblk0 of=/dev/null count=1 2>/dev/null && echo opened; sleep 0.01; done; true"); strings.Contains(out, "opened") && strings.HasSuffix(by, "link_media_open") {
				t.Errorf("after %s it could be opened", by)
			}
			r.wait("mended after "+by, "test -e /sys/fs/bpf/warder/media/link_media_open -a -e /sys/fs/bpf/warder/media/map_allowed && %s", mmcRefused)
			r.told("drift", "media/external")
			refusedNow(r)
		}
		// A copy that is pinned elsewhere goes on refusing, by maps that nobody writes any more: it is taken off.
		r.sh("mkdir /sys/fs/bpf/other && mv /sys/fs/bpf/warder/media /sys/fs/bpf/other/media")
		r.wait("mended", "test -e /sys/fs/bpf/warder/media/link_media_open && %s", mmcRefused)
		free(r)
		r.sh("rm -r /sys/fs/bpf/other")
		// The pins go while the agent stands still, and the policy goes with them: nothing stays refused.
		r.set(noExternal)
		refusedNow(r)
		r.sh("systemctl kill -s STOP warder; rm -r /sys/fs/bpf/warder")
		r.change(`{"policy_data":{}}`)
		r.sh("systemctl kill -s CONT warder")
		r.settled()
		free(r)
	})
	part("the system's", func(t *testing.T, r *rig) {
		r.sh("mount /dev/mmcblk0p1 /home")
		r.set(noExternal)
		r.wait("it is kept", "warder status --json | grep -q 'mmcblk0 (SD QEMU!) is refused and kept by guard system_disk: it carries /home'")
		r.sh("echo works >/home/file && mountpoint /home && dd if=/dev/mmcblk0 of=/dev/null count=1")
		r.told("guarded", "it carries /home of the running system")
		r.sh("unmount /home")
		refusedNow(r)
		free(r)
		// One of two disks of a file system, of which the list of mounts names the other.
		r.sh("mkfs.btrfs -q -f -d raid1 $(sh /root/nv inside-1) $(sh /root/nv outside-1) && mount $(sh /root/nv inside-1) /home")
		r.set(noExternal)
		r.wait("it is kept", "warder status --json | grep -q 'QEMU NVMe Ctrl) is refused and kept by guard system_disk: it carries /home'")
		r.sh("echo works >/home/file && sync && mountpoint /home && test -z \"$(btrfs device stats /home | grep -v ' 0$')\"")
		r.sh("unmount /home")
		refusedNow(r)
		free(r)
		r.sh("wipefs -q -a $(sh /root/nv inside-1) $(sh /root/nv outside-1); mkfs.ext4 -q -F $(sh /root/nv outside-1)")
	})
	part("exceptions", func(t *testing.T, r *rig) {
		r.set(noExternal)
		refusedNow(r)
		end := r.except("storage", "disk:0xdeadbeef")
		r.wait("the card can be used", "mount /dev/mmcblk0p1 /run/card")
		r.sh("! dd if=$(sh /root/nv outside-1) of=/dev/null count=1")
		r.wait("the new rules answer", "warder explain storage /run/card/kept | grep -q ALLOW")
		containsAll(t, r.sh("warder explain storage /run/card/kept"), "ALLOW", "an exception for this disk is in force", "mounted at /run/card")
		end()
		refusedNow(r)
		if r.try("grep mmcblk /proc/mounts").Out != "" {
			t.Error("it is still mounted")
		}
		contains(t, r.sh("warder exception "+r.code("storage", "disk:outside-1")), "disk:outside-1 may be used until")
		r.wait("the NVMe can be used", "mount $(sh /root/nv outside-1) /run/card && unmount /run/card")
		r.sh("! dd if=/dev/mmcblk0 of=/dev/null count=1")
		finding = "1 external disk(s) are refused, first disk mmcblk0" // that exception lasts for an hour
		free(r)
	})
	part("below enforce", func(t *testing.T, r *rig) {
		for _, mode := range []string{"monitor", "warn"} {
			r.set(strings.Replace(noExternal, "{", `{"compliance":"`+mode+`",`, 1))
			r.told("would_deny", "mmcblk0")
			r.sh(unpinned)
			out := r.opened("mmcblk0", "mmcblk0p1")
			if n := strings.Count(out, "opened:"); n < 25 { // some ways want it alone, which another one's end can keep from them for a moment
				t.Logf("at first it opens in %d ways", n)
				r.sh("sleep 2; udevadm settle")
				out = r.opened("mmcblk0", "mmcblk0p1")
			}
			if strings.Count(out, "opened:") < 25 {
				t.Errorf("in %s mode it opens by %s", mode, out)
			}
			if got := r.finding(external); !strings.HasPrefix(got, "noncompliant/observed: ") {
				t.Errorf("%s: %s", mode, got)
			}
		}
		free(r)
	})
	part("a stick with a pinned serial", func(t *testing.T, r *rig) {
		r.medium("pinned", 64)
		r.medium("other", 64)
		r.set(`{"policy_data":{"storage":{"external_storage_allowed":false},"usb":{"whitelist":["46f4:0001:PINNED"]}}}`)
		r.plug("usb-storage", "pinned", map[string]any{"drive": "pinned", "serial": "PINNED", "port": "1"})
		r.plug("usb-storage", "other", map[string]any{"drive": "other", "serial": "OTHER", "port": "2"})
		r.wait("it can be used", "mount /dev/sda /run/card && echo x >/run/card/x && unmount /run/card")
		r.authorized("2-2", "0")
		refusedNow(r)
		// A phone: its files are on no disk of this machine.
		r.plug("usb-mtp", "phone", map[string]any{"rootdir": t.TempDir(), "port": "3"})
		const phone = `d=$(dirname $(grep -l 46f4 /sys/bus/usb/devices/*/idVendor | xargs -n 1 dirname | while read d; do test $(cat $d/idProduct) = 0004 && echo $d/x; done))`
		r.wait("the phone is refused", phone+` && test "$(cat $d/authorized)" = 0 && ! ls -d $d/*:*/driver`)
		r.told("denied", "46f4:0004")
		// It is used when it is no longer allowed.
		r.sh("mount /dev/sda /run/card; exec 5>/run/card/held; sleep 300 >&5 2>&1 5>&1 &")
		r.set(noExternal)
		r.authorized("2-1", "0")
		r.wait("it is taken away", "! test -e /dev/sda && ! grep -q /dev/sda /proc/mounts")
		r.unplug("pinned")
		r.unplug("other")
		free(r)
		r.wait("the phone can be used", phone+` && test "$(cat $d/authorized)" = 1`)
		r.unplug("phone")
	})
	part("removed", func(t *testing.T, r *rig) {
		if first {
			r.set(noExternal)
			refusedNow(r)
		} else { // and on Debian 13 what is done without programs
			r.withoutPrograms()
			r.set(noExternal)
			r.wait("both are away", bothAway)
		}
		r.sh("dpkg -r warder")
		r.wait("everything can be used", unpinned+" && mount /dev/mmcblk0p1 /run/card && unmount /run/card && mount $(sh /root/nv outside-1) /run/card && unmount /run/card")
	})
}
