//go:build linux

package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/service"
)

// A restart and a shutdown leave the policy in force, a stop gives it back. The server is told of the end, and knows at
// once that the device's reported state no longer applies. Unenrolling has a reason of its own.
func TestEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	id := l.until("enforced", version(2)).DeviceID
	l.reads("0", "0")
	stands := func(when, ended, compliance string) {
		t.Helper()
		var d map[string]any
		for range 600 {
			d = l.admin("GET", "/devices/"+id, "")
			said, _ := d["agent"].(map[string]any)["ended"].(string)
			if d["compliance"] == compliance && said == ended {
				if (ended != "") != (d["status"] == "offline") {
					t.Errorf("%s: %v", when, d["status"])
				}
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("%s: %v %v %v, want %s %q", when, d["compliance"], d["compliance_reason"], d["agent"], compliance, ended)
	}
	stands("enforced", "", "compliant")
	for _, c := range []struct {
		ending    service.Ending
		ended     string
		hub, flat string
	}{{service.Restarting, "", "0", "stopped"}, {service.Shutdown, "off", "0", "stopped"}, {service.Stopped, "stopped", "1", "stopped"}} {
		l.ending = c.ending
		l.stop()
		l.reads(c.hub, c.hub)
		if c.ended != "" {
			stands(fmt.Sprint("ended ", c.ending), c.ended, "unknown")
		}
		flat, err := FlatStatus(l.agent.o.Paths)
		if err != nil || flat.Agent != c.flat {
			t.Errorf("%d: %v %v", c.ending, flat.Agent, err)
		}
		l.start()
		l.reads("0", "0")
		stands("back", "", "compliant")
	}
	if err := l.api.Do(context.Background(), "POST", "/v1/unenroll", nil, nil); err != nil {
		t.Fatal(err)
	}
	l.reads("1", "1")
	stands("unenrolled", "unenrolled", "unknown")
}

// Asking for the state, or for a report, gives the present state and not an old one; a busy agent answers nevertheless.
func TestAskedIsLookedAt(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	auth := l.sys + "/bus/usb/devices/1-1/authorized"
	write(t, auth, "1\n")
	if err := l.api.Do(context.Background(), "POST", "/v1/check-in", nil, nil); err != nil {
		t.Fatal(err)
	}
	l.reads("0", "0")
	l.until("the server has it", func(Status) bool { return len(l.events("drift")) == 1 })

	time.Sleep(lookRest + 100*time.Millisecond)
	write(t, auth, "1\n")
	before := l.status()
	var s Status
	if err := l.api.Do(context.Background(), "GET", "/v1/status?look=1", nil, &s); err != nil {
		t.Fatal(err)
	}
	l.reads("0", "0")
	if !s.LookedAt.After(before.LookedAt) || time.Since(s.LookedAt) > 30*time.Second || len(s.Findings) == 0 ||
		!s.Findings[0].ReadAt.Equal(s.LookedAt) {
		t.Errorf("looked at %s, before %s, %+v", s.LookedAt, before.LookedAt, s.Findings)
	}
	// Repeated questions cause no more looks.
	looks := l.agent.machine.last().look
	since := time.Now()
	for range 20 {
		if err := l.api.Do(context.Background(), "GET", "/v1/status?look=1", nil, &s); err != nil {
			t.Fatal(err)
		}
	}
	if n, most := l.agent.machine.last().look-looks, 1+int(time.Since(since)/lookRest); n > most {
		t.Errorf("%d looks in %s", n, time.Since(since))
	}

	// A loop that is busy, until the answer is there.
	busy, free := make(chan struct{}), make(chan struct{})
	go func() { _ = l.agent.call(context.Background(), func() { close(busy); <-free }) }()
	<-busy
	waits, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.api.Do(waits, "GET", "/v1/status?look=1", nil, &s); err != nil || len(s.Findings) == 0 {
		t.Errorf("it waited for the loop: %v", err)
	}
	close(free)

	// A reading that is too old is unknown to every reader.
	s.Age(s.LookedAt.Add(evidenceGood - time.Second))
	if s.Rollup.Compliance != enforce.Compliant {
		t.Errorf("%+v", s.Rollup)
	}
	s.Age(s.LookedAt.Add(17 * time.Minute))
	if s.Rollup.Compliance != enforce.Uncertain || !strings.Contains(s.Findings[0].Reason, "it was last read 17m0s ago") {
		t.Errorf("%+v %+v", s.Rollup, s.Findings)
	}
}
