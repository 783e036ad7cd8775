package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// Somebody who guesses from an address locks out nobody valid at that address: not a device, also not after a restart,
// not an enrollment token, not an administrator.
func TestGuesserLocksNobodyOut(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var laptops []*laptop
		for i := range 5 {
			l := r.laptop(fmt.Sprint("l", i))
			l.sync()
			laptops = append(laptops, l)
		}
		guess := func() (refused int) {
			for i := range 400 {
				if st, _ := r.call(fmt.Sprintf("wte_JUNK%d", i), "POST", "/devices/enroll", `{"public_key":{}}`); st == 429 {
					refused++
				}
				if st, _ := r.call("x.y.z", "POST", fmt.Sprintf("/devices/device-JUNK%d/checkin", i), `{}`); st == 429 {
					refused++
				}
			}
			return refused
		}
		if n := guess(); n == 0 {
			t.Error("guessing is not slowed down at all")
		}
		token := r.ok(201, "POST", "/enrollments", `{}`)["token"].(string)
		key, _ := protocol.NewDeviceKey()
		if _, _, err := checkin.Enroll(context.Background(), checkin.Server{URL: r.url}, "", token, key,
			protocol.Host{Name: "new", OS: "linux"}, "m"); err != nil {
			t.Errorf("a valid token: %v", err)
		}
		r.stop()
		r.serve(Options{HTTP: true})
		guess()
		for _, l := range laptops {
			l.c.Server.URL = r.url
			if _, err := l.c.Exchange(context.Background(), l.rep); err != nil {
				t.Errorf("an enrolled device after a restart: %v", err)
			}
		}
		r.ok(200, "GET", "/policies", "")
	})
}

