//go:build linux

package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/seat"
	"github.com/warderd/warder/platform/service"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server"
)

// lab is a real server, a real agent and a sysfs of files.
type lab struct {
	network       bool // the network of this process is governed, too
	t             *testing.T
	sys, url, dir string
	token         string
	pin           string
	skew          time.Duration // added to the agent's clock
	source        func(*identity.Device) (Source, error)
	reach         func(ctx context.Context, server, proxy string, exempt bool) error
	sections      []section.Section
	capabilities  []func(platform.Host) platform.Capability
	boot          string
	ready         func() // called by the agent, before the loop
	ending        service.Ending
	seat          atomic.Pointer[[]uint32]
	client        *http.Client
	agent         *Agent
	api           *localapi.Client
	stop          func()
	machine       string
	options       server.Options
	down          func() // the server
	logins        func() []seat.Login
}

// write replaces a file in one step, as the kernel's files change: a look at the machine must never see half of it.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

const storageDescriptors = "\x12\x01\x00\x02\x00\x00\x00\x40\xf4\x46\x01\x00\x00\x00\x01\x02\x03\x01" +
	"\x09\x02\x20\x00\x01\x01\x00\xc0\x00\x09\x04\x00\x00\x02\x08\x06\x50\x00\x07\x05\x81\x02\x40\x00\x00\x07\x05\x02\x02\x40\x00\x00"

func newLab(t *testing.T) *lab { return labWith(t, server.Options{HTTP: true}) }

// newTLSLab is a lab whose server has a certificate of its own authority, as real servers have.
func newTLSLab(t *testing.T) *lab { return labWith(t, server.Options{}) }

func labWith(t *testing.T, o server.Options) *lab {
	l := &lab{t: t, boot: "boot1", sys: t.TempDir(), dir: t.TempDir(), client: http.DefaultClient}
	l.sits()
	l.logins = func() []seat.Login { return nil }
	write(t, l.sys+"/module/usbcore/parameters/authorized_default", "-1\n")
	write(t, l.sys+"/bus/usb/devices/usb1/authorized_default", "1\n")
	write(t, l.sys+"/bus/usb/devices/usb1/authorized", "1\n")
	write(t, l.sys+"/bus/usb/devices/usb1/devnum", "1\n")
	write(t, l.sys+"/bus/usb/devices/usb1/descriptors",
		"\x12\x01\x00\x02\x09\x00\x00\x40\x6b\x1d\x02\x00\x00\x00\x01\x02\x03\x01\x09\x02\x19\x00\x01\x01\x00\xe0\x00\x09\x04\x00\x00\x01\x09\x00\x00\x00\x07\x05\x81\x03\x04\x00\x0c")
	l.plug("1-1", 2)
	write(t, l.dir+"/proc/self/mountinfo", "25 1 254:1 / / rw,noatime - ext4 /dev/vda1 rw\n")
	write(t, l.dir+"/inputs",
		"I: Bus=0011 Vendor=0001 Product=0001 Version=ab41\nS: Sysfs=/devices/platform/i8042/serio0/input/input0\nB: EV=120013\nB: "+
			"KEY=402000002 3803078f800d001 feffffdfffefffff fffffffffffffffe\n\n")

	data := l.dir + "/server"
	o.Data, o.Listen, o.Interval, o.Log = data, "127.0.0.1:0", time.Minute, slog.New(slog.DiscardHandler)
	l.options = o
	l.serve()
	t.Cleanup(func() { l.down() })
	keys, err := server.LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	l.token, _ = keys.AdminToken("ann", "admin", time.Hour, time.Now())
	if !o.HTTP {
		ca, err := keys.CA(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		l.pin = ca.Fingerprint()
		// the administrator's connection, which is not under test
		l.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		t.Cleanup(l.client.CloseIdleConnections)
	}
	return l
}

// serve starts the server, where it was before if it was running before.
func (l *lab) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	o := l.options
	o.Ready = func(u string) { ready <- u }
	if u, err := url.Parse(l.url); err == nil && u.Host != "" {
		o.Listen = u.Host
	}
	go func() { done <- server.Serve(ctx, o) }()
	select {
	case l.url = <-ready:
	case err := <-done:
		l.t.Fatal(err)
	}
	l.down = sync.OnceFunc(func() { cancel(); <-done })
}

