//go:build linux

package laptop

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// rig is a laptop with Warder's package and a policy server of its own inside.
type rig struct {
	*Laptop
	t      *testing.T
	dir    string
	policy string // id of the default policy
}

const (
	second = time.Second
	minute = time.Minute
	api    = "https://127.0.0.1:8443/api/v1"
)

// need says where the image and the share are, or why the test cannot run.
func need(t *testing.T) (image, share string) {
	t.Helper()
	base := os.Getenv("WARDER_LAPTOP")
	if base == "" {
		reason := "the test laptop is not built: run make test (WARDER_LAPTOP names the directory)"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	return filepath.Join(base, "laptop"), filepath.Join(base, "share")
}

// start boots a laptop.
func start(t *testing.T, o Options) *rig {
	t.Helper()
	image, share := need(t)
	if o.Image == "" {
		o.Image = image
	}
	o.Share = share
	begun := time.Now()
	l, err := Boot(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("console:\n" + l.Console())
			t.Log("what failed:\n" + strings.Join(l.failed, "\n")) // last, where a long log is cut
		}
		l.Close()
		if s := l.qemu.ProcessState; s != nil {
			t.Logf("the emulator took %s of the processors' time", (s.UserTime() + s.SystemTime()).Round(second))
		}
	})
	t.Logf("the laptop is up after %s", time.Since(begun).Round(second))
	r := &rig{Laptop: l, t: t, dir: t.TempDir()}
	r.sh("cat >/usr/bin/unmount <<'E'\n%s\nE\ncat >/usr/bin/await <<'E'\n%s\nE\nchmod +x /usr/bin/unmount", unmount, await)
	return r
}

// unmount is umount with patience: the system's own programs hold a mount for moments (a service that is started gets
// mounts of its own, and walks them). Warder may not.
const unmount = `#!/bin/sh
n=0; until umount "$1"; do
  for p in $(pidof warder); do if ls -l /proc/$p/fd /proc/$p/cwd /proc/$p/root | grep -F "$1"; then echo "warder ($p) holds $1" >&2; exit 1; fi; done
  n=$((n+1)); test $n -lt 120 || { ls -ld /proc/[0-9]*/cwd /proc/[0-9]*/fd/* 2>/dev/null | grep -F " $1" >&2; exit 32; }; sleep 0.25; mountpoint -q "$1" || exit 1
done`

// fatal ends the test, and says why once more at the end of the log.
func (r *rig) fatal(format string, args ...any) {
	r.t.Helper()
	why := fmt.Sprintf(format, args...)
	r.failed = append(r.failed, r.t.Name()+": "+why[:min(len(why), 600)])
	r.t.Fatal(why)
}

// sh runs a script that must succeed, and returns what it printed.
func (r *rig) sh(script string, args ...any) string {
	r.t.Helper()
	if len(args) > 0 {
		script = fmt.Sprintf(script, args...)
	}
	res, err := r.Run(3*minute, script)
	if err != nil {
		r.fatal("%v", err)
	}
	if res.Code != 0 {
		r.fatal("%s\n  exit %d\n  out: %s\n  err: %s", script, res.Code, res.Out, res.Err)
	}
	return res.Out
}

// try runs a script that may fail.
func (r *rig) try(script string, args ...any) Result {
	r.t.Helper()
	if len(args) > 0 {
		script = fmt.Sprintf(script, args...)
	}
	res, err := r.Run(3*minute, script)
	if err != nil {
		r.fatal("%v", err)
	}
	return res
}

// await repeats the script on its standard input until it succeeds, for two minutes. In an emulator a program takes as long to
// start as what is waited for takes to happen, so most of the looks at "warder status --json" read what the agent has left for when it is
// dead, which is laid out as that command does it; what counts is what the command itself says.
const await = `exec {never}<> <(:) # to sleep without a program of its own
script=$(cat); [ -n "$script" ] || exit 2
left() { sed 's/":/": /g; s/,"/,\n"/g' /run/warder/status.json 2>/dev/null; }
quick=${script//warder status --json/left}
end=$((SECONDS+120)); n=0
while [ $SECONDS -lt $end ]; do
  n=$((n+1))
  if [ "$quick" = "$script" ] || [ $((n % 5)) = 1 ] || ( eval "$quick" ) >/dev/null 2>&1; then
    if ( eval "$script" ) >/tmp/wait.out 2>&1; then exit 0; fi
  fi
  read -rt 0.3 -u $never
done; exit 1`

