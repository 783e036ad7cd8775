//go:build linux

package laptop

import (
	"strconv"
	"strings"
	"testing"
)

// changeUnderWriter: a policy change on the server takes a present device away and gives it back, by push and by
// polling alone. Everything that a writer was told is written is on the stick afterwards.
func changeUnderWriter(t *testing.T, whole *rig) {
	r := &rig{whole.Laptop, t, whole.dir, whole.policy}
	r.set(`{"policy_data":{"usb":{"allowed_classes":["hid","mass_storage"]}}}`)
	r.plug("usb-storage", "s1", map[string]any{"drive": "c", "port": "1"})
	r.authorized("2-1", "1")
	r.wait("a disk", "ls /dev/sda")
	r.sh("blkid /dev/sda >/dev/null || mkfs.vfat -F 32 -I /dev/sda >/dev/null; mount -o uid=1234,gid=1234 /dev/sda /mnt/stick")

	// The writer records each block on the laptop's own disk once write() has returned. 8 MB are dirty before the
	// policy changes, and it goes on writing.
	r.sh(`cat >/tmp/writer.sh <<'W'
exec 3>/mnt/stick/data 4>/tmp/acked
i=0
while :; do
  head -c 65536 /dev/urandom >/tmp/block || exit 1
  cat /tmp/block >&3 || exit 1
  cat /tmp/block >>/tmp/copy && echo $i >&4
  i=$((i+1)); [ $i -gt 140 ] && sleep 0.05
done
W
	rm -f /tmp/copy /tmp/acked; setsid setpriv --reuid=1234 --regid=1234 --clear-groups bash /tmp/writer.sh >/tmp/writer.log 2>&1 & echo started`)
	r.wait("8 MB are written", `test "$(wc -l </tmp/acked)" -gt 130`)
	t.Logf("dirty before: %s", r.sh("grep Dirty /proc/meminfo"))
	r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
	r.authorized("2-1", "0")
	if out := r.try("grep /mnt/stick /proc/1/mountinfo").Out; out != "" {
		t.Errorf("still mounted: %s", out)
	}
	r.told("denied", "usb 2-1 46f4:0001")

	t.Log(r.sh(`warder events --last 10 --json | grep -o '"kind":"[a-z_]*"\|its disk: [^"]*\|forced: [^"]*' | tail -n 3 | tr '\n' ' '; ` +
		`journalctl -u warder -n 40 --no-pager -o cat | grep 'disk emptied' | tail -n 1`))

	// Given back by push: the next mount sees what was acknowledged.
	r.set(`{"policy_data":{"usb":{"allowed_classes":["hid","mass_storage"]}}}`)
	r.authorized("2-1", "1")
	r.wait("the disk is back", "ls /dev/sd?")
	out := r.sh(
		`mount $(ls /dev/sd? | head -1) /mnt/stick; n=$(( $(wc -l </tmp/acked) * 65536 )); echo acked $n size $(stat -c %s /mnt/stick/data)
	head -c $n /mnt/stick/data | sha256sum | cut -c1-64; head -c $n /tmp/copy | sha256sum | cut -c1-64; unmount /mnt/stick`)
	lines := strings.Split(out, "\n")
	t.Log(lines[0])
	if len(lines) != 3 || lines[1] != lines[2] {
		t.Errorf("acknowledged data was lost: %s", out)
	}
	if f := strings.Fields(lines[0]); len(f) == 4 {
		if n, _ := strconv.Atoi(f[1]); n < 8<<20 {
			t.Errorf("only %d bytes were acknowledged", n)
		}
	}

	// By polling alone, from a server without sockets.
	r.sh(`systemctl stop policy-server; systemd-run -q --unit=policy-server2 /host/warder-server serve --data /srv/server --listen ` +
		`127.0.0.1:8443 --interval 10s --no-push`)
	r.wait("the server is up", "curl -sk https://127.0.0.1:8443/healthz")
	r.sh("warder check-in")
	r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
	r.authorized("2-1", "0")
	r.set(`{"policy_data":{"usb":{"allowed_classes":["hid","mass_storage"]}}}`)
	r.authorized("2-1", "1")
	if p := r.status()["check_in"].(map[string]any)["push"]; p != false {
		t.Errorf("push is %v while the server has none", p)
	}
	r.sh(`systemctl stop policy-server2; systemd-run -q --unit=policy-server /host/warder-server serve --data /srv/server --listen ` +
		`127.0.0.1:8443 --interval 30s`)
	r.wait("the server is up", "curl -sk https://127.0.0.1:8443/healthz")
	r.unplug("s1")
	r.gone("2-1")
}

