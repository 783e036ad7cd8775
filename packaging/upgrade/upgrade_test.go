//go:build linux

package upgrade

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server"
)

// unpack unpacks a version's fixture into a directory, and returns when it was made.
func unpack(t *testing.T, version string) (dir string, made time.Time) {
	t.Helper()
	f, err := os.Open("testdata/" + version + ".tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		to := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.LimitReader(r, 16<<20))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, h.FileInfo().Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	at, err := os.ReadFile(dir + "/made_at")
	if err != nil {
		t.Fatal(err)
	}
	if made, err = time.Parse(time.RFC3339, strings.TrimSpace(string(at))); err != nil {
		t.Fatal(err)
	}
	return dir, made
}

// machine is a machine as an earlier version left it.
type machine struct {
	t    *testing.T
	dir  string
	made time.Time
	api  *localapi.Client
	// network says that this test's network is the machine's.
	network bool
}

// away is a server that cannot be reached, as after an upgrade on the road.
type away struct{}

func (away) Exchange(context.Context, protocol.Report) (protocol.Answer, error) {
	return protocol.Answer{}, errors.New("cannot reach the server")
}

func (m *machine) start() (stop func()) {
	m.t.Helper()
	begun := time.Now()
	ready := make(chan struct{})
	// A minute after the fixture was made: its exceptions are current.
	now := func() time.Time { return time.Now().Add(m.made.Add(time.Minute).Sub(begun)) }
	a, err := agent.New(agent.Options{Paths: paths.Under(m.dir + "/agent"), Version: "new", SysRoot: m.dir + "/sys",
		Inputs: m.dir + "/none", Boot: "boot1", Machine: "m1", Network: m.network,
		Now: now, Seat: func() []uint32 { return nil }, Tell: func(string, []uint32) []notify.Told { return nil },
		Source: func(*identity.Device) (agent.Source, error) { return away{}, nil },
		Ready:  func() { close(ready) }})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		m.t.Fatal(err)
	case <-time.After(30 * time.Second):
		m.t.Fatal("the agent does not come up")
	}
	m.api = localapi.NewClient(m.dir + "/agent/run/warder.sock")
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-done, a.Close()); err != nil {
			m.t.Error(err)
		}
	}
	m.t.Cleanup(stop)
	return stop
}

func (m *machine) status() agent.Status {
	m.t.Helper()
	var s agent.Status
	if err := m.api.Do(context.Background(), "GET", "/v1/status", nil, &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

// reads returns the machine's state: the parameter, the root hub's default, the two sticks.
func (m *machine) reads() string {
	var out []string
	for _, f := range []string{"module/usbcore/parameters/authorized_default", "bus/usb/devices/usb1/authorized_default",
		"bus/usb/devices/1-1/authorized", "bus/usb/devices/1-2/authorized"} {
		b, _ := os.ReadFile(m.dir + "/sys/" + f)
		out = append(out, strings.TrimSpace(string(b)))
	}
	return strings.Join(out, " ")
}

// watch repeatedly looks at what must stay closed until it is told to stop; it returns how often it was open.
func (m *machine) watch() (stop func() int64) {
	var open atomic.Int64
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			if f := strings.Fields(m.reads()); len(f) == 4 && (f[0] != "0" || f[1] != "0" || f[3] != "0") {
				open.Add(1)
			}
		}
	}()
	return func() int64 { close(quit); <-done; return open.Load() }
}

const (
	shut     = "0 0 1 0" // the first stick is the exception
	baseline = "-1 1 1 1"
)