// wait repeats a script until it succeeds.
func (r *rig) wait(what, script string, args ...any) {
	r.t.Helper()
	if len(args) > 0 {
		script = fmt.Sprintf(script, args...)
	}
	// One loop inside the guest: each call through the channel costs more than the check.
	res, err := r.Run(3*minute, "bash /usr/bin/await <<'WAITED'\n"+script+"\nWAITED")
	if err != nil {
		r.fatal("%v", err)
	}
	if res.Code != 0 {
		out := r.try("cat /tmp/wait.out; warder status; journalctl -u warder -n 20 --no-pager -o cat")
		r.fatal("%s: it did not come to\n  %s\n%s", what, script, out.Out)
	}
}

// server starts the policy server inside the laptop.
func (r *rig) server(args string) {
	r.t.Helper()
	// Not from the share, which is away for a moment when a laptop is saved.
	r.sh(`mkdir -p /srv/server && cp /host/warder-server /srv/ && systemd-run -q --unit=policy-server --property=Restart=no /srv/warder-server serve --data `+
		`/srv/server --listen 127.0.0.1:8443 --interval 30s %s`, args)
	r.wait("the server is up", "curl -sk https://127.0.0.1:8443/healthz || curl -s http://127.0.0.1:8443/healthz")
	r.sh("/host/warder-server token create --data /srv/server --role admin --ttl 24h >/root/token")
	r.policy = "policy-default"
}

func (r *rig) install() {
	r.t.Helper()
	r.sh("dpkg -i /host/warder.deb")
	r.wait("the service is up", "systemctl is-active warder")
}

func (r *rig) enroll() {
	r.t.Helper()
	r.sh(
		`J=$(/host/warder-server enrollment create --data /srv/server --json); T=$(echo "$J" | sed 's/.*"token":"\([^"]*\)".*/\1/'); P=$(echo "$J" | sed 's/.*"ca_pin":"\([^"]*\)".*/\1/')
		warder enroll --server https://127.0.0.1:8443 --token "$T" --ca-pin "$P"`)
	r.wait("the policy is in force", inForce)
}

// ready is an enrolled laptop. Those that are alike are made once, and saved: each test has one that goes on from there.
func ready(t *testing.T, o Options) *rig {
	t.Helper()
	if len(o.Args) == 0 && o.Append == "" && o.Disk == "" && o.Initrd == "" && !o.Counted {
		if o.From = saved(t, o); o.From != "" {
			r := start(t, o)
			r.policy = "policy-default"
			r.wait("the policy is in force", inForce)
			return r
		}
	}
	return enrolled(t, o)
}

const inForce = `test "$(warder status --json | grep -c '"state": "active"')" = 1`

// enrolled is a laptop that has been booted, and enrolled.
func enrolled(t *testing.T, o Options) *rig {
	t.Helper()
	r := start(t, o)
	r.server("")
	r.install()
	r.enroll()
	return r
}

// savedLaptops are those that were made, by what is special about them.
var savedLaptops struct {
	sync.Mutex
	made map[string]*savedLaptop
}

type savedLaptop struct {
	once sync.Once
	dir  string
	good bool
}

// saved makes a laptop that others go on from, or says where it is; "" if it could not be saved.
func saved(t *testing.T, o Options) string {
	t.Helper()
	savedLaptops.Lock()
	key := fmt.Sprint(o.Image, o.Single)
	s := savedLaptops.made[key]
	if s == nil {
		s = &savedLaptop{dir: filepath.Join(os.TempDir(), fmt.Sprintf("saved%d-%d", os.Getpid(), len(savedLaptops.made)))}
		if savedLaptops.made == nil {
			savedLaptops.made = map[string]*savedLaptop{}
		}
		savedLaptops.made[key] = s
	}
	savedLaptops.Unlock()
	// If it fails, the test does that makes it, and all others have one of their own.
	s.once.Do(func() { s.good = save(t, o, s.dir) })
	if !s.good {
		return ""
	}
	return s.dir
}

// save makes a laptop in a directory.
func save(t *testing.T, o Options, dir string) bool {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if o.Image == "" {
		o.Image, _ = need(t)
	}
	o.Disk = filepath.Join(dir, savedDisk)
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(o.Image, "root.img"), o.Disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := enrolled(t, o)
	if err := r.Save(dir); err != nil {
		t.Logf("the laptop cannot be saved, and each test has one of its own: %v", err)
		return false
	}
	return true
}

// TestMain removes what was saved.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range savedLaptops.made {
		_ = os.RemoveAll(s.dir)
	}
	os.Exit(code)
}

