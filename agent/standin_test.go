//go:build linux

package agent

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/sync/server"
)

// If the newest policy cannot be read, the confirmed one replaces it, and no check-in under that one changes which is
// confirmed: otherwise the machine would be open on the day when both are needed.
func TestStandin(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.stop()
	p := paths.Under(l.dir + "/agent")
	ids := identity.New(p.State, p.Run)
	st, err := ids.Load()
	if err != nil || st.Confirmed == nil {
		t.Fatal(st.Confirmed, err)
	}
	good := st.Confirmed.JWS
	bad := *st.Policy
	bad.JWS, bad.Serial, bad.Confirmed = "eyJ.not.one", bad.Serial+1, false
	st.Policy = &bad
	if err := ids.Save(st); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.start()
		l.reads("0", "0")
		if s := l.status(); !strings.Contains(said(s), "the stored policy cannot be used") {
			t.Errorf("it is not said: %s", said(s))
		}
		for range 2 {
			if err := l.api.Do(context.Background(), "POST", "/v1/check-in", nil, nil); err != nil {
				t.Error(err)
			}
			time.Sleep(1200 * time.Millisecond) // the pause between two
		}
		l.in(func(a *Agent) {
			if got := a.custody.state.Confirmed; got == nil || got.JWS != good {
				t.Errorf("the confirmed policy is %+v", got)
			}
		})
		l.stop()
	}
	l.start()
	l.admin("PUT", "/policies/policy-default", `{"policy_data":{"usb":{"allowed_classes":["hid","audio"]}}}`)
	l.until("the next policy is in force", version(3))
	l.in(func(a *Agent) {
		if a.custody.standin || a.custody.state.Confirmed.JWS != a.custody.state.Policy.JWS {
			t.Error("the next policy is not confirmed")
		}
	})
}

// A connection made before a policy proves nothing about it. Without a push socket a kept connection passes a wall that
// lets no new one through.
func TestKeptConnectionProvesNothing(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l := walledWith(t, server.Options{HTTP: true, NoPush: true})
	l.in(func(a *Agent) { a.contact.notYet = time.Time{}; a.checkIn() })
	time.Sleep(1500 * time.Millisecond)
	l.admin("PUT", "/policies/policy-default", cutsOff)
	l.in(func(a *Agent) { a.checkIn() })
	l.until("reverted", func(s Status) bool { return !l.isWalled() && strings.Contains(said(s), "was reverted") })
}

// A part of the machine that could not be read for a moment is looked at again, although the look succeeded.
func TestOneBadReading(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var fail atomic.Int64
	l.capabilities = append(append([]func(platform.Host) platform.Capability{}, capabilities...), func(platform.Host) platform.Capability {
		return platform.Capability{Name: "blinding", Observers: []platform.Observer{observe(func(m *fact.Machine) {
			if fail.Add(-1) >= 0 {
				m.Forget(fact.PartUSB, "a moment's trouble")
			}
		})}}
	})
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.reads("0", "0")
	fail.Store(1)
	l.in(func(a *Agent) {
		a.look()
		if a.clocks.blind == 0 || !strings.Contains(said(a.status(everything)),
			"usb is unknown: the USB devices cannot be read: a moment's trouble") {
			t.Errorf("it is not said, and no look is to come: %s", said(a.status(everything)))
		}
	})
	l.reads("0", "0") // nothing is given back meanwhile
	l.until("it is over", func(s Status) bool { return len(s.Health) == 0 && s.Rollup.Compliance == enforce.Compliant })

	// Only what needs that part is unknown, and such a machine checks in at its usual pace.
	fail.Store(1 << 40)
	l.in(func(a *Agent) { a.look() })
	s := l.until("unknown", func(s Status) bool { return s.Rollup.Compliance == enforce.Uncertain })
	for _, f := range s.Findings {
		if f.Setting == "usb.allowed_classes" && f.Compliance != enforce.Uncertain {
			t.Errorf("%+v", f)
		}
	}
	l.until("reported", func(s Status) bool { return s.CheckIn.Backlog == 0 && time.Until(s.CheckIn.Next) > 20*time.Second })
	const looks = 5
	checked, last := 0, l.status().CheckIn.Last
	for range looks {
		l.in(func(a *Agent) { a.look() })
		time.Sleep(1200 * time.Millisecond)
		if at := l.status().CheckIn.Last; !at.Equal(last) {
			checked, last = checked+1, at
		}
	}
	if checked > 2 { // one may have been due
		t.Errorf("%d looks led to %d check-ins", looks, checked)
	}
	l.reads("0", "0")
	if err := l.api.Do(context.Background(), "POST", "/v1/hold", HoldRequest{Reason: "x"}, nil); err != nil {
		t.Errorf("a hold of a machine that cannot be read: %v", err)
	}
	l.reads("1", "1") // a hold asks for the baseline, which is in the ledger
}

type observe func(*fact.Machine)

func (f observe) Observe(_ context.Context, m *fact.Machine) error { f(m); return nil }

// marked is a client whose connections pass the wall.
func marked() *http.Client {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, link.Mark) })
	}}
	return &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
}

// The history is right after a kill before it was written, and after it was lost.
func TestHistoryOfWhatIsInForce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("confirmed", func(s Status) bool { return version(2)(s) && s.Policy.State == "active" })
	serial := l.status().Policy.Serial
	says := func(what string) {
		t.Helper()
		list, err := l.agent.store.Policies()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, p := range list {
			if p.Serial == serial {
				n++
				if p.State != "active" || p.Digest == "" || len(p.Document) == 0 {
					t.Errorf("%s: %+v", what, p)
				}
			}
		}
		if n != 1 {
			t.Errorf("%s: serial %d is there %d times, of %d", what, serial, n, len(list))
		}
	}
	l.stop()
	l.start()
	says("after a restart")
	if err := l.agent.store.MarkPolicy(serial, "pending", ""); err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.start()
	says("after a kill before it was confirmed there")
	l.stop()
	files, _ := filepath.Glob(filepath.Join(paths.Under(l.dir+"/agent").State, "store.db*"))
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if len(files) == 0 {
		t.Fatal("there is no store")
	}
	l.start()
	says("after it was lost")
}
