//go:build linux

package laptop

import (
	"strings"
	"testing"
)

// withoutPrograms has the agent on a kernel that takes no programs of its; what is returned ends that.
func (r *rig) withoutPrograms() (end func()) {
	r.t.Helper()
	r.set(`{"policy_data":{}}`)
	r.sh("mkdir -p /etc/systemd/system/warder.service.d; printf '[Service]\nSystemCallFilter=~bpf\n' >/etc/systemd/system/warder.service.d/without.conf; rm -f /run/warder/kernel-takes.*; systemctl daemon-reload; systemctl restart warder") // it had found out before
	return func() {
		r.try("rm -rf /etc/systemd/system/warder.service.d; systemctl daemon-reload; systemctl restart warder; umount /run/card; " + newCard)
	}
}

const (
	bothAway  = `test ! -e /sys/block/mmcblk0 -a -z "$(sh /root/nv outside-1)" -a -n "$(sh /root/nv inside-1)"`
	bothThere = `test -b /dev/mmcblk0p1 -a -n "$(sh /root/nv outside-1)" -a -n "$(sh /root/nv inside-1)"`
)

// testDisksOff: where the kernel takes no programs, external disks lose their driver as long as they are refused.
func testDisksOff(t *testing.T, r *rig) {
	defer r.withoutPrograms()()
	const deny = `{"policy_data":{"storage":{"external_storage_allowed":false}}}`
	r.set(`{"compliance":"monitor","policy_data":{"storage":{"external_storage_allowed":false}}}`)
	contains(t, r.finding(external), "is external and can be used")
	r.sh(bothThere + "; basename $(readlink -f /sys/block/mmcblk0/device) >/root/rca; basename $(readlink -f /sys/block/mmcblk0/device/../../..) >/root/slot")
	// In use, with a file that grows; the other one is not.
	r.made("vfat", "/dev/mmcblk0p1", "/run/card")
	r.sh(`(exec 3>/run/card/open/log; while date >&3; do sleep 0.1; done) >/dev/null 2>&1 & cp /run/card/before /root/before; sync`)
	r.set(deny)
	r.wait("both are away", bothAway)
	r.told("denied", "it was in use: it was emptied")
	r.wait("it is compliant", "warder status --json | grep -q '2 external disk(s) are refused'")
	containsAll(t, r.finding(external), "compliant/partial: ", "lose their driver")
	containsAll(t, r.sh("warder explain storage /dev/mmcblk0"), "DENY", "its driver is taken off it")
	// It is away while the agent is dead, and comes back for nobody but root; then it is taken once more.
	r.sh("systemctl kill -s KILL warder; " + bothAway)
	r.wait("the agent is back", "systemctl is-active -q warder && warder status --json | grep -q '2 external disk(s) are refused'")
	r.sh("echo $(cat /root/rca) >/sys/bus/mmc/drivers/mmcblk/bind")
	r.wait("it is away again", bothAway)
	r.sh("echo $(cat /root/slot) >/sys/bus/pci/drivers/sdhci-pci/unbind; echo $(cat /root/slot) >/sys/bus/pci/drivers/sdhci-pci/bind; sleep 1") // taken out and put in
	r.wait("a new one is away, too", bothAway+" && test -n \"$(ls /sys/bus/mmc/devices)\"")
	// An exception is for one.
	end := r.except("storage", "disk:outside-1")
	r.wait("it can be used", `test -n "$(sh /root/nv outside-1)" && blkid -p $(sh /root/nv outside-1)`)
	r.sh("test ! -e /sys/block/mmcblk0")
	end()
	r.wait("it is away again", bothAway)
	r.sh("warder revert --for 1h --reason test")
	r.wait("both are there", bothThere)
	r.sh("warder revert --lift")
	r.wait("both are away", bothAway)
	// By the command alone, after the agent has died.
	r.sh("systemctl kill -s KILL warder; systemctl mask --runtime -q warder; systemctl kill -s KILL warder 2>/dev/null; sleep 2; warder revert --for 1h --reason test; systemctl unmask --runtime -q warder; " + bothThere + "; ls /run/warder/off.* 2>/dev/null && exit 1; rm -f /run/warder/kernel-takes.*; systemctl start warder") // the command may load programs here
	r.sh("warder revert --lift")
	r.wait("both are away", bothAway)
	r.set(`{"policy_data":{}}`)
	r.wait("both are there", bothThere)
	r.sh("fsck.vfat -n /dev/mmcblk0p1; mount /dev/mmcblk0p1 /run/card && cmp /root/before /run/card/before && test -s /run/card/open/log && unmount /run/card && ! ls /run/warder/off.* 2>/dev/null")
}