// overlay is a disk on top of the image, which survives a reboot.
func overlay(t *testing.T, image string) Options {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(image, "root.img"),
		disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return Options{Image: image, Disk: disk}
}

// lasting is an enrolled laptop on such a disk, whose server and journal survive a reboot, too.
func lasting(t *testing.T, o Options) *rig {
	t.Helper()
	r := start(t, o)
	r.sh("mkdir -p /var/log/journal; systemctl restart systemd-journald")
	r.sh(`mkdir -p /srv/server; cp /host/warder-server /srv/warder-server; cat >/etc/systemd/system/policy-server.service <<'U'
[Unit]
Before=warder.service
[Service]
ExecStart=/srv/warder-server serve --data /srv/server --listen 127.0.0.1:8443 --interval 30s
U
systemctl daemon-reload; systemctl start policy-server`)
	r.wait("the server is up", "curl -sk https://127.0.0.1:8443/healthz")
	r.sh("/host/warder-server token create --data /srv/server --role admin --ttl 24h >/root/token")
	r.policy = "policy-default"
	r.install()
	r.enroll()
	r.sh(`warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p' >/root/device`)
	return r
}

// shutDown shuts the laptop down as a person does.
func (r *rig) shutDown() {
	r.t.Helper()
	r.sh("systemctl poweroff --no-block")
	select {
	case <-r.done:
	case <-time.After(3 * time.Minute):
		r.t.Fatal("it does not shut down")
	}
}

// curl calls the policy server's API as an administrator.
func (r *rig) curl(method, path, body string) string {
	r.t.Helper()
	res, err := r.Call(minute, Ask{Method: method, URL: api + path, Body: body})
	if err != nil || res.Code != 0 {
		r.fatal("%s %s: %v %s\n%s", method, path, err, res.Err, res.Out)
	}
	return res.Out
}

// until waits until the policy server's answer has a piece in which all of these match.
func (r *rig) until(what, path string, match ...string) {
	r.t.Helper()
	res, err := r.Call(2*minute, Ask{Method: "GET", URL: api + path, Until: match})
	if err != nil || res.Code != 0 {
		out := r.try("warder status; journalctl -u warder -n 20 --no-pager -o cat")
		r.fatal("%s: %s did not come to\n  %q: %v %s\n%.4000s\n%s", what, path, match, err, res.Err, res.Out, out.Out)
	}
}

// set changes the policy on the server and waits until the laptop reports the new version.
func (r *rig) set(body string) {
	r.t.Helper()
	r.change(body)
	r.settled()
}

func (r *rig) change(body string) {
	r.t.Helper()
	// Every section each time: one test's settings must not remain in the next.
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		r.t.Fatal(err)
	}
	data, _ := doc["policy_data"].(map[string]any)
	for _, s := range []string{"usb", "storage", "network", "dlp"} {
		if data[s] == nil {
			data[s] = map[string]any{}
		}
	}
	if doc["compliance"] == nil {
		doc["compliance"] = "enforce"
	}
	network, _ := data["network"].(map[string]any)
	for _, s := range []string{"allowed_lists", "blocked_lists"} {
		list, _ := network[s].([]any)
		for i, x := range list { // "@name" is a long list of that name alone
			if name, is := x.(string); is {
				var out struct{ ID, SHA256 string }
				text := r.sh(`echo %s | curl -sk -H "Authorization: Bearer $(cat /root/token)" --data-binary @- "%s/lists?name=%s"`,
					strings.TrimPrefix(name, "@"), api, strings.TrimPrefix(name, "@"))
				if err := json.Unmarshal([]byte(text), &out); err != nil || out.ID == "" {
					r.t.Fatalf("%s: %v", text, err)
				}
				list[i] = map[string]string{"id": out.ID, "sha256": out.SHA256}
			}
		}
	}
	b, _ := json.Marshal(doc)
	r.curl("PUT", "/policies/"+r.policy, string(b))
}

// settled waits until agent and server agree on the version in force.
func (r *rig) settled() {
	r.t.Helper()
	var p struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal([]byte(r.curl("GET", "/policies/"+r.policy, "")), &p); err != nil {
		r.t.Fatal(err)
	}
	r.until("the new policy is in force and reported", "/devices", fmt.Sprintf(`^"id":"%s","version":%d\b`, r.policy, p.Version))
}