// TestAgent: the present version takes over what 0.2.0 left in enforce, and under a hold.
func TestAgent(t *testing.T) {
	t.Run("enforce", func(t *testing.T) {
		dir, made := unpack(t, "0.2.0")
		m := &machine{t: t, dir: dir + "/enforce", made: made}
		events := m.events()
		if got := m.reads(); got != shut {
			t.Fatalf("the fixture reads %q", got)
		}
		watched := m.watch()
		stop := m.start()
		s := m.status()
		if s.Policy == nil || s.Policy.Version != 2 || s.Policy.State != "active" || !s.Enrolled || s.Hold != nil {
			t.Errorf("the policy is %+v", s.Policy)
		}
		if len(s.Exceptions) != 2 || s.Exceptions[0].Section != "usb" || !strings.HasPrefix(s.Exceptions[0].Subject, "46f4:0001") ||
			s.Exceptions[0].Until.Before(made.Add(29*24*time.Hour)) {
			t.Errorf("the exceptions are %+v", s.Exceptions)
		}
		for _, h := range s.Health {
			if h.Code != "server-away" {
				t.Errorf("it complains: %s: %s", h.Code, h)
			}
		}
		if got := m.reads(); got != shut {
			t.Errorf("under the new version it reads %q", got)
		}
		if n := watched(); n != 0 {
			t.Errorf("%d times on the way it was open", n)
		}
		if now := m.events(); len(now) < len(events) || now[0].Seq != events[0].Seq {
			t.Errorf("%d events were stored, %d are left", len(events), len(now))
		}
		// What 0.2.0 changed is given back exactly: for a hold, and after it was closed again.
		if err := m.api.Do(context.Background(), "POST", "/v1/hold", agent.HoldRequest{Reason: "test"}, nil); err != nil {
			t.Fatal(err)
		}
		if got := m.reads(); got != baseline {
			t.Errorf("after a revert it reads %q, want %q", got, baseline)
		}
		if err := m.api.Do(context.Background(), "DELETE", "/v1/hold", nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := m.reads(); got != shut {
			t.Errorf("after the hold it reads %q", got)
		}
		stop()
		if got := m.reads(); got != baseline {
			t.Errorf("after the agent's end it reads %q, want %q", got, baseline)
		}
	})
	t.Run("held", func(t *testing.T) {
		dir, made := unpack(t, "0.2.0")
		m := &machine{t: t, dir: dir + "/held", made: made}
		m.start()
		s := m.status()
		if s.Hold == nil || s.Hold.Reason != "ticket 4711" || len(s.Exceptions) != 2 {
			t.Errorf("the hold is %+v, with %d exceptions", s.Hold, len(s.Exceptions))
		}
		if got := m.reads(); got != baseline {
			t.Errorf("under the hold it reads %q", got)
		}
		if err := m.api.Do(context.Background(), "DELETE", "/v1/hold", nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := m.reads(); got != shut {
			t.Errorf("after the hold it reads %q", got)
		}
	})
}

// What 0.2.0 had stored of VPNs and did not carry out (network.vpn_required, in enforce) is carried out by the present version, and shuts
// nobody out: without a VPN everything is open, and while one is up nothing goes past it.
func TestAgentVPN(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	o.Web(platformtest.Other4 + ":443")
	w := platformtest.NewWireGuard(t, o, "wg0")
	dir, made := unpack(t, "0.2.0")
	m := &machine{t: t, dir: dir + "/enforce", made: made, network: true}
	stop := m.start()
	says := func(want string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			for _, f := range m.status().Findings {
				if f.Setting == "network.vpn_required" {
					got = string(f.Compliance) + ": " + f.Reason
				}
			}
			if strings.HasPrefix(got, want) {
				return
			}
		}
		t.Errorf("%q, wanted %q", got, want)
	}
	connects := func() string {
		c, err := net.DialTimeout("tcp", platformtest.Other4+":443", 5*time.Second)
		if err != nil {
			return err.Error()
		}
		_ = c.Close()
		return "ok"
	}
	says("noncompliant: no VPN is up")
	if got := connects(); got != "ok" {
		t.Errorf("without a VPN: %s", got)
	}
	w.Bare(platformtest.Router4 + ":51820")
	for _, half := range []string{"0.0.0.0/1", "128.0.0.0/1"} { // the server's own network stays beside it
		if out, err := exec.Command("ip", "route", "add", half, "dev", "wg0").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	w.Shake()
	says("compliant: packets leave through wg0 (wireguard) alone")
	past := exec.Command("curl", "-m5", "-s", "-o", os.DevNull, "--interface", "eth0", "http://"+platformtest.Other4+":443")
	if _ = past.Run(); past.ProcessState.ExitCode() != 7 {
		t.Errorf("past the VPN: curl ends with %d, wanted 7: refused", past.ProcessState.ExitCode())
	}
	stop()
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("after the agent's end: %v %s", err, out)
	}
}

func (m *machine) events() []enforce.Event {
	m.t.Helper()
	s, err := store.Open(m.dir+"/agent/store.db", m.dir+"/agent/run")
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.Close()
	list, err := s.Events(0, -1000)
	if err != nil || len(list) == 0 {
		m.t.Fatalf("%d events, %v", len(list), err)
	}
	return list
}

// TestServer: the present version accepts 0.2.0's data directory, and its backup.
func TestServer(t *testing.T) {
	dir, _ := unpack(t, "0.2.0")
	restored := t.TempDir()
	if err := server.Restore(context.Background(), restored, "", dir+"/backup.tar.gz"); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"data directory": dir + "/server", "backup": restored} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			ready, done := make(chan string, 1), make(chan error, 1)
			go func() {
				done <- server.Serve(ctx, server.Options{Data: data, Listen: "127.0.0.1:0", HTTP: true, Interval: time.Minute,
					Log: slog.New(slog.DiscardHandler), Ready: func(u string) { ready <- u }})
			}()
			defer func() { cancel(); <-done }()
			var url string
			select {
			case url = <-ready:
			case err := <-done:
				done <- nil
				t.Fatal(err)
			}
			keys, err := server.LoadKeys(data)
			if err != nil {
				t.Fatal(err)
			}
			token, err := keys.AdminToken("ann", "admin", time.Hour, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			get := func(path string) string {
				t.Helper()
				req, _ := http.NewRequest("GET", url+"/api/v1"+path, nil)
				req.Header.Set("Authorization", "Bearer "+token)
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				b, _ := io.ReadAll(res.Body)
				if res.StatusCode != http.StatusOK {
					t.Fatalf("%s: %d %s", path, res.StatusCode, b)
				}
				return string(b)
			}
			if p := get("/policies"); !strings.Contains(p, `"Second"`) {
				t.Errorf("the policies are %s", p)
			}
			var devices struct {
				Data []struct {
					ID string `json:"id"`
				} `json:"data"`
			}
			if err := json.Unmarshal([]byte(get("/devices")), &devices); err != nil || len(devices.Data) != 1 {
				t.Fatalf("%+v %v", devices, err)
			}
			id := devices.Data[0].ID
			// It has not been heard of since: whatever it reported then, it is not compliant now.
			if got := get("/devices/" + id); !strings.Contains(got, `"compliance":"unknown"`) ||
				!strings.Contains(got, `"compliance_reason":"last seen `) {
				t.Errorf("how it stands: %s", got)
			}
			for path, want := range map[string]string{"/devices/" + id + "/events": "46f4:0001",
				"/devices/" + id + "/exceptions": "46f4:0001:SN1", "/policies/policy-default/history": `"version":2`,
				"/audit": "exception.granted"} {
				if got := get(path); !strings.Contains(got, want) {
					t.Errorf("%s has no %s: %s", path, want, got)
				}
			}
		})
	}
}
