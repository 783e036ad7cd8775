//go:build linux

package laptop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// atStart are QEMU's arguments for a stick and a keyboard that are plugged in when the laptop is switched on.
func atStart(file string) []string {
	return []string{"-drive", "if=none,id=first,format=raw,file=" + file, "-device", "usb-storage,bus=xhci.0,port=1,drive=first", "-device",
		"usb-kbd,bus=xhci.0,port=2"}
}

// reasons are those of the events that the server has about a subject.
func (r *rig) reasons(subject string) string {
	r.t.Helper()
	return r.sh(`curl -sk -H "Authorization: Bearer $(cat /root/token)" "%s/devices/$(cat /root/device)/events?page_size=100" | tr '{' `+
		`'\n' | { grep '"subject":"%s' || true; } | sed 's/"done".*//; s/,"verdict.*//'`, api, subject)
}

// reached starts the server, and waits until the agent has reached it.
func (r *rig) reached() {
	r.t.Helper()
	r.wait("the agent runs", "systemctl is-active warder")
	r.sh("systemctl start policy-server")
	r.wait("the server is up and reached", "warder check-in")
}

const startLog = `journalctl -b -u warder-early -u warder -o short-monotonic --no-pager | head -n 30; dmesg | grep -E ' sd[a-z]|New USB ` +
	`device found|usb .*authorized'`

// starts: what is plugged in when a laptop is switched on is judged by the last confirmed policy before the agent runs,
// and the agent takes over. Before that the laptop is shut down.
func starts(t *testing.T, r *rig, o Options) {
	with := func(initrd string, args []string) *rig {
		next := o
		next.Initrd, next.Args = initrd, args
		return start(t, next)
	}
	r.set(`{"policy_data":{"usb":{"allowed":false}}}`)
	r.wait("the early start's file is there", "test -s /etc/warder/early")
	contains(t, r.sh("stat -c '%a %U' /etc/warder/early; warder boot status"), "600 root")
	denials := func(r *rig) int { return strings.Count(r.reasons("usb 2-1"), `"kind":"denied"`) }
	before := denials(r)
	file := r.medium("first", 48)
	r.shutDown()

	// A distribution's initramfs has let both in before any program on the disk runs.
	again := with("initrd-usb.gz", atStart(file))
	again.reached()
	out := again.sh("journalctl -b -1 -u warder --no-pager -o cat")
	contains(t, out, "the machine is shut down: the policy stays in force")
	if strings.Contains(out, "not told of the end") {
		t.Log("the network went before the last word") // ten minutes stand then
	}
	t.Log(again.sh(startLog))
	again.authorized("2-1", "0")
	again.told("denied", "could be used for up to [0-9.]*s before that; decided before the agent ran")
	t.Log(again.reasons("usb 2-1"))
	contains(t, again.sh("journalctl -b -u warder-early -o cat --no-pager"), "the agent takes over")
	// No keyboard is refused while somebody may have to type a passphrase. The agent refuses it, because there is
	// another one.
	again.authorized("1-2", "0")
	again.told("denied", "usb 1-2 0627:0001")
	keyboard := again.reasons("usb 1-2")
	t.Log(keyboard)
	contains(t, keyboard, "kept by guard starting")
	for line := range strings.Lines(keyboard) {
		if strings.Contains(line, `"kind":"denied"`) && strings.Contains(line, "before the agent ran") {
			t.Errorf("the keyboard was refused early: %s", line)
		}
	}
	if n := denials(again) - before; n != 1 {
		t.Errorf("the stick is told %d times: %s", n, again.reasons("usb 2-1"))
	}
	again.sh("systemctl stop warder")
	if got := again.defaults(); got != fresh {
		t.Errorf("a stop left %q", got)
	}
	again.authorized("2-1", "1")
	again.sh("systemctl start warder")
	again.authorized("2-1", "0")
	if n := strings.Count(again.sh("journalctl -b -u warder-early -o cat --no-pager"), "in force while the machine starts up"); n != 1 {
		t.Errorf("the early start ran %d times", n)
	}
	// An agent that does not start: the early start stays through all of its attempts, and gives back when it is
	// stopped.
	again.sh(`systemctl stop warder warder-early; rm -rf /run/warder/*; mkdir -p /run/systemd/system/warder.service.d
		printf '[Service]\nExecStart=\nExecStart=/bin/false\n' >/run/systemd/system/warder.service.d/broken.conf; systemctl daemon-reload; systemctl start --no-block warder`)
	again.authorized("2-1", "0")
	if out := again.sh(`n=0; for i in $(seq 60); do [ "$(cat /sys/bus/usb/devices/2-1/authorized)" = 1 ] && n=$((n+1)); sleep 0.2; ` +
		`done; echo open $n; journalctl -u warder -n 200 -o cat --no-pager | grep -c "Scheduled restart"`); !strings.HasPrefix(out,
		"open 0\n") || strings.HasSuffix(out, "\n0") {
		t.Errorf("while the agent does not come up: %s", out)
	}
	again.plug("usb-kbd", "late", map[string]any{"port": "3"})
	again.authorized("1-3", "1")
	again.sh("systemctl stop warder warder-early; rm -r /run/systemd/system/warder.service.d; systemctl daemon-reload")
	again.authorized("2-1", "1")
	if got := again.defaults(); got != fresh {
		t.Errorf("after a stop of an agent that did not come up: %q", got)
	}
	again.sh("systemctl start warder")
	again.authorized("2-1", "0")

	if !soak() {
		return // more boots are the soak's
	}

	// The controller's driver is on the disk: the stick never works.
	again.shutDown()
	late := with("", atStart(file))
	late.reached()
	t.Log(late.sh(startLog))
	if out := late.sh("dmesg"); strings.Contains(out, " sda") {
		t.Error("the stick was a disk")
	}
	late.authorized("2-1", "0")
	if out := late.reasons("usb 2-1"); strings.Count(out, "could be used") != 1 { // the previous boot's
		t.Error(out)
	}

	// A disk that the boot waits for is not refused before the boot is done, wherever it is.
	late.sh("systemctl stop warder")
	late.authorized("2-1", "1")
	late.wait("the stick is a disk", "test -b /dev/sda")
	late.sh(`mkdir -p /data; echo "UUID=$(blkid -o value -s UUID /dev/sda) /data vfat defaults 0 0" >>/etc/fstab; systemctl ` +
		`daemon-reload; systemctl start warder; sync`)
	late.authorized("2-1", "0")
	late.shutDown()
	waits := with("", atStart(file))
	waits.reached()
	t.Log(waits.sh(startLog + "; journalctl -b -u data.mount -o short-monotonic --no-pager; systemctl is-system-running || true"))
	contains(t, waits.sh("journalctl -b -u data.mount -o cat --no-pager"), "Mounted data.mount")
	contains(t, waits.reasons("usb 2-1"), "kept by guard starting: the start waits for UUID=")
	waits.authorized("2-1", "0")
	waits.sh("sed -i /data/d /etc/fstab")
}

