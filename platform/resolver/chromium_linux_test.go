package resolver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/platform/platformtest"
)

// Debian's Chromium with DNS over HTTPS on, at a resolver that is known: it shows a page without Warder, having looked the name
// up over HTTPS alone, and does not show it with the name blocked, whether it insists on HTTPS or not.
func TestChromium(t *testing.T) {
	if _, err := exec.LookPath("chromium"); err != nil {
		platformtest.Cannot(t, "chromium is not installed")
	}
	if !platformtest.InNetwork(t) {
		return
	}
	l := newLaptop(t)
	const google, page = "8.8.8.8", "the page of a blocked name"
	if out, err := l.Outside.Run("ip", "addr", "add", google+"/32", "dev", "lo"); err != nil {
		t.Fatal(out, err)
	}
	web, err := l.Listen(net.JoinHostPort(platformtest.Other4, "80"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) })) //nolint:gosec // a test's
	}()
	var over atomic.Int32 // questions over HTTPS
	secure, err := l.Listen(net.JoinHostPort(google, "443"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: overHTTPS(&over), TLSConfig: &tls.Config{Certificates: []tls.Certificate{selfSigned(t, google)}}, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.ServeTLS(secure, "", "") }()
	t.Cleanup(func() { _ = s.Close(); _ = web.Close() })

	// Its managed policy is where organizations turn DNS over HTTPS on; the mount is this test's own.
	const managed = "/etc/chromium/policies/managed"
	if err := os.MkdirAll(managed, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", managed).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	t.Cleanup(func() { _ = exec.Command("umount", managed).Run() })
	shows := func(mode string) string {
		if err := os.WriteFile(managed+"/doh.json", []byte(`{"DnsOverHttpsMode":"`+mode+`","DnsOverHttpsTemplates":"https://`+google+`/dns-query"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		home := t.TempDir()
		cmd := exec.CommandContext(ctx, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--disable-background-networking", "--ignore-certificate-errors", "--user-data-dir="+home, "--dump-dom", "http://www.blocked.example/")
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home)
		cmd.WaitDelay = 5 * time.Second
		var said bytes.Buffer
		cmd.Stderr = &said
		out, _ := cmd.Output() // an error page is no error of the program
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "Page load failed: net::ERR_") { // instead of an error page, since version 156 or so
				return string(out) + line
			}
		}
		return string(out)
	}
	l.Asked()
	if out := shows("secure"); !strings.Contains(out, page) || over.Load() == 0 {
		t.Fatalf("without Warder it shows %.500q, after %d questions over HTTPS", out, over.Load())
	}
	if asked := strings.Join(l.Asked(), "; "); strings.Contains(asked, "www.blocked.example ") {
		t.Fatalf("it asks without HTTPS, too: %s", asked)
	}
	l.load(blockList)
	for _, mode := range []string{"secure", "automatic"} {
		over.Store(0)
		out := shows(mode)
		if strings.Contains(out, page) || over.Load() != 0 || out == "" {
			t.Errorf("%s: it shows %.500q, after %d questions over HTTPS", mode, out, over.Load())
		}
		if asked := strings.Join(l.Asked(), "; "); strings.Contains(asked, "www.blocked.example ") {
			t.Errorf("%s: the question left the machine: %s", mode, asked)
		}
	}
}

// overHTTPS is a resolver for DNS over HTTPS (RFC 8484) that knows one address for everything.
func overHTTPS(count *atomic.Int32) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b []byte
		if r.Method == http.MethodGet {
			b, _ = base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
		} else {
			b, _ = io.ReadAll(io.LimitReader(r.Body, 4096))
		}
		q, a := new(dns.Msg), new(dns.Msg)
		if q.Unpack(b) != nil || len(q.Question) != 1 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		count.Add(1)
		a.SetReply(q)
		a.RecursionAvailable = true
		if q.Question[0].Qtype == dns.TypeA {
			a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A: net.ParseIP(platformtest.Other4)}}
		}
		out, err := a.Pack()
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/dns-message")
		_, _ = w.Write(out)
	})
}

func selfSigned(t *testing.T, addr string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(addr)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
