//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/service"
)

// heard is a back end whose changes the test announces.
type heard struct {
	platform.Backend
	mu   *sync.Mutex
	tell *func(platform.Touch)
}

func (h heard) Watch(ctx context.Context, f func(platform.Touch)) error {
	h.mu.Lock()
	*h.tell = f
	h.mu.Unlock()
	<-ctx.Done()
	return nil
}

// hearing replaces the back ends of every capability by ones whose changes the test announces.
func (l *lab) hearing() (tell func(platform.Touch)) {
	h := heard{mu: new(sync.Mutex), tell: new(func(platform.Touch))}
	for _, f := range capabilities {
		l.capabilities = append(l.capabilities, func(host platform.Host) platform.Capability {
			c := f(host)
			for i, b := range c.Backends {
				c.Backends[i] = heard{b, h.mu, h.tell}
			}
			return c
		})
	}
	return func(t platform.Touch) {
		h.mu.Lock()
		f := *h.tell
		h.mu.Unlock()
		if f != nil {
			f(t)
		}
	}
}

// events are the events of this device that the server has, of one kind.
func (l *lab) events(kind string) (out []enforce.Event) {
	l.t.Helper()
	b, _ := json.Marshal(l.admin("GET", "/devices/"+l.status().DeviceID+"/events?page_size=100", "")["data"])
	var list []enforce.Event
	if err := json.Unmarshal(b, &list); err != nil {
		l.t.Fatalf("%v: %s", err, b)
	}
	for _, e := range list {
		if string(e.Kind) == kind {
			out = append(out, e)
		}
	}
	return out
}

// What another program changes is repaired without waiting for the regular look, and reported with the program. A
// program that does not stop is named and then left alone, by the guard, too. Below enforce it is reported and left
// alone.
func TestDriftIsAnnounced(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tell := l.hearing()
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.reads("0", "0")
	auth := l.sys + "/bus/usb/devices/1-1/authorized"
	device := enforce.Key{Kind: "usb.device", ID: "1-1@2"}
	change := func(v string) {
		write(t, auth, v+"\n")
		tell(platform.Touch{Key: device, By: enforce.Program{PID: 4242, Name: "/bin/dash"}})
	}
	change("1")
	l.until("repaired and on the server", func(Status) bool { return len(l.events("drift")) == 1 })
	l.reads("0", "0")
	e := l.events("drift")[0]
	if e.By == nil || *e.By != (enforce.Program{PID: 4242, Name: "/bin/dash"}) || e.Subject != device.String() || !e.Done.Is("0") ||
		e.Reason != "/bin/dash (pid 4242) changed it from 0 to 1; it was set back and reads 0" ||
		e.Setting != "storage.external_storage_allowed" {
		t.Errorf("%+v", e)
	}

	// Again and again.
	for i := 2; i <= 6; i++ {
		change("1")
		l.until(fmt.Sprint("told ", i), func(Status) bool { return len(l.events("drift")) == i })
	}
	if e := l.events("drift")[0]; !strings.Contains(e.Reason, "keeps being changed") || !e.Done.Is("1") {
		if e = l.events("drift")[5]; !strings.Contains(e.Reason, "keeps being changed") || !e.Done.Is("1") {
			t.Errorf("%+v", e)
		}
	}
	contended := func(s Status) bool {
		return len(s.Findings) > 1 && s.Findings[1].Enforcement == enforce.Contended && s.Rollup.Compliance == enforce.Noncompliant
	}
	l.until("contended", contended)
	l.until("the server sees it", func(Status) bool {
		return strings.Contains(fmt.Sprint(l.admin("GET", "/devices/"+l.status().DeviceID, "")), "contended")
	})
	denied := len(l.events("denied"))
	l.in(func(a *Agent) { a.look() }) // which loads the guard, and makes it judge everything present
	l.reads("0", "1")
	if s := l.status(); !contended(s) {
		t.Errorf("%+v", s.Findings)
	}
	if n := len(l.events("failed")); n != 0 || len(l.events("denied")) != denied {
		t.Errorf("the guard does not rest: %d failed", n)
	}

	// In monitor mode only the earlier state is restored; another program's change is reported.
	write(t, auth, "0\n")
	l.in(func(a *Agent) { a.look() })
	l.admin("PUT", "/policies/policy-default", strings.Replace(denyAll, "enforce", "monitor", 1))
	l.until("monitored", version(3))
	l.until("given back", func(Status) bool { return firstLine(l.sys+"/bus/usb/devices/usb1/authorized_default") == "1" })
	told := len(l.events("drift"))
	write(t, l.sys+"/bus/usb/devices/usb1/authorized_default", "0\n")
	tell(platform.Touch{Key: enforce.Key{Kind: "usb.default", ID: "usb1"}, By: enforce.Program{PID: 7}})
	l.until("told", func(Status) bool { return len(l.events("drift")) == told+1 })
	list := l.events("drift")
	if last := list[len(list)-1]; last.Mode != enforce.Monitor {
		last = list[0]
		if last.Mode != enforce.Monitor || last.Reason != "a program that is gone (pid 7) changed it from 1 to 0; monitor mode leaves it" {
			t.Errorf("%+v", last)
		}
	}
	if got := firstLine(l.sys + "/bus/usb/devices/usb1/authorized_default"); got != "0" {
		t.Errorf("monitor mode wrote %s", got)
	}
}

