//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
)

// TestDamage: store, ledger and identity are each truncated, overwritten with noise, made read-only, and left without
// disk space. The agent starts, says so and converges, and uninstalling after that still equals a fresh boot.
func TestDamage(t *testing.T) {
	parallel(t, 4)
	r := ready(t, Options{})
	r.medium("d", 16)
	r.medium("e", 16)
	const hid = `{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`
	r.set(hid)
	r.plug("usb-storage", "s1", map[string]any{"drive": "d", "port": "1"})
	r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
	r.authorized("2-1", "0")
	r.sh("cp -a /var/lib/warder /root/good; mkdir -p /root/small")

	// Each damage is done while the agent is dead from a SIGKILL, with the ports closed.
	const kill = "systemctl mask --runtime -q warder; systemctl kill -s KILL warder; sleep 0.5; "
	const start = "; systemctl unmask --runtime -q warder; systemctl reset-failed warder; systemctl start warder"
	files := map[string]string{"store": "store.db*", "ledger": "ledger.db*", "identity": "identity.json"}
	damages := []struct{ name, script, says string }{
		{"truncated", `for f in /var/lib/warder/FILE; do truncate -s 100 $f; done`, ""},
		{"noise", `for f in /var/lib/warder/FILE; do dd if=/dev/urandom of=$f bs=4096 count=8 conv=notrunc status=none; done`, ""},
		{"both_copies",
			`for f in /var/lib/warder/FILE /var/lib/warder/FILE.bak; do [ -e $f ] && dd if=/dev/urandom of=$f bs=4096 count=8 ` +
				`status=none; done; true`, ""},
		{"readonly", `mount --bind /var/lib/warder /var/lib/warder && mount -o remount,ro,bind /var/lib/warder`, "until it can"},
		{"full",
			`mount -t tmpfs -o size=600k none /root/small && cp -a /var/lib/warder/. /root/small/ && mount --bind /root/small ` +
				`/var/lib/warder && (dd if=/dev/zero of=/var/lib/warder/fill bs=1k status=none; true)`, "until it can"},
	}
	for name, file := range files {
		for _, d := range damages {
			whole := d.name == "readonly" || d.name == "full"
			if whole && name != "store" || d.name == "both_copies" && name != "identity" {
				continue // all three are on one disk; only the identity has two copies
			}
			if !soak() && (d.name == "truncated" || d.name == "readonly" || d.name == "noise" && name != "ledger") {
				continue // like the ledger's noise and a full disk; the soak tries all
			}
			t.Run(name+"_"+d.name, func(t *testing.T) {
				r := &rig{r.Laptop, t, r.dir, r.policy}
				r.sh(kill + strings.ReplaceAll(d.script, "FILE", file) + start)
				r.wait("it comes up", "systemctl is-active -q warder && warder status --json >/tmp/s; test -s /tmp/s")
				health := r.sh(`warder status --json | sed -n '/"health"/,$p'`)
				t.Logf("it says: %s", strings.Join(strings.Fields(health), " "))
				if !strings.Contains(health, "damaged") && !strings.Contains(health, "until it can") {
					t.Errorf("it does not say what befell it: %s", health)
				}
				if d.name == "both_copies" {
					// Without an identity there is no policy: the machine is given back, and the agent says so.
					r.authorized("2-1", "1")
					if res := r.try("warder status"); res.Code != 4 {
						t.Errorf("exit %d: %s", res.Code, res.Out)
					}
				} else {
					r.authorized("2-1", "0")
					r.wait("it checks in", "warder check-in")
					// Still enforced, both ways.
					r.set(`{"policy_data":{"usb":{"allowed_classes":["hid","mass_storage"]}}}`)
					r.authorized("2-1", "1")
					r.set(hid)
					r.authorized("2-1", "0")
				}
				if d.name == "full" {
					freed(r)
				}
				// Uninstalling after that equals a fresh boot. Once with dpkg, otherwise with the script that it runs
				// before the files go.
				if name == "ledger" {
					r.sh("dpkg -r warder")
				} else {
					r.sh("sh /var/lib/dpkg/info/warder.prerm remove")
				}
				if got := r.defaults(); got != fresh {
					t.Errorf("after removal the defaults are %q", got)
				}
				r.authorized("2-1", "1")
				r.sh("while mountpoint -q /var/lib/warder; do umount /var/lib/warder; done; while mountpoint -q /root/small; do umount " +
					"/root/small; done; rm -rf /var/lib/warder /run/warder; cp -a /root/good /var/lib/warder")
				if name == "ledger" {
					r.install()
				} else {
					r.sh("systemctl enable -q warder; systemctl start warder")
				}
				r.wait("back to normal", `warder check-in && test "$(warder status --json | grep -c '"health": \[\]')" = 1`)
				r.authorized("2-1", "0")
			})
		}
	}
}

// freed makes space on the disk while the agent runs: what was kept in the runtime directory moves back, and a power
// cut after that, which the runtime directory does not survive, loses no event and reports none twice.
func freed(r *rig) {
	r.t.Helper()
	for i := range 3 {
		r.plug("usb-storage", "more", map[string]any{"drive": "e", "port": "2", "serial": fmt.Sprint("MORE-", i)})
		r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-2")
		r.authorized("2-2", "0")
		r.unplug("more")
		r.gone("2-2")
	}
	r.wait("its events wait in the runtime directory", "ls /run/warder/store.db")
	before := r.sh("warder events --json | grep -c MORE-")
	r.sh("rm /var/lib/warder/fill")
	r.wait("it is at home again",
		`! ls /run/warder/store.db /run/warder/ledger.db /run/warder/identity.json 2>/dev/null && test "$(warder status --json | grep `+
			`-c 'until it can')" = 0`)
	// Like a power cut: killed, and memory is lost.
	r.sh("systemctl mask --runtime -q warder; systemctl kill -s KILL warder; sleep 0.5; mkdir -p /root/ends; cp -a /run/warder/holding " +
		"/run/warder/held /root/ends/; rm -rf /run/warder/store.db* /run/warder/identity.json; systemctl unmask --runtime -q warder; " +
		"systemctl reset-failed warder; systemctl start warder")
	r.wait("it comes up", "warder check-in")
	if after := r.sh("warder events --json | grep -c MORE-"); after != before || before == "0" {
		r.t.Errorf("%s events of %s are left after a power cut", after, before)
	}
}
