package link

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A server counts as reached whatever it answers, directly and through a proxy; one that is not there does not.
func TestProbe(t *testing.T) {
	for _, tls := range []bool{false, true} {
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) })
		s := httptest.NewUnstartedServer(h)
		if tls {
			s.StartTLS()
		} else {
			s.Start()
		}
		if err := Probe(context.Background(), s.URL, "", false); err != nil {
			t.Errorf("tls %v: %v", tls, err)
		}
		asked := ""
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			asked = q.Method + " " + q.Host
			if q.Method != http.MethodConnect {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			to, err := net.Dial("tcp", q.Host)
			if err != nil {
				http.Error(w, "no", http.StatusBadGateway)
				return
			}
			from, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			_, _ = io.Copy(from, to)
			_ = from.Close()
		}))
		if err := Probe(context.Background(), s.URL, proxy.URL, false); err != nil ||
			!strings.HasSuffix(asked, s.Listener.Addr().String()) {
			t.Errorf("tls %v: by the proxy: %v, which was asked %q", tls, err, asked)
		}
		s.Close()
		if err := Probe(context.Background(), s.URL, "", false); err == nil {
			t.Errorf("tls %v: a server that is gone is reached", tls)
		}
		if err := Probe(context.Background(), s.URL, proxy.URL, false); tls && err == nil {
			t.Error("a server that is gone is reached by the proxy")
		}
		proxy.Close()
	}
	for _, bad := range []string{"", "://", "x"} {
		if err := Probe(context.Background(), bad, "", false); err == nil {
			t.Errorf("%q is reached", bad)
		}
	}
}

func TestUpstreams(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	files := []string{dir + "/none", put("stub-only", "nameserver 127.0.0.1\n"),
		put("good", "# by resolved\nsearch x\nnameserver junk\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n"),
		put("later", "nameserver 192.0.2.9\n")}
	for in, want := range map[string]string{"127.0.0.53:53": "192.0.2.1:53 [fe80::1%eth0]:53",
		"127.0.0.1:53": "192.0.2.1:53 [fe80::1%eth0]:53", "[::1]:53": "192.0.2.1:53 [fe80::1%eth0]:53", "9.9.9.9:53": "9.9.9.9:53",
		"junk": "junk"} {
		if got := strings.Join(upstreamsIn(in, files), " "); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	if got := upstreamsIn("127.0.0.53:53", files[:2]); len(got) != 1 || got[0] != "127.0.0.53:53" {
		t.Error(got)
	}
}