// sits sets who is at the machine from now on.
func (l *lab) sits(users ...uint32) { l.seat.Store(&users) }

func (l *lab) plug(name string, number int) {
	dir := l.sys + "/bus/usb/devices/" + name
	write(l.t, dir+"/descriptors", storageDescriptors)
	write(l.t, dir+"/devnum", fmt.Sprintf("%d\n", number))
	write(l.t, dir+"/authorized", "1\n")
	write(l.t, dir+"/serial", "SN1\n")
}

func (l *lab) start() {
	l.t.Helper()
	skew := l.skew
	a, err := New(Options{Paths: paths.Under(l.dir + "/agent"), Version: "test", SysRoot: l.sys, ProcRoot: l.dir + "/proc",
		Inputs: l.dir + "/inputs", Boot: l.boot,
		Machine: cmp.Or(l.machine, "m1"), Tell: func(string, []uint32) []notify.Told { return nil }, Logins: l.logins,
		Seat: func() []uint32 { return *l.seat.Load() }, Random: func() float64 { return 0 }, Source: l.source, Reach: l.reach,
		Sections: l.sections, Capabilities: l.capabilities, Network: l.network,
		Ending: func(context.Context) service.Ending { return l.ending }, Linger: 10 * time.Millisecond,
		Now: func() time.Time { return time.Now().Add(skew) }})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	l.agent = a
	a.o.Ready = func() {
		if l.ready != nil {
			l.ready()
		}
		close(ready)
	}
	go func() { done <- a.Run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		l.t.Fatal(err)
	}
	l.api = localapi.NewClient(a.o.Paths.Socket())
	l.stop = func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
		if err := a.Close(); err != nil {
			l.t.Error(err)
		}
		l.stop = func() {}
	}
	l.t.Cleanup(func() { l.stop() })
}

func (l *lab) enroll() {
	l.t.Helper()
	token := l.admin("POST", "/enrollments", `{}`)["token"].(string)
	if err := l.api.Do(context.Background(), "POST", "/v1/enroll", Enrollment{Server: l.url, Token: secret.Text(token), CAPin: l.pin},
		nil); err != nil {
		l.t.Fatal(err)
	}
	l.until("a policy is in force", func(s Status) bool { return s.Policy != nil && s.Policy.State == "active" })
}

func (l *lab) admin(method, path, body string) map[string]any {
	l.t.Helper()
	req, _ := http.NewRequest(method, l.url+"/api/v1"+path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+l.token)
	res, err := l.client.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil || res.StatusCode/100 != 2 {
		l.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, b)
	}
	return out
}

