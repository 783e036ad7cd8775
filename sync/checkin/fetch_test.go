package checkin

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Only the server itself is reached: a portal that answers in its place, over TLS and with a redirect, is not.
func TestReached(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	server := httptest.NewTLSServer(ok)
	defer server.Close()
	portal := httptest.NewUnstartedServer(http.RedirectHandler("https://login.hotel.example/", http.StatusFound))
	portal.StartTLS()
	defer portal.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for name, x := range map[string]struct {
		url, ca string
		reached bool
	}{
		"the server":                     {server.URL, ca, true},
		"a certificate of somebody else": {server.URL, "", false},
		"a redirect":                     {portal.URL, ca, false}, // httptest's servers have one certificate
		"nobody":                         {"https://127.0.0.1:1", ca, false},
	} {
		c, err := NewClient(Server{URL: x.url, CA: x.ca}, "device-1", nil, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Reached(context.Background(), (&net.Dialer{Timeout: 5 * time.Second}).DialContext); (err == nil) != x.reached {
			t.Errorf("%s: %v", name, err)
		}
	}
}