// What can never check in is refused before the token is used up, with the wrong field named.
func TestEnrollmentIsChecked(t *testing.T) {
	r := start(t, Options{HTTP: true})
	token := r.ok(201, "POST", "/enrollments", `{}`)["token"].(string)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	good, _ := protocol.NewDeviceKey()
	jwk := func(k any, alg string) string {
		b, err := json.Marshal(jose.JSONWebKey{Key: k, Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	body := func(key, host string) string { return `{"public_key":` + key + `,"device":` + host + `,"machine":"m"}` }
	const named = `{"name":"l","os":"linux"}`
	for name, c := range map[string]struct{ token, body, field string }{
		"an RSA key":               {token, body(jwk(&rsaKey.PublicKey, ""), named), "public_key"},
		"a P-384 key":              {token, body(jwk(&p384.PublicKey, ""), named), "public_key"},
		"P-256 for another":        {token, body(jwk(&p256.PublicKey, "ES384"), named), "public_key"},
		"a private key":            {token, body(jwk(p256, ""), named), "public_key"},
		"a host without a name":    {token, body(jwk(good.Public().Key, ""), `{"os":"linux"}`), "device.name"},
		"a host of blanks":         {token, body(jwk(good.Public().Key, ""), `{"name":"  ","os":"linux"}`), "device.name"},
		"an administrator's token": {r.admin, body(jwk(good.Public().Key, ""), named), "Authorization"},
	} {
		st, out := r.call(c.token, "POST", "/devices/enroll", c.body)
		if errs := fmt.Sprint(out["errors"]); st != 400 || !strings.Contains(errs, "field:"+c.field) {
			t.Errorf("%s: %d %v, want 400 about %s", name, st, out, c.field)
		}
	}
	// The token is still usable, for a key of either kind.
	if st, out := r.call(token, "POST", "/devices/enroll", body(jwk(&p256.PublicKey, ""), named)); st != 201 {
		t.Errorf("%d %v", st, out)
	}
}

// More connections than allowed: idle ones make room, so that a real request is answered; and none is counted after it
// is closed.
func TestConnectionsMakeRoom(t *testing.T) {
	for _, plain := range []bool{true, false} {
		t.Run(fmt.Sprint("http ", plain), func(t *testing.T) {
			t.Parallel()
			r := start(t, Options{HTTP: plain, MaxConns: 30})
			l := r.laptop("l")
			l.sync()
			host := strings.SplitN(r.url, "://", 2)[1]
			var idle []net.Conn
			for range 120 {
				c, err := net.Dial("tcp", host)
				if err != nil {
					t.Fatal(err)
				}
				idle = append(idle, c)
				defer c.Close()
			}
			fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 20 * time.Second}
			for range 40 {
				res, err := fresh.Get(r.url + "/healthz")
				if err != nil {
					t.Fatalf("nobody is answered beside idle connections: %v", err)
				}
				_ = res.Body.Close()
			}
			if _, err := l.c.Exchange(context.Background(), l.rep); err != nil {
				t.Error(err)
			}
			for _, c := range idle {
				_ = c.Close()
			}
			for range 100 {
				res, err := fresh.Get(r.url + "/healthz")
				if err != nil {
					t.Fatalf("connections that are closed are still counted: %v", err)
				}
				_ = res.Body.Close()
			}
		})
	}
}

// Somebody who only begins requests, or does not read the answers, keeps nobody else out.
func TestPretendersMakeRoom(t *testing.T) {
	for name, text := range map[string]string{
		"a body that does not come": "POST /api/v1/devices/enroll HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " +
			"wte_X\r\nContent-Length: 1000\r\n\r\n{",
		"refused, and no body":        "POST /api/v1/policies HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
		"answers that nobody reads":   strings.Repeat("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 200),
		"the time, and nothing after": "POST /api/v1/time HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, Options{HTTP: true, MaxConns: 30})
			host := strings.TrimPrefix(r.url, "http://")
			for range 40 {
				c, err := net.Dial("tcp", host)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = io.WriteString(c, text)
				time.Sleep(15 * time.Millisecond)
			}
			fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
			for range 20 {
				res, err := fresh.Get(r.url + "/healthz")
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
			}
		})
	}
}

// Every answer has the API's shape, whatever was asked.
func TestContract(t *testing.T) {
	for _, plain := range []bool{true, false} {
		t.Run(fmt.Sprint("http ", plain), func(t *testing.T) {
			t.Parallel()
			r := start(t, Options{HTTP: plain})
			host := strings.SplitN(r.url, "://", 2)[1]
			raw := func(text string) (*http.Response, string) {
				t.Helper()
				var c net.Conn
				var err error
				if plain {
					c, err = net.Dial("tcp", host)
				} else {
					c, err = tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true})
				}
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.WriteString(c, text); err != nil {
					t.Fatal(err)
				}
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatalf("%.80q: %v", text, err)
				}
				defer res.Body.Close()
				b, _ := io.ReadAll(res.Body)
				return res, string(b)
			}
			auth := "Host: x\r\nAuthorization: Bearer " + r.admin + "\r\n"
			for name, c := range map[string]struct {
				text   string
				status int
			}{
				"a path that cannot be read": {"GET /api/v1/policies/% HTTP/1.1\r\n" + auth + "\r\n", 400},
				"a path with dots":           {"GET /api/v1/policies/../devices HTTP/1.1\r\n" + auth + "\r\n", 404},
				"a path with two slashes":    {"GET /api/v1//devices HTTP/1.1\r\n" + auth + "\r\n", 404},
				"a path that ends with dots": {"GET /api/v1/devices/.. HTTP/1.1\r\n" + auth + "\r\n", 404},
				"no such path":               {"GET /nothing HTTP/1.1\r\n" + auth + "\r\n", 404},
				"another method":             {"DELETE /api/v1/policies HTTP/1.1\r\n" + auth + "\r\n", 405},
				"no HTTP at all":             {"nonsense\r\n\r\n", 400},
				"a star for a path":          {"GET * HTTP/1.1\r\n" + auth + "\r\n", 404},
				"an expectation": {"POST /api/v1/policies HTTP/1.1\r\n" + auth +
					"Content-Length: 2\r\nExpect: banana\r\n\r\n{}", 417},
				"headers without end": {"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 40_000) + "\r\n\r\n", 431},
				"a body that is announced as too large, and not sent": {"POST /api/v1/policies HTTP/1.1\r\n" + auth +
					"Content-Length: 9000000\r\nExpect: 100-continue\r\n\r\n", 413},
				"no token": {"GET /api/v1/policies HTTP/1.1\r\nHost: x\r\n\r\n", 401},
			} {
				res, body := raw(c.text)
				var p protocol.Problem
				if res.StatusCode != c.status || res.Header.Get("Content-Type") != "application/json" ||
					json.Unmarshal([]byte(body), &p) != nil || p.Error == nil || p.Error.Code == "" || p.Error.Message == "" {
					t.Errorf("%s: %s %q, want %d and a problem", name, res.Status, body, c.status)
				}
				if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %v", name, res.Header)
				}
			}
			res, body := raw("HEAD /api/v1/policies HTTP/1.1\r\nConnection: close\r\n" + auth + "\r\n")
			if res.StatusCode != 200 || body != "" || res.Header.Get("Content-Type") != "application/json" {
				t.Errorf("HEAD: %s %q %v", res.Status, body, res.Header)
			}
			if hsts := res.Header.Get("Strict-Transport-Security"); (hsts == "") != plain {
				t.Errorf("HSTS %q", hsts)
			}
			for _, c := range []struct{ path, body, field string }{
				{"/enrollments", `{"uses":1` + strings.Repeat("0", 5000) + `}`, "uses"},
				{"/policies", `{"name":"n","policy_data":{"storage":{"max_file_size_mb":1` + strings.Repeat("0", 5000) + `}}}`,
					"storage.max_file_size_mb"},
				{"/assignments", `{"target":{},"priority":1}`, "policy_id"},
				{"/devices/x/exceptions", `{}`, ""},
			} {
				st, out := r.call(r.admin, "POST", c.path, c.body)
				if b, _ := json.Marshal(out); st/100 != 4 || len(b) > 2000 ||
					!strings.Contains(fmt.Sprint(out["errors"]), "field:"+c.field) {
					t.Errorf("%s: %d, %d bytes: %.300s", c.path, st, len(b), b)
				}
			}
			if plain {
				return
			}
			// A plain HTTP request is told to use https, and unauthenticated cipher suites are refused.
			c, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			said, _ := io.ReadAll(c)
			if !strings.Contains(string(said), "https://") {
				t.Errorf("plain HTTP to TLS: %q", said)
			}
			if c, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
				CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}); err == nil {
				_ = c.Close()
				t.Error("a CBC suite is spoken")
			}
		})
	}
}