// countWrites: a probe on the kernel's own write path for sysfs files, filtered to the agent's process tree, counts no
// write in warn, monitor and audit_only, and at least one in enforce.
func countWrites(t *testing.T, whole *rig) {
	r := &rig{whole.Laptop, t, whole.dir, whole.policy}
	r.set(`{"compliance":"monitor","policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
	r.sh(`cd /sys/kernel/tracing; echo 'p:warderwrite kernfs_fop_write_iter' >>kprobe_events`)
	// A server-side change reaches an agent that this shell started, so that the probe follows it and its children from
	// the first instruction on.
	count := func(body string) string {
		r.set(body)
		r.sh("systemctl stop warder")
		r.sh(`cd /sys/kernel/tracing; echo 0 >tracing_on; echo >trace; echo 1 >options/event-fork; echo 1 >events/kprobes/warderwrite/enable
		cat >/tmp/traced.sh <<'S'
echo $$ >/sys/kernel/tracing/set_event_pid
echo 1 >/sys/kernel/tracing/tracing_on
exec /usr/bin/warder run 2>/tmp/traced.log
S
		setsid bash /tmp/traced.sh & echo started`)
		r.wait("the traced agent is up", "warder status --json | grep -q '\"agent\": \"running\"'")
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1"})
		r.plug("usb-tablet", "m1", map[string]any{"port": "2"})
		r.wait("both are there", "ls -d /sys/bus/usb/devices/2-1 /sys/bus/usb/devices/1-2")
		r.wait("both are journalled", `test "$(warder events --json | tail -n 2 | grep -c 'usb 2-1\|usb 1-2')" = 2`)
		r.sh("sleep 1")
		// The two writes of the shell itself come before exec; they are to tracefs, not kernfs.
		n := r.sh(`cd /sys/kernel/tracing; echo 0 >tracing_on; echo 0 >events/kprobes/warderwrite/enable; grep -c warderwrite: ` +
			`trace || true`)
		r.unplug("s1")
		r.unplug("m1")
		r.sh(`pkill -TERM -x warder; for i in $(seq 100); do pgrep -x warder >/dev/null || break; sleep 0.1; done; echo ` +
			`>/sys/kernel/tracing/set_event_pid; systemctl start warder`)
		r.gone("2-1")
		r.gone("1-2")
		return n
	}
	for mode, body := range map[string]string{
		"monitor":    `{"compliance":"monitor","policy_data":{"usb":{"allowed_classes":["hid"]}}}`,
		"warn":       `{"compliance":"warn","policy_data":{"usb":{"allowed_classes":["hid"]}}}`,
		"audit_only": `{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"],"audit_only":true}}}`,
	} {
		if n := count(body); n != "0" {
			t.Errorf("%s: %s writes to sysfs: %s", mode, n, r.sh("head -40 /sys/kernel/tracing/trace"))
		} else {
			t.Logf("%s: 0 writes to sysfs", mode)
		}
	}
	n := count(`{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
	if n == "0" {
		t.Error("enforce: the probe counts no write, so it proves nothing")
	}
	t.Logf("enforce: %s writes to sysfs", n)
	r.told("would_deny", "told.*no session")
	r.sh("echo >/sys/kernel/tracing/kprobe_events")
}
