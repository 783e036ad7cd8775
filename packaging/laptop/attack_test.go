//go:build linux

package laptop

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestAttack: a user without privileges works against the agent. Each attack worked once. The policy wins each time,
// within seconds, and nobody else is harmed.
func TestAttack(t *testing.T) {
	parallel(t, 6)
	r := ready(t, Options{})
	for _, n := range []string{"a", "b", "c"} {
		r.medium(n, 48)
	}
	r.sh(`sysctl -qw kernel.unprivileged_userns_clone=1 2>/dev/null; modprobe fuse; chmod 666 /dev/fuse
		mkdir -p /srv/victim; mount -t tmpfs victim /srv/victim; chmod 1777 /srv/victim
		mkdir -p /tmp/attack; chmod 777 /tmp/attack; useradd -u 1234 mallory 2>/dev/null; useradd -u 1235 alice 2>/dev/null; true`)

	for i, c := range []struct {
		name, attack string
		after        func(r *rig)
	}{
		{"fakeproc", "fakeproc /srv/victim", func(r *rig) { r.sh("touch /srv/victim/still-writable") }},
		{"fifo", "fifo", nil},
		{"fuse", "fuse", nil},
		{"longline", "longline", nil},
		{"namespaces", "namespaces 150", nil},
		{"hidden", "hidden /mnt/stick/hidden", nil},
		{"stubborn_writer", "writer /mnt/stick/data /tmp/attack/acked", nil},
		{"pass_to_daemon", "pass /tmp/attack/daemon /mnt/stick/passed", func(r *rig) {
			r.sh("systemctl is-active victim-daemon") // a descriptor sent to it is no reason to end it
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rig{r.Laptop, t, r.dir, r.policy}
			r.stickIn("a", i)
			defer func() { t.Log(r.try("journalctl -u warder -n 30 --no-pager -o cat | grep disk").Out) }()
			if c.name == "pass_to_daemon" {
				r.sh(`systemd-run -q --unit=victim-daemon /host/attacker daemon /tmp/attack/daemon; for i in $(seq 100); do test -S ` +
					`/tmp/attack/daemon && break; sleep 0.1; done`)
			}
			r.attack(c.attack)
			begun := time.Now()
			r.change(hidOnly)
			r.authorized("2-1", "0")
			t.Logf("taken away after %s: %s", time.Since(begun).Round(100*time.Millisecond),
				r.sh("warder events --last 2 --json | tail -n 2 | grep -o '\"kind\":\"[a-z_]*\"\\|its disk: [^\"]*\\|forced: [^\"]*' | "+
					"tr '\\n' ' '"))
			r.settled()
			if f := r.finding("usb.allowed_classes"); !strings.HasPrefix(f, "compliant/enforced") {
				t.Errorf("the finding says %s", f)
			}
			if c.after != nil {
				c.after(r)
			}
			r.calm()
			r.stickOut(i)
		})
	}
	t.Run("forced_is_counted", func(t *testing.T) { forcedIsCounted(t, &rig{r.Laptop, t, r.dir, r.policy}) })
	if soak() { // it takes most of a minute, and platform/volume tests the deadline
		t.Run("stalled_disk", func(t *testing.T) { stalledDisk(t, &rig{r.Laptop, t, r.dir, r.policy}) })
	}
	t.Run("revert_meanwhile", func(t *testing.T) { revertMeanwhile(t, &rig{r.Laptop, t, r.dir, r.policy}) })
	t.Run("local_api", func(t *testing.T) { attackAPI(t, &rig{r.Laptop, t, r.dir, r.policy}) })
}

const (
	hidOnly = `{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`
	sticks  = `{"policy_data":{"usb":{"allowed_classes":["hid","mass_storage"]}}}`
)

// stickIn plugs an allowed stick and mounts it for mallory.
func (r *rig) stickIn(medium string, n int) {
	r.t.Helper()
	r.set(sticks)
	r.plug("usb-storage", fmt.Sprintf("stick%d", n), map[string]any{"drive": medium, "port": "1", "serial": fmt.Sprintf("SN-%d", n)})
	r.authorized("2-1", "1")
	r.wait("a disk", "ls /sys/bus/usb/devices/2-1/2-1:1.0/host*/target*/*/block/sd*")
	r.t.Cleanup(func() { // whatever fails, the next test finds the port free
		_ = r.Unplug(fmt.Sprintf("stick%d", n))
		_, _ = r.Run(minute, "for i in $(seq 100); do test -e /sys/bus/usb/devices/2-1 || break; sleep 0.1; done")
	})
	r.sh(`D=$(basename $(ls -d /sys/bus/usb/devices/2-1/2-1:1.0/host*/target*/*/block/sd*)); mount -o uid=1234,gid=1234 /dev/$D /mnt/stick`)
}

func (r *rig) stickOut(n int) {
	r.t.Helper()
	r.sh(`for u in $(systemctl list-units --plain --no-legend 'attack-*' | cut -d' ' -f1); do systemctl kill -s KILL $u 2>/dev/null; ` +
		`done; systemctl reset-failed 'attack-*' 2>/dev/null; umount -l /mnt/stick 2>/dev/null; true`)
	r.unplug(fmt.Sprintf("stick%d", n))
	r.gone("2-1")
}

