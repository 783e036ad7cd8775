//go:build linux

package agent

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/protocol"
)

// A proxy that accepts no body above its limit does not cut a device off: a report that is too large is sent in
// several.
func TestProxyWithALimit(t *testing.T) {
	for _, limit := range []int64{1 << 20, 64 << 10, 4 << 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			u, err := url.Parse(l.url)
			if err != nil {
				t.Fatal(err)
			}
			forward := httputil.NewSingleHostReverseProxy(u)
			var strict atomic.Bool
			var refused, largest atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if strict.Load() && q.ContentLength > limit { // as nginx's client_max_body_size
					refused.Add(1)
					_, _ = io.Copy(io.Discard, q.Body)
					w.Header().Set("Content-Type", "text/html")
					w.WriteHeader(http.StatusRequestEntityTooLarge)
					_, _ = io.WriteString(w, "<html><head><title>413 Request Entity Too Large</title></head></html>")
					return
				}
				if strings.HasSuffix(q.URL.Path, "/checkin") {
					largest.Store(max(largest.Load(), q.ContentLength))
				}
				forward.ServeHTTP(w, q)
			}))
			t.Cleanup(s.Close)
			l.start()
			l.enroll()
			l.until("a check-in", func(s Status) bool { return !s.CheckIn.Last.IsZero() })
			write(t, l.dir+"/agent/config/warder.toml", "server = \""+s.URL+"\"\n")
			l.until("the proxy is used", func(Status) bool { return largest.Load() > 0 })
			strict.Store(true)
			n := 110
			if limit < 1<<20 {
				n = 24
			}
			l.in(func(a *Agent) {
				for i := range n {
					if _, err := a.store.Append(enforce.Event{At: time.Now(), Setting: "usb.allowed", Kind: enforce.Denied,
						Subject: fmt.Sprint("usb ", i), Reason: strings.Repeat("x", 8000)}); err != nil {
						t.Error(err)
					}
				}
				a.contact.sent.facts, a.contact.sent.findings = "", "" // and all the rest, too
				a.checkIn()
			})
			l.until("everything is there, or it is said what is not", func(s Status) bool {
				left, err := l.agent.store.Backlog()
				return err == nil && left == 0 || limit < 16<<10 &&
					slices.ContainsFunc(s.Health, func(p Problem) bool { return p.Code == reportCut })
			})
			if limit < 16<<10 { // the policy still arrives
				l.admin("PUT", "/policies/policy-default", denyAll)
				l.until("the newest policy", version(2))
				if d := l.admin("GET", "/devices/"+l.agent.custody.device().DeviceID, ""); !strings.Contains(fmt.Sprint(d["agent"]),
					"not reported: ") {
					t.Errorf("the server is not told: %v", d["agent"])
				}
			}
			left, _ := l.agent.store.Backlog()
			t.Logf("limit %d: %d reports refused, largest taken %d bytes, %d events left", limit, refused.Load(), largest.Load(), left)
			switch {
			case limit == 1<<20 && refused.Load() > 0:
				t.Errorf("%d reports were above the limit of nginx", refused.Load())
			case limit >= 16<<10 && (left > 0 || refused.Load() > 10):
				t.Errorf("%d of %d events were left; %d reports were refused", left, n, refused.Load())
			}
			l.in(func(a *Agent) {
				if why := a.contact.shown().Error; why != "" {
					t.Error(why)
				}
			})
		})
	}
}

// What a report contains within a limit, part by part.
func TestFit(t *testing.T) {
	now := time.Now()
	facts := func(n int) *protocol.Facts { return &protocol.Facts{Hold: strings.Repeat("f", n)} }
	findings := func(n int) *[]enforce.Finding {
		return &[]enforce.Finding{{Setting: "usb.allowed", Reason: strings.Repeat("r", n)}}
	}
	events := func(n, size int) (out []enforce.Event) {
		for i := range n {
			out = append(out, enforce.Event{Seq: uint64(i + 1), Reason: strings.Repeat("e", size)})
		}
		return out
	}
	for name, c := range map[string]struct {
		batch           batch
		r               protocol.Report
		facts, findings bool
		events          int
		more            bool
	}{
		"nothing": {r: protocol.Report{}},
		"all of it": {r: protocol.Report{Device: facts(1000), Findings: findings(1000), Events: events(5, 1000)},
			facts: true, findings: true, events: 5},
		"events by bytes":            {r: protocol.Report{Events: events(1000, 4000)}, events: 187, more: true},
		"one event that is too long": {r: protocol.Report{Events: events(2, 900<<10)}, events: 1, more: true},
		"large facts go alone":       {r: protocol.Report{Device: facts(900 << 10), Events: events(2, 10)}, facts: true, more: true},
		"large facts after findings": {r: protocol.Report{Device: facts(900 << 10), Findings: findings(100), Events: events(2, 10)},
			findings: true, events: 2, more: true},
		"what never gets through": {batch: batch{limit: 32 << 10, without: theFacts, since: now},
			r: protocol.Report{Device: facts(10), Findings: findings(10), Events: events(1, 10)}, findings: true, events: 1},
		"nothing but events": {batch: batch{limit: 32 << 10, without: theFacts | theFindings, since: now},
			r: protocol.Report{Device: facts(10), Findings: findings(10), Events: events(9, 4000)}, events: 6, more: true},
		"a limit that was learnt once": {batch: batch{limit: 32 << 10, without: theFacts | theFindings,
			since: now.Add(-batchRetryMost - 1)}, r: protocol.Report{Device: facts(10), Findings: findings(10)}, facts: true,
			findings: true},
	} {
		r, has, want := c.r, sent{facts: "old", findings: "old"}, sent{facts: "new", findings: "new"}
		r.DeviceDigest, r.FindingsDigest = "new", "new"
		c.batch.fit(&r, has, &want, now)
		if (r.Device != nil) != c.facts || (r.Findings != nil) != c.findings || len(r.Events) < c.events-3 || len(r.Events) > c.events ||
			c.batch.more != c.more {
			t.Errorf("%s: facts %v, findings %v, %d events, more %v", name, r.Device != nil, r.Findings != nil, len(r.Events), c.batch.more)
		}
		// What is left out is not marked as sent.
		if out := r.Device == nil && c.r.Device != nil; out != (r.DeviceDigest == "old") || out != (want.facts == "old") {
			t.Errorf("%s: %q %+v", name, r.DeviceDigest, want)
		}
		if out := r.Findings == nil && c.r.Findings != nil; out != (r.FindingsDigest == "old") || out != (want.findings == "old") {
			t.Errorf("%s: %q %+v", name, r.FindingsDigest, want)
		}
	}
}
