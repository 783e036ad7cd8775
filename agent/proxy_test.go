//go:build linux

package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/platform/host"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/sync/server"
)

// relay is a company's proxy: the only way out, and the only one that can resolve the server's name.
func relay(t *testing.T) (proxy string, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		asked.Add(1)
		_, port, _ := net.SplitHostPort(q.Host)
		out, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		_, _ = io.Copy(in, out)
		_ = in.Close()
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

// ticket is an enrollment token.
func (l *lab) ticket() string {
	return l.admin("POST", "/enrollments", `{"uses":9}`)["token"].(string)
}

// hidden is a lab whose server has a name that nobody but the proxy can resolve.
func hidden(t *testing.T) (l *lab, at string) {
	l = labWith(t, server.Options{Names: []string{"policy.invalid"}})
	u, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	return l, "https://policy.invalid:" + u.Port()
}

// A machine enrolls through the proxy of warder.toml also while no agent runs, with the authority pinned; and through
// that of its environment, by command or by a dropped file.
func TestEnrollThroughProxy(t *testing.T) {
	if os.Getenv("WARDER_TEST_ENROL") != "" { // the child below: the library reads its environment once
		c := strings.Split(os.Getenv("WARDER_TEST_ENROL"), " ")
		if err := EnrollOffline(context.Background(), paths.Under(c[0]),
			Enrollment{Server: c[1], Token: secret.Text(c[2]), CAPin: c[3]}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	t.Run("warder.toml", func(t *testing.T) {
		l, at := hidden(t)
		proxy, asked := relay(t)
		p := paths.Under(l.dir + "/agent")
		write(t, p.ConfigFile(), "proxy = \""+proxy+"\"\n")
		if err := EnrollOffline(context.Background(), p, Enrollment{Server: at, Token: secret.Text(l.ticket()), CAPin: l.pin}); err != nil {
			t.Fatal(err)
		}
		if asked.Load() < 2 {
			t.Errorf("the proxy was asked %d times", asked.Load())
		}
		l.machine = host.Machine()
		l.start()
		l.until("it checks in, and is nudged", func(s Status) bool { return !s.CheckIn.Last.IsZero() && s.CheckIn.Push })
	})
	t.Run("environment", func(t *testing.T) {
		l, at := hidden(t)
		proxy, asked := relay(t)
		c := exec.Command(os.Args[0], "-test.run=^TestEnrollThroughProxy$") //nolint:gosec // itself
		c.Env = append(os.Environ(), "HTTPS_PROXY="+proxy,
			"WARDER_TEST_ENROL="+strings.Join([]string{l.dir + "/agent", at, l.ticket(), l.pin}, " "))
		if out, err := c.CombinedOutput(); err != nil || asked.Load() < 2 {
			t.Fatalf("%v, the proxy was asked %d times: %s", err, asked.Load(), out)
		}
	})
	t.Run("dropped file", func(t *testing.T) {
		l, at := hidden(t)
		proxy, asked := relay(t)
		p := paths.Under(l.dir + "/agent")
		write(t, p.ConfigFile(), "proxy = \""+proxy+"\"\n")
		write(t, p.EnrollmentFile(), "server = \""+at+"\"\ntoken = \""+l.ticket()+"\"\nca_pin = \""+l.pin+"\"\n")
		l.start()
		l.until("it is enrolled", func(s Status) bool { return s.Enrolled && !s.CheckIn.Last.IsZero() && s.CheckIn.Push })
		if asked.Load() < 2 {
			t.Errorf("the proxy was asked %d times", asked.Load())
		}
	})
	t.Run("another authority", func(t *testing.T) {
		l, at := hidden(t)
		proxy, _ := relay(t)
		p := paths.Under(l.dir + "/agent")
		write(t, p.ConfigFile(), "proxy = \""+proxy+"\"\n")
		err := EnrollOffline(context.Background(), p, Enrollment{Server: at, Token: secret.Text(l.ticket()),
			CAPin: "sha256:" + strings.Repeat("0", 64)})
		if err == nil || !strings.Contains(err.Error(), "no certificate authority with the pinned fingerprint") {
			t.Error(err)
		}
	})
}

// A server's address may be written in capitals, and still works everywhere, also for the push socket.
func TestServerInCapitals(t *testing.T) {
	t.Parallel()
	l := newTLSLab(t)
	l.start()
	at := strings.Replace(strings.Replace(l.url, "https://", "HTTPS://", 1), "127.0.0.1", "LOCALHOST", 1) + "/"
	if err := l.agent.enroll(context.Background(), Enrollment{Server: at, Token: secret.Text(l.ticket()), CAPin: l.pin}); err != nil {
		t.Fatal(err)
	}
	l.until("push is up", func(s Status) bool { return !s.CheckIn.Last.IsZero() && s.CheckIn.Push })
	// As version 0.5 stored it.
	l.stop()
	l.start()
	l.in(func(a *Agent) {
		d := *a.custody.device()
		d.Server = at
		a.custody.mu.Lock()
		a.custody.state.Device = &d
		a.custody.mu.Unlock()
		a.connect()
		a.checkIn()
	})
	l.until("push is up with what was stored before", func(s Status) bool { return s.CheckIn.Push })
}
