//go:build linux

package laptop

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSpeed prints the laptop's figures. It sets no limits, because they depend on the machine beneath. USBGuard is
// measured in the same image, in the same way, in the same run.
func TestSpeed(t *testing.T) {
	r := ready(t, Options{})
	plugs := 100
	ours := r.insertToDecision(plugs, `{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
	print(t, "warder: insert to decision", ours)
	r.nudges(40)
	r.idle()
	r.drift(30)
	r.wire()

	r.sh("systemctl stop warder; systemctl disable -q warder")
	r.sh(
		`cd /sys/bus/usb/devices; echo 'allow with-interface one-of { 03:*:* 09:*:* }' >/etc/usbguard/rules.conf; chmod 600 /etc/usbguard/rules.conf
		systemctl start usbguard; for i in $(seq 50); do systemctl is-active -q usbguard && break; sleep 0.2; done; sleep 2`)
	theirs := r.plugs(plugs)
	print(t, "usbguard: insert to decision", theirs)
	t.Logf("usbguard resident: %s",
		r.try(`grep -h -E '^(Rss|Pss):' /proc/$(pgrep -x usbguard-daemon)/smaps_rollup | tr -s ' ' | tr '\n' ' '`).Out)
	if len(ours) > 0 && len(theirs) > 0 {
		for _, q := range []float64{0.5, 0.9, 1} {
			t.Logf("ratio at %.1f: %.3f", q, float64(at(ours, q))/float64(at(theirs, q)))
		}
	}
}

// insertToDecision measures with kprobes, in the kernel: from the emission of the device's "add" to the entry
// of usb_authorize_device.
func (r *rig) insertToDecision(n int, policy string) []time.Duration {
	r.t.Helper()
	r.set(policy)
	return r.plugs(n)
}

// plugs plugs a device a number of times: every other one within 300 ms of the previous unplug, and the rest on an idle
// machine.
func (r *rig) plugs(n int) []time.Duration {
	r.t.Helper()
	// kobject_uevent_env itself cannot be probed on Debian's kernels ("notrace"). It sends the first broadcast of the
	// task that is in device_add for this device; struct device begins with its name.
	r.sh(`set -e; cd /sys/kernel/tracing; echo 0 >tracing_on; echo >set_event_pid; echo >kprobe_events
	echo 'p:adding device_add name=+0(+0(%di)):string' >>kprobe_events; echo 'p:seen netlink_broadcast' >>kprobe_events; echo 'p:decided usb_authorize_device' >>kprobe_events
	echo 'name == "1-4"' >events/kprobes/adding/filter
	echo mono >trace_clock; echo >trace; echo 1 >events/kprobes/enable; echo 1 >tracing_on`)
	for i := range n {
		r.plug("usb-tablet", "p", map[string]any{"port": "4"})
		r.wait("plug "+strconv.Itoa(i)+" is decided",
			`test $(grep -c decided: /sys/kernel/tracing/trace) -ge %d && test "$(cat /sys/bus/usb/devices/1-4/authorized)" = 1`, i+1)
		if i%2 == 0 {
			r.sh("sleep 1")
			r.unplug("p")
			time.Sleep(100 * time.Millisecond) // the kernel's hub driver debounces that long
			continue
		}
		r.unplug("p")
		r.gone("1-4")
		r.sh("sleep 1.2")
	}
	out := r.sh(`cd /sys/kernel/tracing; echo 0 >tracing_on; echo 0 >events/kprobes/enable; grep -E 'adding:|seen:|decided:' trace; ` +
		`echo >kprobe_events`)
	var list []time.Duration
	var seen time.Duration
	adding := ""
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		for i, w := range f {
			if w == "adding:" {
				adding = f[0]
			}
			if w != "decided:" && (w != "seen:" || f[0] != adding) || i == 0 {
				continue
			}
			sec, err := strconv.ParseFloat(strings.TrimSuffix(f[i-1], ":"), 64)
			if err != nil {
				r.t.Fatalf("line %q: %v", line, err)
			}
			now := time.Duration(sec * float64(time.Second))
			if w == "seen:" {
				seen, adding = now, ""
			} else if seen != 0 { // a second decision on the same device does not count for the plug
				list = append(list, now-seen)
				seen = 0
			}
		}
	}
	if len(list) < n {
		r.t.Errorf("%d of %d plugs were measured:\n%s", len(list), n, out)
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	return list
}

func at(d []time.Duration, q float64) time.Duration {
	return d[min(int(q*float64(len(d))), len(d)-1)]
}

func print(t *testing.T, name string, d []time.Duration) {
	t.Helper()
	if len(d) == 0 {
		return
	}
	round := func(q float64) time.Duration { return at(d, q).Round(10 * time.Microsecond) }
	t.Logf("%s: n=%d, from the announcement; min %s median %s p90 %s p99 %s max %s", name, len(d), round(0), round(0.5), round(0.9),
		round(0.99), round(1))
}

// nudges: policy changes by push, as the agent measures them by its own clock.
func (r *rig) nudges(n int) {
	r.t.Helper()
	r.sh("systemctl restart warder")
	r.wait("push is up", `warder status --json | grep -q '"push": true'`)
	for i := range n {
		class := []string{"hid", "audio"}[i%2]
		r.change(fmt.Sprintf(`{"policy_data":{"usb":{"allowed_classes":[%q]}}}`, class))
		// Do not ask meanwhile: asking takes the laptop longer than what is measured.
		time.Sleep(2 * time.Second)
		r.settled()
		if i%2 == 0 {
			time.Sleep(4 * time.Second) // at rest again
		}
	}
	r.t.Logf("nudge to verified: %s", strings.Join(strings.Fields(r.sh(`warder status --json | grep -A5 nudge_to_verified`)), " "))
	r.t.Logf("server, change to report: %s", r.curl("GET", "/latency", ""))
}

// drift: another program's changes, until they are repaired, and until the server has the event. Slow enough not to
// count as contended.
func (r *rig) drift(n int) {
	r.t.Helper()
	r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
	r.sh(`warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p' >/root/device; sleep 2`)
	var mended, told []time.Duration
	for i := range n {
		file := []string{"/sys/bus/usb/devices/usb1/authorized_default", "/sys/bus/usb/devices/usb2/authorized_default",
			"/sys/module/usbcore/parameters/authorized_default"}[i%3]
		subject := []string{"usb.default/usb1", "usb.default/usb2", "usb.param/authorized_default"}[i%3]
		m, d := r.sabotage(Sabotage{Breaks: "echo 1 >" + file, Mended: `test "$(cat ` + file + `)" = 0`, Subject: subject}, true)
		mended, told = append(mended, m), append(told, d)
		r.sh("sleep 4")
	}
	for _, list := range [][]time.Duration{mended, told} {
		sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	}
	r.t.Logf("another program's write, n=%d: set back after p50 %s p99 %s; told on the server after p50 %s p99 %s (a shell of the "+
		"laptop asks, which takes 0.1 s and more itself)",
		n, at(mended, 0.5), at(mended, 0.99), at(told, 0.5), at(told, 0.99))
}

// idle: the agent with its policy in force and nothing to do, for five minutes, including a regular look.
func (r *rig) idle() {
	r.t.Helper()
	r.sh("sleep 20")
	res, err := r.Run(6*minute,
		`p=$(systemctl show -P MainPID warder); s() { cat /proc/$p/task/*/status | awk '/^voluntary/{n+=$2} END{print n}'; }
		c() { awk '{print $14+$15}' /proc/$p/stat; }; a=$(s); b=$(c); sleep 300; echo $(( ($(s)-a)/5 )) $(( $(c)-b )); grep -h -E '^(Rss|Pss|Pss_Anon|Pss_File):' /proc/$p/smaps_rollup; ls -l /usr/bin/warder | awk '{print $5}'`)
	f := strings.Fields(res.Out)
	if err != nil || len(f) < 4 {
		r.t.Fatal(res, err)
	}
	r.t.Logf("idle agent: %s voluntary context switches a minute; %s ticks of 10 ms in 300 s (%.3f %% of a core)", f[0], f[1],
		atof(f[1])/30000*100)
	r.t.Logf("idle agent resident: %s; binary %s bytes", strings.Join(f[2:len(f)-1], " "), f[len(f)-1])
}

func atof(s string) float64 { f, _ := strconv.ParseFloat(s, 64); return f }

// wire: the bytes of a check-in without news, both ways with TLS, on the kept-alive connection.
func (r *rig) wire() {
	r.t.Helper()
	out := r.sh(`warder check-in >/dev/null; sleep 6; a=$(awk '/lo:/{print $2}' /proc/net/dev); s=$(grep -c . /dev/null); warder ` +
		`check-in >/dev/null; b=$(awk '/lo:/{print $2}' /proc/net/dev); echo $((b-a))`)
	r.t.Logf("check-in without news: %s bytes on the wire both ways, with TCP and IP headers", out)
	n := r.try(`p=$(systemctl show -P MainPID warder); timeout 20 strace -f -e trace=fsync,fdatasync,sync_file_range -o /tmp/fsync.log ` +
		`-p $p & sleep 3; warder check-in >/dev/null; sleep 1; kill %%1; wait; grep -c sync /tmp/fsync.log`).Out
	r.t.Logf("check-in without news: %s fsyncs on the device", n)
}

// TestSpeedFiles compares writing to an internal disk, and starting programs, with the programs that limit the size of files and
// without them: twenty pairs that alternate, the ratio of each, their median, and the interval in which the median is (95 of 100).
// What is compared is what the processor does for it, in instructions: the laptop's disk and clock are the emulator's, whose noise is
// larger than what is looked for.
func TestSpeedFiles(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "inside.img")
	if out, err := exec.Command("sh", "-c", `truncate -s 2G "$0" && mkfs.ext4 -q "$0"`, disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := ready(t, Options{Counted: true, Args: []string{"-drive", "if=virtio,format=raw,file=" + disk}})
	r.sh("mount /dev/vdb /mnt")
	measures := []struct {
		name, run   string
		clock, busy []float64
	}{
		{name: "writing 1 GiB", run: "write /mnt/large 1024"}, {name: "20,000 random writes of 4 KiB", run: "random /mnt/random 20000"},
		{name: "running 1,000 programs", run: "exec /bin/true 1000"},
	}
	run := func(what string) (clock, busy float64) {
		if _, err := fmt.Sscan(r.sh("sync; /host/attacker filespeed "+what), &clock, &busy); err != nil || clock == 0 || busy == 0 {
			t.Fatal(what, clock, busy, err)
		}
		return clock, busy
	}
	for i := range 21 {
		var clock, busy [3][2]float64
		for turn := range 2 {
			loaded := (turn + i) % 2
			r.set([]string{`{"policy_data":{}}`, `{"policy_data":{"storage":{"max_file_size_mb":1,"cloud_sync_allowed":false}}}`}[loaded])
			r.wait("the programs are as they should be", []string{unpinned, "test -e /sys/fs/bpf/warder/filesize/link_size_ask -a -e /sys/fs/bpf/warder/cloudsync/link_cloud_exec"}[loaded])
			r.sh("sleep 2")
			for k, m := range measures {
				clock[k][loaded], busy[k][loaded] = run(m.run)
			}
		}
		for k := range measures {
			if m := &measures[k]; i > 0 { // the first pair makes the files
				m.clock, m.busy = append(m.clock, clock[k][0]/clock[k][1]), append(m.busy, busy[k][0]/busy[k][1])
			}
		}
	}
	for _, m := range measures {
		for _, by := range []struct {
			what   string
			ratios []float64
		}{{"instructions", m.busy}, {"the laptop's clock", m.clock}} {
			sort.Float64s(by.ratios)
			n := len(by.ratios)
			t.Logf("%s: %.4f of the speed without the programs (%.4f to %.4f), by %s", m.name, (by.ratios[n/2-1]+by.ratios[n/2])/2,
				by.ratios[5], by.ratios[n-6], by.what)
		}
	}
}

// TestSpeedRefusals prints how long a mount takes that is refused, and beside it one of a disk of the laptop's own that fails for
// another reason, with and without the programs.
func TestSpeedRefusals(t *testing.T) {
	r := media(t, "")
	own := "$(sh /root/nv inside-1)"
	r.sh("wipefs -q -a " + own) // there is nothing on it that can be mounted
	free := r.sh("/host/attacker refusals %s 2000 EINVAL", own)
	r.set(noExternal)
	r.wait("what is external is refused", "warder status --json | grep -q '%s' && %s", bothRefused, mmcRefused)
	r.sh("sleep 5")
	t.Log("a mount is refused after (µs, p50 and p99 of 2,000):", r.sh("/host/attacker refusals /dev/mmcblk0 2000"))
	t.Log("a mount of an own disk without a file system fails after, with the programs:", r.sh("/host/attacker refusals %s 2000 EINVAL", own), "and without:", free)
}