// medium makes a stick's medium on the host, with a FAT file system.
func (r *rig) medium(node string, mib int64) string {
	r.t.Helper()
	file := filepath.Join(r.dir, node+".img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Truncate(file, mib<<20); err != nil {
		r.t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.vfat", "-F", "32", file).CombinedOutput(); err != nil {
		r.t.Fatalf("mkfs.vfat (of dosfstools): %v\n%s", err, out)
	}
	if err := r.Stick(node, file); err != nil {
		r.t.Fatal(err)
	}
	return file
}

func (r *rig) plug(driver, id string, props map[string]any) {
	r.t.Helper()
	if err := r.Plug(driver, id, props); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) unplug(id string) {
	r.t.Helper()
	if err := r.Unplug(id); err != nil {
		r.t.Fatal(err)
	}
}

// authorized waits until a device is present and the kernel has authorised it, or not.
func (r *rig) authorized(path, want string) {
	r.t.Helper()
	r.wait(path+" authorized="+want, `test "$(cat /sys/bus/usb/devices/%s/authorized)" = %s`, path, want)
}

func (r *rig) gone(path string) {
	r.t.Helper()
	r.wait(path+" is unplugged", "test ! -e /sys/bus/usb/devices/%s", path)
}

// unbound: no driver is bound to any interface of a device.
func (r *rig) unbound(path string) {
	r.t.Helper()
	if out := r.try("ls -d /sys/bus/usb/devices/%s:*/driver 2>/dev/null", path).Out; out != "" {
		r.t.Errorf("a driver is bound to %s: %s", path, out)
	}
}

// told waits until the server has an event of a kind about a subject.
func (r *rig) told(kind, subject string) {
	r.t.Helper()
	device := r.sh(`sed -n 's/.*"device_id": *"\([^"]*\)".*/\1/p' /run/warder/status.json`)
	like := subject // a pattern, where it looks like one
	if !strings.Contains(subject, "]*") && !strings.Contains(subject, ".*") {
		like = regexp.QuoteMeta(subject)
	}
	r.until("the server knows: "+kind+" "+subject, "/devices/"+device+"/events?page_size=1000", `"kind":"`+kind+`"`, like)
}

func (r *rig) status() map[string]any {
	r.t.Helper()
	res := r.try("warder status --json")
	var s map[string]any
	if err := json.Unmarshal([]byte(res.Out), &s); err != nil {
		r.t.Fatalf("%v: %s %s", err, res.Out, res.Err)
	}
	return s
}

// except grants the laptop an exception for an hour; what is returned ends it.
func (r *rig) except(section, subject string) (end func()) {
	r.t.Helper()
	var x struct{ ID string }
	out := r.curl("POST", "/devices/"+r.device()+"/exceptions", `{"section":"`+section+`","subject":"`+subject+`","minutes":60,"reason":"a test"}`)
	if err := json.Unmarshal([]byte(out), &x); err != nil || x.ID == "" {
		r.fatal("%s: %v", out, err)
	}
	return func() { r.t.Helper(); r.curl("DELETE", "/devices/"+r.device()+"/exceptions/"+x.ID, "") }
}

// code grants one by a code.
func (r *rig) code(section, subject string) string {
	r.t.Helper()
	var x struct{ Code string }
	out := r.curl("POST", "/devices/"+r.device()+"/exceptions", `{"section":"`+section+`","subject":"`+subject+`","minutes":60,"reason":"a test","offline":true}`)
	if err := json.Unmarshal([]byte(out), &x); err != nil || x.Code == "" {
		r.fatal("%s: %v", out, err)
	}
	return x.Code
}

// device is the laptop's own id.
func (r *rig) device() string {
	r.t.Helper()
	return strings.TrimSpace(r.sh(`warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p'`))
}

// finding returns one finding of the status as "compliance/enforcement: reason".
func (r *rig) finding(setting string) string {
	r.t.Helper()
	list, _ := r.status()["findings"].([]any)
	for _, f := range list {
		m, _ := f.(map[string]any)
		if m["setting"] == setting {
			return fmt.Sprintf("%v/%v: %v", m["compliance"], m["enforcement"], m["reason"])
		}
	}
	return "none"
}

// defaults reads every default of the kernel, one per line.
func (r *rig) defaults() string {
	r.t.Helper()
	return r.sh("cd /sys/bus/usb/devices; for h in usb*; do echo $h $(cat $h/authorized_default); done; echo param $(cat " +
		"/sys/module/usbcore/parameters/authorized_default)")
}

func contains(t *testing.T, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("got %q, want something with %q", got, want)
	}
}