// testDoorman: where the kernel takes no programs, it asks the agent whether installed sync clients may start.
func testDoorman(t *testing.T, r *rig) {
	defer r.withoutPrograms()()
	r.sh("printf '#!/bin/sh\nexec rclone version\n' >/var/tmp/script; chmod 755 /var/tmp/script; ln -sf /usr/bin/onedrive /var/tmp/link; cp /usr/bin/rclone /var/tmp/copied")
	try := func(starts bool) {
		t.Helper()
		for _, as := range []string{"", nobody, "unshare -Urm ", "systemd-run -q --wait --pipe "} {
			for _, x := range []string{"rclone version", "/var/tmp/script", "/var/tmp/link --version"} {
				out := r.try(as + x)
				if said := strings.Contains(out.Out, "rclone v") || strings.Contains(out.Out, "onedrive v"); said != starts || !starts && !strings.Contains(out.Err, "not permitted") && out.Code != 203 {
					t.Errorf("%s%s: %+v, starts should be %v", as, x, out, starts)
				}
			}
		}
	}
	r.set(strings.Replace(noSync, "{", `{"compliance":"monitor",`, 1))
	try(true)
	r.sh("setpriv --reuid 65534 --clear-groups rclone rcd --rc-no-auth >/dev/null 2>&1 & sleep 1; pidof rclone")
	r.set(noSync)
	r.wait("what ran has stopped, and it is compliant", "! pidof rclone && warder status --json | grep -q 'a package has installed below /usr or /opt cannot start'")
	contains(t, r.finding("storage.cloud_sync_allowed"), "compliant/partial: ")
	try(false)
	r.told("denied", "tried to start rclone")
	contains(t, r.sh("/var/tmp/copied version; /bin/true"), "rclone v") // what escapes is in the finding
	// A new version is refused as well, once it has been found.
	r.sh("cp -p /usr/bin/rclone /usr/bin/rclone.new && mv /usr/bin/rclone.new /usr/bin/rclone")
	const refused = "rclone version 2>&1 | grep -q 'not permitted'"                                                                // and not stopped, by which it fails, too
	r.sh("for i in $(seq 100); do if " + refused + "; then exit 0; fi; warder check-in >/dev/null || true; sleep 1; done; exit 1") // within a minute, or once somebody looks
	// An agent that hangs keeps those waiting who start a client, and nobody else; one that dies lets them go.
	r.sh("systemctl kill -s STOP warder; code=0; timeout -s KILL 3 rclone version || code=$?; /bin/true && cat /usr/bin/rclone >/dev/null && test $code = 137 && code=0; systemctl kill -s CONT warder; exit $code")
	r.wait("it is refused", refused)
	r.sh("systemctl kill -s STOP warder; (rclone version >/run/waited 2>&1; echo $? >>/run/waited) >/dev/null 2>&1 & sleep 1; test ! -s /run/waited && systemctl kill -s KILL warder; for i in $(seq 50); do grep -q rclone /run/waited && break; sleep 0.1; done; tail -1 /run/waited | grep -qx 0")
	r.wait("the agent is back, and it is refused", "systemctl is-active -q warder && "+refused)
	for range 3 { // nobody waits for ever while it ends
		r.sh("(for i in $(seq 40); do rclone version; done) >/dev/null 2>&1 & p=$!; systemctl restart warder; wait $p; true")
	}
	r.wait("it is refused", refused)
	end := r.except("storage", "client:rclone")
	r.wait("rclone starts", "rclone version")
	r.sh("! onedrive --version")
	end()
	r.wait("it does not any more", refused)
	r.set(`{"policy_data":{}}`)
	r.wait("all start", "rclone version && onedrive --version")
	try(true)
	r.sh("rm /var/tmp/script /var/tmp/link /var/tmp/copied")
}

