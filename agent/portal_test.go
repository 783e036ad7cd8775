//go:build linux

package agent

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
)

// The way to a captive portal: closed while the server can be reached, open for names that no entry covers and for nothing
// that is blocked, closed when the server is reached, and three times a day, over restarts.
func TestPortal(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	o.Zone("login.hotel.example. 300 IN A "+platformtest.Router4, "www.hotel.example. 300 IN A "+platformtest.Other4)
	o.Web(platformtest.Router4 + ":80")
	l.admin("PUT", "/policies/policy-default", network("enforce", `{"allowed_domains":["example.com"],"blocked_domains":["blocked.example"]}`))
	login := func() string { return resolves("login.hotel.example") }
	door := func() string { return connects(platformtest.Router4 + ":80") }
	page := func() string { return connects(platformtest.Other4 + ":443") }
	becomes(t, "the portal", "NXDOMAIN", login)
	becomes(t, "its address", "refused", door)
	l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })
	open := func() error {
		var s PortalStatus
		err := l.api.Do(context.Background(), "POST", "/v1/portal", nil, &s)
		if err == nil && (s.Most != portalMost || time.Until(s.Until) > portalFor) {
			t.Errorf("%+v", s)
		}
		return err
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "no sign-in page is in the way") {
		t.Errorf("while the server can be reached: %v", err)
	}

	l.down()
	if err := open(); err != nil {
		t.Fatal(err)
	}
	if got := login() + " " + door() + " " + resolves("www.blocked.example"); got != platformtest.Router4+" ok NXDOMAIN" {
		t.Errorf("while it is open: %s", got)
	}
	if got := page(); got != "refused" {
		t.Errorf("an address that no name resolved to: %s", got)
	}
	if got := resolves("www.hotel.example") + " " + page(); got != platformtest.Other4+" ok" {
		t.Errorf("another page of it: %s", got)
	}
	if s := l.status(); s.Portal == nil || s.Portal.Used != 1 {
		t.Errorf("%+v", s.Portal)
	}
	if err := open(); err != nil { // it is open
		t.Error(err)
	}
	l.serve()
	l.in(func(a *Agent) { a.contact.soon(0) })
	becomes(t, "once the server is reached", "NXDOMAIN", login)
	becomes(t, "its address", "refused", door)
	becomes(t, "another page of it", "refused", page)
	l.until("it is told", func(s Status) bool {
		var kinds []string
		for _, e := range l.newest() {
			if e.Kind == "portal" || e.Kind == "portal_ended" {
				kinds = append(kinds, string(e.Kind)+" "+e.Reason)
			}
		}
		return s.CheckIn.Backlog == 0 && strings.Contains(strings.Join(kinds, ";"), "portal_ended the policy server was reached")
	})

	l.down()
	for range 2 {
		if err := open(); err != nil {
			t.Fatal(err)
		}
		becomes(t, "open again", platformtest.Router4, login)
		// An answer that is on its way while it is closed lets nothing be reached.
		o.Lie(func(b []byte) []byte {
			time.Sleep(time.Second)
			q, a := new(dns.Msg), new(dns.Msg)
			if q.Unpack(b) != nil {
				return nil
			}
			a.SetReply(q)
			a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300},
				A: net.ParseIP(platformtest.Other4)}}
			out, _ := a.Pack()
			return out
		})
		late := make(chan string)
		go func() { late <- resolves("www.hotel.example") }()
		time.Sleep(300 * time.Millisecond)
		l.in(func(a *Agent) { a.closePortal("its time is up") })
		if got := <-late + " " + page(); got != "NXDOMAIN refused" {
			t.Errorf("an answer that was late: %s", got)
		}
		o.Lie(nil)
		becomes(t, "its time is up", "NXDOMAIN", login)
	}
	for _, when := range []string{"a fourth time", "after a restart", "with the clock a day ahead", "once the server was reached with it", "and back"} {
		if err := open(); err == nil || !strings.Contains(err.Error(), "it was opened 3 times in a day") {
			t.Errorf("%s: %v", when, err)
		}
		l.stop()
		switch when {
		case "after a restart":
			l.skew = 25 * time.Hour
		case "with the clock a day ahead":
			l.serve()
			l.start()
			l.until("it has checked in", func(s Status) bool { return !s.CheckIn.Last.IsZero() })
			l.down()
			continue
		case "once the server was reached with it":
			l.skew = 0
		}
		l.start()
	}
	if f := finding(l.status(), "network.allowed_domains"); f.Mode != enforce.Enforce {
		t.Errorf("%+v", f)
	}
}
