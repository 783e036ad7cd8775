//go:build linux

package laptop

import (
	"testing"
)

// TestEndings: what a restart, a stop, a hang and a shutdown leave behind, and what is reported about them.
func TestEndings(t *testing.T) {
	parallel(t, 6)
	image, _ := need(t)
	o := overlay(t, image)
	whole := lasting(t, o)
	whole.medium("a", 48)
	device := `curl -sk -H "Authorization: Bearer $(cat /root/token)" "` + api + `/devices/$(cat /root/device)"`

	t.Run("restart", func(t *testing.T) {
		r := &rig{whole.Laptop, t, whole.dir, whole.policy}
		r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
		// A slow start, so that something can be plugged in before it is done.
		r.sh(
			`mkdir -p /run/systemd/system/warder.service.d; printf '[Service]\nExecStartPre=/bin/sleep 8\n' >/run/systemd/system/warder.service.d/slow.conf; systemctl daemon-reload
			systemctl restart --no-block warder`)
		r.wait("the agent is away", "! pgrep -x warder")
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1"})
		r.plug("usb-tablet", "m1", map[string]any{"port": "2"})
		r.wait("both are there", "ls -d /sys/bus/usb/devices/2-1 /sys/bus/usb/devices/1-2")
		if out := r.try("pgrep -x warder; ls /dev/sda; cat /sys/bus/usb/devices/2-1/authorized").Out; out != "0" {
			t.Errorf("between two agents the machine is open: %s", out)
		}
		r.wait("the agent is back", "systemctl is-active warder")
		r.authorized("1-2", "1")
		r.authorized("2-1", "0")
		r.sh("rm -r /run/systemd/system/warder.service.d; systemctl daemon-reload")
		// What was there before us is a working mouse.
		t.Log(r.sh("warder revert --reason ticket; warder ledger"))
		r.authorized("1-2", "1")
		r.authorized("2-1", "1")
		r.sh("warder revert --lift")
		r.authorized("2-1", "0")
		r.authorized("1-2", "1")
	})

	t.Run("stop", func(t *testing.T) {
		r := &rig{whole.Laptop, t, whole.dir, whole.policy}
		t.Log(r.sh("date +%s.%N; systemctl stop warder; date +%s.%N"))
		if got := r.defaults(); got != fresh {
			t.Errorf("a stop left %q", got)
		}
		r.authorized("2-1", "1")
		r.wait("the server knows", device+` | grep '"ended":"stopped"' | grep -q '"compliance":"unknown"'`)
		res := r.try("warder status")
		if res.Code != 3 {
			t.Errorf("exit %d: %s", res.Code, res.Out)
		}
		contains(t, res.Out, "is stopped")
		r.sh("systemctl start warder")
		r.wait("the server knows", device+` | grep -v '"ended"' | grep -q '"compliance":"compliant"'`)
	})

	t.Run("hung", func(t *testing.T) {
		r := &rig{whole.Laptop, t, whole.dir, whole.policy}
		res := r.try(`p=$(systemctl show -P MainPID warder); kill -STOP $p; a=$(date +%s%N); warder status; c=$?; warder status --json ` +
			`| grep '"agent"'; b=$(date +%s%N); kill -CONT $p; echo "two took $(( (b-a)/1000000 )) ms"; exit $c`)
		t.Log(res.Out)
		if res.Code != 3 {
			t.Errorf("exit %d", res.Code)
		}
		contains(t, res.Out, "is hung")
		contains(t, res.Out, `"agent": "hung"`)
	})

	t.Run("start", func(t *testing.T) { starts(t, &rig{whole.Laptop, t, whole.dir, whole.policy}, o) })
	if !soak() {
		return // building an initramfs takes many minutes under emulation
	}
	t.Run("start_debian13", func(t *testing.T) {
		o := overlay(t, image+"-trixie")
		starts(t, lasting(t, o), o)
	})
	t.Run("closed_initramfs", closedInitramfs)
}