// testPassedOver: a kernel that takes the processor from threads in the middle of a program passes over it for others meanwhile. Such
// a kernel carries no programs that have to see each call, and what is done instead is done there; also if it is told so while it runs.
func testPassedOver(t *testing.T, r *rig) {
	const (
		model  = "/sys/kernel/debug/sched/preempt"
		both   = `{"policy_data":{"storage":{"max_file_size_mb":1,"cloud_sync_allowed":false}}}`
		pinned = "test -e /sys/fs/bpf/warder/filesize/link_size_ask -a -e /sys/fs/bpf/warder/cloudsync/link_cloud_exec"
	)
	defer r.try("echo voluntary >" + model + "; rm -f /run/warder/kernel-passes-over; systemctl restart warder; umount /run/nv; " + newCard)
	contains(t, r.sh("cat "+model), "(voluntary)")
	r.set(`{"policy_data":{}}`)
	r.made("ext4", "$(sh /root/nv outside-1)", "/run/nv")
	r.set(both)
	r.wait("the programs are attached", pinned)
	crowded := func() (writes string, missed int) { // and how many programs were passed over
		t.Helper()
		list := strings.Split(strings.TrimSpace(r.sh("/host/attacker crowded /run/nv/open 1048576 4")), "\n")
		return list[0], len(list) - 1
	}
	if writes, missed := crowded(); !strings.HasSuffix(writes, ": 0 have grown, 0 were refused") || missed != 0 {
		t.Errorf("%s, %d programs were passed over", writes, missed)
	}
	instead := "warder status --json | grep -q 'files of more than 1048576 bytes are taken off' && ! test -e /sys/fs/bpf/warder"
	// Preempted while nobody looks: it is seen from what was passed over.
	r.sh("systemctl kill -s STOP warder; echo full >" + model)
	writes, missed := crowded()
	t.Log(writes, missed)
	if missed == 0 {
		t.Error("no program was passed over: this test shows nothing")
	}
	r.sh("echo voluntary >" + model + "; systemctl kill -s CONT warder; rm /sys/fs/bpf/warder/cloudsync/link_cloud_map") // by which the agent looks
	r.wait("what is done instead is done", instead)
	for _, setting := range []string{sizes, "storage.cloud_sync_allowed"} {
		containsAll(t, r.finding(setting), "compliant/partial: ", "the kernel passes over programs")
	}
	if writes, _ := crowded(); !strings.HasSuffix(writes, " 0 were refused") { // that some grow is why it is partial
		t.Error(writes)
	}
	r.sh("head -c 3M /dev/zero >/run/nv/open/large; ! rclone version 2>/dev/null")
	r.wait("it is taken", "! test -s /run/nv/open/large && warder quarantine list | grep -q /run/nv/open/large && warder quarantine purge --older-than 0s")
	r.set(`{"policy_data":{}}`)
	r.sh(unpinned + " && rclone version && rm /run/warder/kernel-passes-over && systemctl restart warder") // as after a boot
	r.set(both)
	r.wait("the programs are attached", pinned)
	if got := r.finding(sizes); strings.Contains(got, "passes over") {
		t.Error(got)
	}
	// They do not stay where the kernel does not carry them, although nobody was there when it became so.
	r.sh("systemctl kill -s STOP warder; echo full >" + model + "; " + pinned + " && systemctl kill -s KILL warder")
	r.wait("what is done instead is done", instead)
	contains(t, r.finding(sizes), `its preemption is "full"`)
	r.set(`{"policy_data":{}}`)
}

// testOwnDisk: what the machine logs, and what the agent itself keeps, lie on a disk on which files are limited. Nothing waits for
// itself, and the policy can be lifted.
func testOwnDisk(t *testing.T, r *rig, limitedNow string) {
	defer r.try("umount -l /var/log/journal; systemctl restart systemd-journald; systemctl stop warder; umount -l /var/lib/warder; systemctl start warder; umount -l /run/nv")
	r.set(`{"policy_data":{}}`)
	r.made("ext4", "$(sh /root/nv outside-1)", "/run/nv")
	r.sh(`set -e; mkdir -p /run/nv/journal /var/log/journal; mount --bind /run/nv/journal /var/log/journal; systemctl restart systemd-journald; journalctl --flush; test -n "$(find /run/nv/journal -type f)"
systemctl stop warder; cp -a /var/lib/warder /run/nv/warder; mount --bind /run/nv/warder /var/lib/warder; systemctl start warder`)
	r.set(oneMiB)
	r.wait("files are limited", limitedNow)
	// More than fits, from the journal, and from the agent: each event is one of its own.
	r.sh("head -c 3M /dev/urandom | base64 -w 200 | timeout -s KILL 60 systemd-cat -t flood; timeout -s KILL 60 journalctl --sync || true; timeout -s KILL 30 logger after; for i in $(seq 30); do head -c 1100k /dev/zero >/run/nv/open/f$i 2>/dev/null || true; done")
	for range 2 {
		r.sh("timeout -s KILL 60 systemctl restart systemd-journald && timeout -s KILL 120 systemctl restart warder && timeout -s KILL 30 warder status >/dev/null || test $? != 137")
	}
	r.wait("files are limited", limitedNow)
	r.sh("systemctl kill -s KILL warder")
	r.wait("the agent is back", "systemctl is-active -q warder && timeout -s KILL 30 warder status --json >/dev/null || test $? != 137")
	r.set(`{"policy_data":{}}`)
	r.sh("timeout -s KILL 60 sh -c 'head -c 3M /dev/urandom >/run/nv/open/free && sleep 2 && test $(stat -c %s /run/nv/open/free) = 3145728'")
	r.sh(`set -e; systemctl stop warder; umount /var/lib/warder; rm -rf /var/lib/warder/*; cp -a /run/nv/warder/. /var/lib/warder/; systemctl start warder; journalctl --relinquish-var || true; systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald; umount /var/log/journal; systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald`)
	r.sh("unmount /run/nv")
	r.set(`{"policy_data":{}}`)
}