func (l *lab) status() Status {
	l.t.Helper()
	var s Status
	if err := l.api.Do(context.Background(), "GET", "/v1/status", nil, &s); err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) until(what string, ok func(Status) bool) Status {
	l.t.Helper()
	var s Status
	for range 3000 { // a failed check-in is repeated after seconds
		if s = l.status(); ok(s) {
			return s
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("%s: it did not come: %s", what, encode(s))
	return s
}

func (l *lab) reads(hub, device string) {
	l.t.Helper()
	got := firstLine(l.sys+"/bus/usb/devices/usb1/authorized_default") + " " + firstLine(l.sys+"/bus/usb/devices/1-1/authorized")
	if got != hub+" "+device {
		l.t.Errorf("the machine reads %q, want %q", got, hub+" "+device)
	}
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// said is what a status says is wrong.
func said(s Status) string {
	var out []string
	for _, p := range s.Health {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

func aboutUSB(subject string) ExplainRequest {
	return ExplainRequest{Section: "usb", Subject: json.RawMessage(subject)}
}

func version(v int) func(Status) bool {
	return func(s Status) bool { return s.Policy != nil && s.Policy.Version == v && s.Policy.State == "active" }
}

// One policy from enrollment on, and everything that takes it back.
func TestTour(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	if s := l.status(); s.Enrolled || s.Exit() != ExitNotEnrolled || len(s.Health) != 0 {
		t.Errorf("not enrolled is a quiet state of its own: %s", encode(s))
	}
	l.enroll()
	l.reads("1", "1")
	if s := l.status(); s.Writes.Passed != 0 {
		t.Errorf("monitor mode wrote: %+v", s.Writes)
	}

	const deny = `{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"]},"storage":{},` +
		`"network":{"vpn_required":true},"dlp":{}}}`
	l.admin("PUT", "/policies/policy-default", deny)
	s := l.until("enforced", version(2))
	l.reads("0", "0")
	if s.Rollup.Compliance != enforce.Unverified || s.Rollup.Unsupported != 1 || s.Exit() != ExitDegraded {
		t.Errorf("%s", encode(s))
	}
	var events []enforce.Event
	if err := l.api.Do(context.Background(), "GET", "/v1/events", nil, &events); err != nil || len(events) == 0 {
		t.Fatal(events, err)
	}
	e := events[len(events)-1]
	if e.Kind != enforce.Denied || !e.Done.Is("0") || !strings.Contains(e.Reason, "mass_storage is not in") ||
		!strings.Contains(e.Reason, `add "46f4:0001:SN1"`) {
		t.Errorf("%+v", e)
	}
	l.until("the server has it", func(s Status) bool { return s.CheckIn.Backlog == 0 })
	if data := l.admin("GET", "/devices/"+s.DeviceID+"/events", "")["data"].([]any); len(data) != len(events) {
		t.Errorf("%d events on the server, %d here", len(data), len(events))
	}

	// A restart leaves nothing open, and returns to the same state.
	l.stop()
	l.reads("1", "1")
	l.start()
	l.reads("0", "0")
	l.until("the same policy", version(2))

	// A hold gives back, persists, and ends.
	if err := l.api.Do(context.Background(), "POST", "/v1/hold", HoldRequest{Reason: "ticket"}, nil); err != nil {
		t.Fatal(err)
	}
	l.reads("1", "1")
	l.stop()
	l.start()
	l.reads("1", "1")
	if s := l.status(); s.Hold == nil || s.Hold.Reason != "ticket" || s.Exit() != ExitDegraded {
		t.Errorf("%s", encode(s))
	}
	if err := l.api.Do(context.Background(), "DELETE", "/v1/hold", nil, nil); err != nil {
		t.Fatal(err)
	}
	l.reads("0", "0")

	// Drift is repaired and journalled at the next look, and the server hears of it.
	write(t, l.sys+"/bus/usb/devices/usb1/authorized_default", "1\n")
	if err := l.agent.call(context.Background(), l.agent.look); err != nil {
		t.Fatal(err)
	}
	l.reads("0", "0")
	drifted := func(e enforce.Event) bool {
		return e.Kind == "drift" && e.Subject == "usb.default/usb1" && e.Setting == "usb.allowed_classes" && e.Done.Is("0") &&
			strings.Contains(e.Reason, "another program changed it from 0 to 1; it was set back and reads 0")
	}
	if list, err := l.agent.store.Events(0, -100); err != nil || !slices.ContainsFunc(list, drifted) {
		t.Errorf("the repair is not journalled: %v %+v", err, list)
	}
	l.until("the server hears of it", func(Status) bool {
		b, _ := json.Marshal(l.admin("GET", "/devices/"+s.DeviceID+"/events", ""))
		return strings.Contains(string(b), `"kind":"drift"`)
	})

	// A document that cannot be used leaves the last good one in force, and both sides say so. (The server would not
	// send it, so it is signed here.)
	keys, err := server.LoadKeys(l.dir + "/server")
	if err != nil {
		t.Fatal(err)
	}
	l.in(func(a *Agent) {
		now := time.Now().UTC()
		bad, err := protocol.SignAssignment(keys.Signing(),
			protocol.Assignment{DeviceID: s.DeviceID, Serial: a.custody.state.Highest + 1, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
				Policy: json.RawMessage(`{"id":"bad","name":"Bad","version":9,"active":true,"policy_data":{"usb":{"allowed":"perhaps"}}}`)})
		if err != nil {
			t.Error(err)
		}
		a.take(bad)
		if a.custody.doc.Version != 2 || a.custody.state.Highest >= a.custody.state.Policy.Serial+1 {
			t.Errorf("a bad document is in force: %+v", a.custody.doc)
		}
		a.checkIn()
	})
	l.reads("0", "0")
	if s := l.status(); !strings.Contains(said(s), "usb.allowed must be a boolean") || s.Policy.Version != 2 {
		t.Errorf("%s", encode(s))
	}
	l.until("the server knows that it was refused", func(Status) bool {
		b, _ := json.Marshal(l.admin("GET", "/devices/"+s.DeviceID, ""))
		return strings.Contains(string(b), "usb.allowed must be a boolean")
	})
	l.admin("PUT", "/policies/policy-default", strings.Replace(deny, "enforce", "monitor", 1))
	l.until("monitor gives everything back", version(3))
	l.reads("1", "1")

	// Retired: given back, and the enrollment forgotten.
	l.admin("PUT", "/policies/policy-default", deny)
	l.until("enforced", version(4))
	l.reads("0", "0")
	l.admin("DELETE", "/devices/"+s.DeviceID, "")
	l.until("released", func(s Status) bool { return !s.Enrolled })
	l.reads("1", "1")
	l.stop()
}

// After agent and server stop, no goroutine is left.
func TestStops(t *testing.T) {
	before := goleak.IgnoreCurrent()
	l := newLab(t)
	l.start()
	l.enroll()
	l.until("connected", func(s Status) bool { return s.CheckIn.Push })
	l.stop()
	l.down()
	http.DefaultClient.CloseIdleConnections()
	// The library that counts failed callers has a goroutine that never ends (expirable.LRU has no Close).
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/hashicorp/golang-lru/v2/expirable.NewLRU[...].func1"))
}

// Mass enrollment by a dropped file, and a configuration that changes while it runs.
func TestDroppedFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	token := l.admin("POST", "/enrollments", `{"uses":5}`)["token"].(string)
	var err error
	p := paths.Under(l.dir + "/agent")
	write(t, p.EnrollmentFile(), fmt.Sprintf("server = %q\ntoken = %q\n", l.url, token))
	l.until("enrolled", func(s Status) bool { return s.Enrolled })
	for range 3000 {
		if _, err = os.Stat(p.EnrollmentFile()); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		t.Error("the file with the token is left")
	}
	write(t, p.ConfigFile(), "log_level = \"loud\"\n")
	l.until("said", func(s Status) bool { return strings.Contains(said(s), `received "loud"`) })
	write(t, p.ConfigFile(), "log_level = \"debug\"\n")
	l.until("mended", func(s Status) bool { return len(s.Health) == 0 })
	write(t, p.ConfigFile(), "sever = \"x\"\n")
	l.until("said", func(s Status) bool { return strings.Contains(said(s), `unknown setting "sever"`) })
}

// An ordinary user may ask, but is not shown what monitor mode saw.
func TestWhatUsersSee(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default",
		`{"compliance":"monitor","policy_data":{"usb":{"allowed":false},"storage":{},"network":{},"dlp":{}}}`)
	l.until("monitored", version(2))
	if s := l.agent.status(anybody); len(s.Findings) != 0 || s.Hidden != 1 {
		t.Errorf("%s", encode(s.Findings))
	}
	if s := l.agent.status(everything); len(s.Findings) != 1 || s.Findings[0].Compliance != enforce.Noncompliant {
		t.Errorf("%s", encode(s.Findings))
	}
	x, err := l.agent.explain(context.Background(), caller{UID: "1000"}, aboutUSB(`{"vendor":1,"product":1,"classes":[8]}`))
	if err != nil || x.Answer.Answer != "allow" {
		t.Errorf("%+v %v", x, err)
	}
	flat, err := FlatStatus(l.agent.o.Paths)
	if err != nil || len(flat.Findings) != 0 {
		t.Errorf("the flat state shows %v %v", flat.Findings, err)
	}
}

func mustURL(raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	return u
}