// closedInitramfs: with USB closed in the initramfs no USB device works there. If no policy is in force, they work from
// the early start on.
func closedInitramfs(t *testing.T) {
	image, share := need(t)
	o := overlay(t, image)
	r := start(t, o)
	file := r.medium("a", 48)
	r.install()
	// As the package manager has it: programs in /usr/sbin build it.
	res, err := r.Run(25*minute, "time warder boot close-usb")
	if err != nil || res.Code != 0 {
		t.Fatalf("%v %+v", err, res)
	}
	t.Log(res.Out, res.Err)
	contains(t, r.sh("warder boot status"), "USB is closed")
	t.Log(r.sh("systemctl stop warder; echo it would load it so:; modprobe -r usbcore; modprobe --show-depends usbcore; systemctl " +
		"start warder"))
	initrd := filepath.Join(share, "closed-initrd")
	t.Cleanup(func() { _ = os.Remove(initrd) })
	r.sh("cp /boot/initrd.img-* /host/closed-initrd && sync")
	r.shutDown()
	o.Initrd, o.Args, o.Append = initrd, atStart(file), "root=/dev/vda"
	closed := start(t, o)
	closed.wait("the agent runs", "systemctl is-active warder")
	t.Log(closed.sh(startLog))
	contains(t, closed.sh("dmesg"), "usb 1-2: Device is not authorized for usage")
	closed.authorized("2-1", "1")
	closed.authorized("1-2", "1")
	if got := closed.defaults(); got != fresh {
		t.Errorf("it reads %q", got)
	}
	closed.wait("the stick is a disk", "test -b /dev/sda")
}
