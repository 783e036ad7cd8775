// Command hostile is a policy server that misbehaves on demand: a proxy before a real one, which answers check-ins as
// the file MODE says. It is only for the laptop's tests.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9443", "")
	behind := flag.String("behind", "http://127.0.0.1:8443", "")
	mode := flag.String("mode", "/tmp/hostile.mode", "")
	token := flag.String("token", "", "an enrollment token, for a second device")
	flag.Parse()
	to, err := url.Parse(*behind)
	if err != nil {
		log.Fatal(err)
	}
	h := &hostile{mode: *mode, other: otherAssignment(*behind, *token)}
	h.proxy = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, ModifyResponse: h.modify}
	log.Fatal(http.ListenAndServe(*listen, h))
}

// otherAssignment enrolls a second device and takes its signed policy.
func otherAssignment(server, token string) string {
	key, err := protocol.NewDeviceKey()
	if err != nil {
		log.Fatal(err)
	}
	s := checkin.Server{URL: server}
	out, s, err := checkin.Enroll(context.Background(), s, "", token, key, protocol.Host{Name: "other"}, "")
	if err != nil {
		log.Fatal(err)
	}
	c, err := checkin.NewClient(s, out.DeviceID, key, time.Now)
	if err != nil {
		log.Fatal(err)
	}
	a, err := c.Exchange(context.Background(), protocol.Report{Epoch: "e"})
	if err != nil || a.Assignment == "" {
		log.Fatal("no assignment for the second device: ", err)
	}
	return a.Assignment
}

type hostile struct {
	mode, other string
	proxy       *httputil.ReverseProxy
	mu          sync.Mutex
	first       string // the first assignment that passed: the oldest
}

func (h *hostile) now() string {
	b, _ := os.ReadFile(h.mode)
	return strings.TrimSpace(string(b))
}

// ServeHTTP passes a request on to the real server, or answers it in the way that MODE says.
func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/push") {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/checkin") {
		switch h.now() {
		case "garbage":
			_, _ = io.WriteString(w, "<html>Welcome to the hotel's network</html>")
			return
		case "500":
			http.Error(w, "out of order", http.StatusInternalServerError)
			return
		case "429":
			w.Header().Set("Retry-After", "777")
			http.Error(w, "slow down", http.StatusTooManyRequests)
			return
		}
	}
	h.proxy.ServeHTTP(w, r)
}

// modify changes the real server's answer in the way that MODE says.
func (h *hostile) modify(res *http.Response) error {
	if !strings.HasSuffix(res.Request.URL.Path, "/checkin") || res.StatusCode != http.StatusOK {
		return nil
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var a protocol.Answer
	if err := json.Unmarshal(b, &a); err != nil {
		return err
	}
	h.mu.Lock()
	if h.first == "" {
		h.first = a.Assignment
	}
	switch h.now() {
	case "badsig":
		p := strings.Split(h.first, ".")
		a.Assignment = p[0] + "." + p[1] + "x." + p[2]
	case "older":
		a.Assignment = h.first
	case "other":
		a.Assignment = h.other
	}
	h.mu.Unlock()
	b, _ = json.Marshal(a)
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	res.Header.Del("Content-Length")
	return nil
}