// State files that somebody removes or replaces while the agent runs are noticed, reported and recreated.
func TestStateFilesRemoved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	state := l.agent.o.Paths.State
	var removed []string
	for _, pattern := range []string{"ledger.db*", "store.db*", "identity*"} {
		names, err := filepath.Glob(filepath.Join(state, pattern))
		if err != nil || len(names) == 0 {
			t.Fatal(pattern, names, err)
		}
		for _, n := range names {
			if err := os.Remove(n); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(n, "-wal") && !strings.HasSuffix(n, "-shm") {
				removed = append(removed, n)
			}
		}
	}
	l.in(func(a *Agent) { a.look() })
	l.until("told", func(Status) bool { return len(l.events("restored")) == 3 })
	l.agent.custody.ids.Wait()
	for _, n := range removed {
		if _, err := os.Stat(n); err != nil {
			t.Error(err)
		}
	}
	if s := l.status(); len(s.Health) != 0 {
		t.Errorf("%s", said(s))
	}
	// After a kill, everything is known.
	l.ending = service.Restarting
	l.stop()
	l.start()
	l.reads("0", "0")
	if s := l.status(); s.Policy == nil || s.Policy.Version != 2 || len(s.Health) != 0 {
		t.Errorf("%s", encode(s))
	}
	l.ending = service.Stopped
	l.stop()
	l.reads("1", "1")
}

// An unimportant write does not delay the look for an important one, nor does a burst of plugs.
func TestDriftLookIsNotPutOff(t *testing.T) {
	now := time.Unix(1_770_000_000, 0)
	c := clocks{look: stopped(), looked: now, vain: 10}
	if known, vain := c.driftIn(true, now), c.driftIn(false, now); known != driftGap || vain != driftGap<<vainGaps {
		t.Errorf("%s %s", known, vain)
	}
	c.driftLook(c.driftIn(true, now), now)
	c.driftLook(c.driftIn(false, now), now)
	if want := now.Add(driftGap); !c.drift.Equal(want) {
		t.Errorf("due %s, want %s", c.drift, want)
	}
	c.lookIn(settleDelay, now)
	if !c.due.Equal(now.Add(driftGap)) {
		t.Errorf("a burst puts it off to %s", c.due)
	}
	c = clocks{look: stopped(), looked: now, vain: 10}
	c.lookIn(settleDelay, now)
	c.driftLook(c.driftIn(false, now), now)
	if !c.drift.IsZero() || !c.due.Equal(now.Add(settleDelay)) {
		t.Errorf("it puts a burst's look off: %s %s", c.drift, c.due)
	}
}

// The kernel reuses a device's number after 127: a device that has just arrived is reported, whatever was reported for
// that number. A switch from enforce to audit_only reports the same device's would_deny once.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	const usbOnly = `{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"]},"storage":{},"network":{},"dlp":{}}}`
	l.admin("PUT", "/policies/policy-default", usbOnly)
	l.until("enforced", version(2))
	denied := platform.Decision{Section: "usb", Key: enforce.Key{Kind: "usb.device", ID: "1-7@5"}, Subject: "usb 1-7", New: true,
		Verdict: enforce.Verdict{Rule: enforce.Rule{Setting: "usb.allowed", Line: 1}},
		Done:    enforce.Reading{Value: "0", State: enforce.Present},
		Reason:  func() (string, string) { return "r", "" }}
	told := func(kind enforce.EventKind, subject string) (n int) {
		list, err := l.agent.store.Events(0, -100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Kind == kind && strings.HasPrefix(e.Subject, subject) {
				n++
			}
		}
		return n
	}
	l.agent.journal.put(denied)
	l.until("the first", func(Status) bool { return told(enforce.Denied, "usb 1-7") == 1 })
	found := denied
	found.New = false // by a rescan: the same one
	l.agent.journal.put(found)
	l.agent.journal.put(denied) // another one, with the same number
	l.until("the second", func(Status) bool { return told(enforce.Denied, "usb 1-7") == 2 })

	l.admin("PUT", "/policies/policy-default", strings.Replace(usbOnly, `"usb":{`, `"usb":{"audit_only":true,`, 1))
	l.until("audited", version(3))
	l.until("told", func(Status) bool { return told(enforce.WouldDeny, "usb 1-1") >= 1 })
	for range 3 {
		l.in(func(a *Agent) { a.look() })
	}
	time.Sleep(500 * time.Millisecond)
	if n := told(enforce.WouldDeny, "usb 1-1"); n != 1 {
		t.Errorf("would_deny is told %d times", n)
	}
}