// attack starts one as mallory and waits until it is in place.
func (r *rig) attack(words string) {
	r.t.Helper()
	unit := "attack-" + strings.ReplaceAll(strings.Fields(words)[0], "/", "")
	r.sh(`rm -f /tmp/attack/out; systemd-run -q --unit=%s -p User=mallory -p StandardOutput=append:/tmp/attack/out -p `+
		`StandardError=append:/tmp/attack/out /host/attacker %s`, unit, words)
	r.wait("the attack is in place", "grep -q ready /tmp/attack/out")
}

// calm checks that the same agent still runs, answers, and is not stuck in the kernel.
func (r *rig) calm() {
	r.t.Helper()
	r.wait("no release is left", `! warder status --json | grep -q '"work"' && ! pgrep -f '[r]elease-disk'`)
	if n := r.sh("systemctl show -P NRestarts warder"); n != "0" {
		r.t.Errorf("the agent was restarted %s times", n)
	}
	if out := r.sh("ps -eLo stat,comm,wchan | awk '$1 ~ /^D/ && $2 ~ /warder/' || true"); out != "" {
		r.t.Errorf("waits in the kernel: %s", out)
	}
}

// forcedIsCounted: on vfat, which cannot be cut off, a program that does not end may lose data although it was told
// that it is written. That is reported as forced, and no more is lost than was counted.
func forcedIsCounted(t *testing.T, r *rig) {
	r.stickIn("b", 20)
	r.sh("rm -f /tmp/attack/acked")
	r.attack("writer /mnt/stick/data /tmp/attack/acked 65536")
	r.wait("much is written", `test "$(tr -d ' ' </tmp/attack/acked)" -gt 4000000`)
	r.set(hidOnly)
	r.authorized("2-1", "0")
	r.told("forced", "usb 2-1 46f4:0001")
	note := r.sh(`warder events --last 20 --json | grep '"kind":"forced"' | tail -n 1`)
	t.Log(note)
	contains(t, note, "cannot be cut off")
	contains(t, note, "attacker")
	_, rest, _ := strings.Cut(note, "still had ")
	counted, err := strconv.ParseInt(strings.Fields(rest + " x")[0], 10, 64)
	if err != nil {
		t.Fatalf("how much may be lost is not counted: %v", err)
	}
	acked, err := strconv.ParseInt(strings.TrimSpace(r.sh("cat /tmp/attack/acked")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	r.stickOut(20)
	r.set(sticks)
	r.plug("usb-storage", "stick21", map[string]any{"drive": "b", "port": "1"})
	r.authorized("2-1", "1")
	r.wait("a disk", "ls /sys/bus/usb/devices/2-1/2-1:1.0/host*/target*/*/block/sd*")
	size, err := strconv.ParseInt(r.sh(`D=$(basename $(ls -d /sys/bus/usb/devices/2-1/2-1:1.0/host*/target*/*/block/sd*)); mount `+
		`/dev/$D /mnt/stick && stat -c %s /mnt/stick/data; unmount /mnt/stick`), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes acknowledged, %d on the stick, %d KiB counted as perhaps lost", acked, size, counted)
	if acked-size > (counted+1024)<<10 {
		t.Errorf("%d bytes were lost, and %d KiB counted", acked-size, counted)
	}
	r.stickOut(21)
}

// stalledDisk: a disk that stops accepting writes is taken away after fifteen seconds without progress. Meanwhile the
// agent works, and its status says what it is doing.
func stalledDisk(t *testing.T, r *rig) {
	file := filepath.Join(r.dir, "slow.img")
	if err := copyFile(r.medium("unused", 48), file); err != nil {
		t.Fatal(err)
	}
	if _, err := r.qmp.do("object-add", map[string]any{"qom-type": "throttle-group", "id": "slow",
		"limits": map[string]any{"bps-write": 100 << 20}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.qmp.do("blockdev-add", map[string]any{"node-name": "slow", "driver": "throttle", "throttle-group": "slow",
		"file": map[string]any{"driver": "raw", "file": map[string]any{"driver": "file", "filename": file}}}); err != nil {
		t.Fatal(err)
	}
	r.stickIn("slow", 30)
	// So slow that a request takes half a minute, but not for ever: the emulator itself waits for the request in
	// progress when the device goes.
	if _, err := r.qmp.do("qom-set", map[string]any{"path": "/objects/slow", "property": "limits",
		"value": map[string]any{"bps-write": 4000}}); err != nil {
		t.Fatal(err)
	}
	r.sh("head -c 6000000 /dev/urandom >/mnt/stick/dirty")
	begun := time.Now()
	r.change(hidOnly)
	r.wait("the status says that a release is under way", `warder status --json | grep -q '"seconds": [5-9]'`)
	t.Log(r.try("warder status").Out)
	contains(t, r.try("warder status").Out, "emptying its disks")
	contains(t, r.try("warder status --json").Out, `"step"`)
	for _, command := range []string{"warder status --json", "cat /run/warder/status.json"} {
		if out := r.try("setpriv --reuid=1235 --regid=1235 --clear-groups %s", command).Out; strings.Contains(out, `"step"`) ||
			!strings.Contains(out, `"rollup"`) {
			t.Errorf("another user sees what is done with a stick: %s", out)
		}
	}
	r.sh("warder check-in") // the loop works
	contains(t, r.finding("usb.allowed_classes"), "noncompliant")
	contains(t, r.finding("usb.allowed_classes"), "being emptied")
	r.authorized("2-1", "0")
	t.Logf("taken away after %s", time.Since(begun).Round(time.Second))
	r.told("forced", "without progress")
	if f := r.finding("usb.allowed_classes"); !strings.HasPrefix(f, "compliant/enforced") {
		t.Errorf("afterwards the finding says %s", f)
	}
	_, _ = r.qmp.do("qom-set", map[string]any{"path": "/objects/slow", "property": "limits",
		"value": map[string]any{"bps-write": 100 << 20}})
	r.stickOut(30)
	r.calm()
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// revertMeanwhile: support reverts while a disk is being emptied; the stick is back in the end.
func revertMeanwhile(t *testing.T, r *rig) {
	r.stickIn("c", 40)
	r.attack("writer /mnt/stick/data /tmp/attack/acked2")
	r.change(hidOnly)
	r.wait("a release is under way", `warder status --json | grep -q '"work"'`)
	r.sh("warder revert --for 10m --reason test || true")
	r.wait("the release is over", `! warder status --json | grep -q '"work"'`)
	r.authorized("2-1", "1")
	if got := r.defaults(); got != fresh {
		t.Errorf("under a hold the defaults are %q", got)
	}
	r.sh("warder revert --lift")
	r.authorized("2-1", "0")
	r.stickOut(40)
}

// attackAPI: users against the local API, and against each other, with a real logind that knows who is at the machine.
func attackAPI(t *testing.T, r *rig) {
	as := func(user, script string) string {
		t.Helper()
		res := r.try("setpriv --reuid=%s --regid=%s --clear-groups bash -c '%s'", user, user, script)
		return res.Out + res.Err
	}
	// alice is at the machine; mallory is logged in from elsewhere, or runs a program.
	r.sh(`systemd-run -q --unit=alice -p User=alice -p PAMName=login -p TTYPath=/dev/tty7 -p StandardInput=tty -p ` +
		`StandardOutput=journal sleep infinity; for i in $(seq 100); do grep -q 1235 /run/systemd/seats/seat0 && break; sleep 0.1; ` +
		`done; timeout 20 /host/attacker vt 7`)
	r.wait("alice's session is the active one", `grep -q '^ACTIVE_UID=1235' /run/systemd/seats/seat0`)
	r.set(hidOnly)
	r.plug("usb-storage", "stick50", map[string]any{"drive": "a", "port": "1", "serial": "SECRET-SERIAL"})
	r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
	r.authorized("2-1", "0")
	r.told("denied", "SECRET-SERIAL")
	if out := as("alice", "warder events --last 100"); !strings.Contains(out, "SECRET-SERIAL") {
		t.Errorf("alice, who plugged it in, does not see it: %s", out)
	}
	for _, command := range []string{"warder events --last 1000 --json", "warder status --json", "warder explain usb --port 2-1",
		"cat /run/warder/status.json", "warder usb", "warder ledger", "timeout 2 warder events --follow"} {
		if out := as("mallory", command); strings.Contains(out, "SECRET-SERIAL") {
			t.Errorf("mallory sees what alice plugged in, by %s: %s", command, out)
		}
	}
	contains(t, as("mallory", "warder explain usb --port 2-1"), "who sits at the machine")

	// mallory reads slowly and sends junk codes; meanwhile root asks.
	before := r.sh("awk '/VmRSS/{print $2}' /proc/$(systemctl show -P MainPID warder)/status")
	r.attack("slowreader /run/warder/warder.sock")
	r.attack("codes /run/warder/warder.sock")
	for range 3 {
		begun := time.Now()
		r.try("warder status --json")
		t.Logf("root's status under attack took %s", time.Since(begun).Round(time.Millisecond))
		if out := r.try("warder exception AAAAA-AAAAA-AAAAA-AAAAA-AAAAA-A --usb 0951:1666:X"); strings.Contains(out.Err, "moment ago") {
			t.Errorf("mallory's codes keep root out: %s", out.Err)
		}
		r.sh("sleep 2")
	}
	after := r.sh("awk '/VmRSS/{print $2}' /proc/$(systemctl show -P MainPID warder)/status")
	t.Logf("the agent had %s KiB before and %s KiB under attack", before, after)
	a, _ := strconv.Atoi(before)
	b, _ := strconv.Atoi(after)
	if b > a+64<<10 {
		t.Errorf("the agent grew from %d to %d KiB", a, b)
	}
	r.stickOut(50)
	r.calm()
}
