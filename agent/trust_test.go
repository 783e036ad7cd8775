//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server"
)

// in runs f in the agent's loop.
func (l *lab) in(f func(a *Agent)) {
	l.t.Helper()
	if err := l.agent.call(context.Background(), func() { f(l.agent) }); err != nil {
		l.t.Fatal(err)
	}
}

func list(keys ...*jose.JSONWebKey) json.RawMessage {
	var pub []jose.JSONWebKey
	for _, k := range keys {
		pub = append(pub, k.Public())
	}
	b, _ := json.Marshal(pub)
	return b
}

// A thief has the policy key: they rotate to a key of their own, and give the device a policy under the highest serial.
// The recovery key takes the device back.
func TestStolenPolicyKey(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	keys, err := server.LoadKeys(l.dir + "/server")
	if err != nil {
		t.Fatal(err)
	}
	stolen := keys.Signing()
	thief, err := protocol.NewPolicyKey()
	if err != nil {
		t.Fatal(err)
	}
	id := l.status().DeviceID
	rotation := func(at time.Time) string {
		s, err := protocol.SignKeys(stolen, protocol.KeySet{PolicyKeys: list(thief), IssuedAt: at})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	theirs := func(serial int64) string {
		now := time.Now().UTC()
		s, err := protocol.SignAssignment(thief, protocol.Assignment{DeviceID: id, Serial: serial, IssuedAt: now,
			ExpiresAt: now.AddDate(7000, 0, 0),
			Policy: json.RawMessage(`{"id":"theirs","name":"Theirs","version":1,"active":true,"policy_data":{"usb":{"allowed":true},` +
				`"storage":{},"network":{},"dlp":{}}}`)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.in(func(a *Agent) {
		a.rotate(rotation(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
		if a.custody.pinned() != keys.Pinned() {
			t.Error("a rotation dated 9999 is followed")
		}
		a.rotate(rotation(time.Now().Add(time.Hour)))
		if a.custody.pinned() == keys.Pinned() {
			t.Fatal("the thief's rotation is not followed, so this test proves nothing")
		}
		a.take(theirs(1<<63 - 1))
		if a.custody.doc.Name == "Theirs" {
			t.Error("a serial past the highest is taken")
		}
		a.take(theirs(protocol.MaxSerial))
		if a.custody.doc.Name != "Theirs" || a.custody.state.Highest != protocol.MaxSerial {
			t.Fatal("the thief's policy is not taken, so this test proves nothing")
		}
	})
	l.reads("1", "1")
	before := l.agent.custody.state.Device.RecoveryKey
	if err := keys.RotatePolicy(recoveryKey(t, l.dir+"/server/recovery.key"), time.Now()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // the server looks every two seconds
	l.in(func(a *Agent) { a.checkIn() })
	l.until("the server's policy is back in force", version(2))
	l.reads("0", "0")
	if l.agent.custody.pinned() != keys.Pinned() || string(before) != string(l.agent.custody.state.Device.RecoveryKey) {
		t.Error("the device does not pin the server's new key")
	}
	l.in(func(a *Agent) {
		serial := a.custody.state.Policy.Serial
		a.rotate(rotation(time.Now().Add(2 * time.Hour)))
		a.take(theirs(protocol.MaxSerial))
		if a.custody.pinned() != keys.Pinned() || a.custody.doc.Name == "Theirs" || a.custody.state.Policy.Serial != serial {
			t.Error("the stolen key is believed again")
		}
		a.health.set(keysRefused, "")
		a.health.set(policyRefused, "")
	})
	l.admin("PUT", "/policies/policy-default", `{"policy_data":{"usb":{"allowed":true}}}`)
	l.until("later policies come", version(3))
}

// A replay changes nothing: an exception that has ended does not begin again, and a current one keeps its start.
func TestReplayedAssignment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	s := l.until("enforced", version(2))
	l.admin("POST", "/devices/"+s.DeviceID+"/exceptions", `{"usb":"46f4:0001:SN1","minutes":60,"reason":"slides"}`)
	s = l.until("excepted", func(s Status) bool { return len(s.Exceptions) == 1 })
	first := s.Exceptions[0]
	var jws string
	l.in(func(a *Agent) { jws = a.custody.state.Policy.JWS })
	time.Sleep(50 * time.Millisecond)
	l.in(func(a *Agent) { a.take(jws) })
	if x := l.status().Exceptions; len(x) != 1 || !x[0].Until.Equal(first.Until) || !x[0].Since.Equal(first.Since) {
		t.Errorf("%+v, it was %+v", x, first)
	}
	over := func(a *Agent) {
		st := a.custody.state
		st.Exceptions = []identity.Exception{st.Exceptions[0]}
		st.Exceptions[0].Until = time.Now().Add(-time.Second)
		if err := a.custody.save(st); err != nil {
			t.Error(err)
		}
		a.exceptions.mu.Lock()
		a.exceptions.deadlines = nil
		a.exceptions.mu.Unlock()
		a.endExceptions()
	}
	l.in(over)
	l.reads("0", "0")
	l.stop()
	l.start()
	l.in(func(a *Agent) { a.take(jws) })
	if x := l.status().Exceptions; len(x) != 0 {
		t.Errorf("after a restart, the assignment played again renews %+v", x)
	}
	l.reads("0", "0")
	// The server's clock does not know that the time is up: it sends the exception under a new serial.
	l.admin("PUT", "/policies/policy-default", `{"description":"renewed"}`)
	l.until("the next version", version(3))
	if x := l.status().Exceptions; len(x) != 0 {
		t.Errorf("an exception whose time was up is renewed by a new assignment: %+v", x)
	}
	l.reads("0", "0")
}

// Whatever the clocks say, an exception lasts no longer than it was granted for.
func TestExceptionLengths(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	half := int64(1800)
	known := identity.Exception{ID: "x", Section: "usb", Subject: "1:1", Since: now.Add(-10 * time.Minute),
		Until: now.Add(20 * time.Minute)}
	for _, c := range []struct {
		name    string
		as      protocol.Assignment
		state   identity.State
		longest time.Duration // 0: none
		since   time.Time
	}{
		{"new", protocol.Assignment{IssuedAt: now, Exceptions: []protocol.Exception{{ID: "x", Section: "usb",
			Until: now.Add(30 * time.Minute), Seconds: half}}}, identity.State{}, 30 * time.Minute, now},
		{"the server's clock was set back two hours", protocol.Assignment{IssuedAt: now.Add(-2 * time.Hour),
			Exceptions: []protocol.Exception{{ID: "x", Section: "usb", Until: now.Add(30 * time.Minute), Seconds: half}}}, identity.State{},
			30 * time.Minute, now},
		{"and it is known", protocol.Assignment{IssuedAt: now.Add(-2 * time.Hour),
			Exceptions: []protocol.Exception{{ID: "x", Section: "usb", Until: now.Add(30 * time.Minute), Seconds: half}}},
			identity.State{Exceptions: []identity.Exception{known}}, 20 * time.Minute, known.Since},
		{"a server of version 0.2.0, known", protocol.Assignment{IssuedAt: now.Add(-2 * time.Hour),
			Exceptions: []protocol.Exception{{ID: "x", Section: "usb", Until: now.Add(30 * time.Minute)}}},
			identity.State{Exceptions: []identity.Exception{known}}, 20 * time.Minute, known.Since},
		{"it is shortened", protocol.Assignment{IssuedAt: now,
			Exceptions: []protocol.Exception{{ID: "x", Section: "usb", Until: now.Add(5 * time.Minute), Seconds: half}}},
			identity.State{Exceptions: []identity.Exception{known}}, 5 * time.Minute, known.Since},
		{"it is over here", protocol.Assignment{IssuedAt: now,
			Exceptions: []protocol.Exception{{ID: "x", Section: "usb", Until: now.Add(30 * time.Minute), Seconds: half}}},
			identity.State{Ended: map[string]time.Time{"x": now}}, 0, now},
		{"a length that overflows", protocol.Assignment{IssuedAt: now,
			Exceptions: []protocol.Exception{{ID: "x", Section: "usb", Until: now.Add(time.Hour), Seconds: 1<<63 - 1}}}, identity.State{},
			time.Hour, now},
	} {
		got := granted(&c.state, &c.as, now)
		if c.longest == 0 {
			if len(got) != 0 {
				t.Errorf("%s: %+v", c.name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Until.Sub(now) != c.longest || !got[0].Since.Equal(c.since) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	// What no section could mean is left out, so that events about it do not spoil the device's reports.
	odd := protocol.Assignment{IssuedAt: now, Exceptions: []protocol.Exception{
		{ID: "a", Section: "\x1b[31m", Subject: "1:1", Until: now.Add(time.Hour)},
		{ID: "b", Section: strings.Repeat("x", 80), Subject: "1:1", Until: now.Add(time.Hour)},
		{ID: "c", Section: "usb", Subject: strings.Repeat("1", 400_000), Until: now.Add(time.Hour)},
		{ID: "d", Section: "quantum", Subject: "a cat", Reason: strings.Repeat("r", 400_000) + "\x1b", Until: now.Add(time.Hour)},
		{ID: "e", Section: "usb", Subject: "1\x1b:1", Until: now.Add(time.Hour)}}}
	if got := granted(&identity.State{}, &odd, now); len(got) != 1 || got[0].ID != "d" || len(got[0].Reason) > maxReason+3 {
		t.Errorf("%+v", got)
	}
	over := map[string]time.Time{}
	for i := range 3 * maxEnded {
		over = ended(over, []identity.Exception{{ID: fmt.Sprint(i)}}, now.Add(time.Duration(i)*time.Second))
	}
	if len(over) != maxEnded || over[fmt.Sprint(3*maxEnded-1)].IsZero() {
		t.Errorf("%d ended exceptions are remembered", len(over))
	}
}

// Whatever this machine's clock says, also over TLS, it reaches its server, and reports that the clock is wrong.
func TestWrongClockOverTLS(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-3 * 24 * time.Hour, 3 * 24 * time.Hour, -40 * 365 * 24 * time.Hour, 40 * 365 * 24 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			l := newTLSLab(t)
			l.start()
			l.enroll()
			l.stop()
			l.skew = skew
			l.start()
			l.admin("PUT", "/policies/policy-default", denyAll)
			l.in(func(a *Agent) { a.checkIn() })
			l.until("enforced", version(2))
			want := -skew.Seconds()
			s := l.until("it is said", func(s Status) bool { return strings.Contains(said(s), "this machine's clock is") })
			if got := float64(s.CheckIn.Offset); got < want-120 || got > want+120 {
				t.Errorf("the offset is shown as %v s, want about %v", got, want)
			}
			t.Log(s.Health)
			l.until("by push too", func(s Status) bool { return s.CheckIn.Push })
		})
	}
}

// counting is a source that answers at once and counts.
type counting struct{ n atomic.Int64 }

func (c *counting) Exchange(context.Context, protocol.Report) (protocol.Answer, error) {
	c.n.Add(1)
	return protocol.Answer{Interval: 3600}, nil
}

// A server that nudges without end gets one check-in per second, and the first change is fetched at once.
func TestNudgeFlood(t *testing.T) {
	l := newLab(t)
	l.start()
	l.enroll()
	l.stop()
	c := &counting{}
	l.source = func(*identity.Device) (Source, error) { return c, nil }
	l.start()
	for range 3000 {
		if c.n.Load() > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(checkin.Pause + 200*time.Millisecond)
	before, begun := c.n.Load(), time.Now()
	l.in(func(a *Agent) { a.nudge(protocol.Nudge{Type: protocol.NudgeCheckIn}, time.Now()) })
	for range 30000 {
		if c.n.Load() > before {
			break
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("the first check-in came after %s", time.Since(begun).Round(time.Millisecond))
	for time.Since(begun) < 3500*time.Millisecond {
		l.in(func(a *Agent) { a.nudge(protocol.Nudge{Type: protocol.NudgeCheckIn}, time.Now()) })
		l.agent.reportSoon()
	}
	took := time.Since(begun)
	n := c.n.Load() - before
	t.Logf("%d check-ins in %s", n, took.Round(time.Millisecond))
	if n < 2 || n > int64(took/checkin.Pause)+1 {
		t.Errorf("%d check-ins in %s", n, took)
	}
}

// busy is a source that nudges during each of its exchanges.
type busy struct {
	n     atomic.Int64
	agent atomic.Pointer[Agent]
}

func (b *busy) Exchange(context.Context, protocol.Report) (protocol.Answer, error) {
	n := b.n.Add(1)
	if a := b.agent.Load(); a != nil {
		_ = a.call(context.Background(), func() { a.nudge(protocol.Nudge{Type: protocol.NudgeCheckIn, Sequence: n}, time.Now()) })
	}
	return protocol.Answer{Interval: 3600}, nil
}

// A nudge that comes while the agent checks in is followed at once, however many check-ins in a row there were before.
func TestNudgedWhileBusy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.stop()
	b := &busy{}
	l.source = func(*identity.Device) (Source, error) { return b, nil }
	l.start()
	b.agent.Store(l.agent)
	l.in(func(a *Agent) { a.checkIn() })
	l.until("it is followed", func(Status) bool { return b.n.Load() > 2*maxRounds })
	b.agent.Store(nil)
}
