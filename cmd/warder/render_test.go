package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/section"
)

// evil is what a device may call itself: escapes, the eight-bit forms of them, a line of its own, and
// text that runs backwards.
const evil = "Stick\x1b]0;owned\x07\x1b[2J\u009b31m\x9b\r\nPASSWORD:\u202eevil\x00"

// harmless reports whether nothing in a text controls a terminal, apart from our own colours.
func harmless(out string) bool {
	for _, ours := range []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31;1m"} {
		out = strings.ReplaceAll(out, ours, "")
	}
	return !strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) && !strings.Contains(out, "\nPASSWORD")
}

func TestRendering(t *testing.T) {
	for _, on := range []string{"", "1"} {
		t.Setenv("NO_COLOR", on)
		var out bytes.Buffer
		s := cli.NewScreen(&out)
		now := time.Now()
		st := agent.Status{Agent: "running", Version: evil, Enrolled: true, Server: evil, DeviceID: evil,
			Policy: &agent.PolicyStatus{Name: evil, State: evil},
			Hold:   &identity.Hold{Who: evil, Reason: evil}, Exceptions: []identity.Exception{{Section: evil, Subject: evil, Reason: evil}},
			Health:  []agent.Problem{{Detail: evil}},
			CheckIn: agent.CheckInStatus{Error: evil, Last: now, Next: now},
			Work:    []agent.WorkStatus{{Subject: evil, What: evil, Step: evil}},
			Sections: map[string]agent.SectionStatus{evil: {Problem: evil},
				"b" + evil: {Counts: []section.Count{{Name: evil, N: 1, Bad: true}}}},
			Findings: []enforce.Finding{{Setting: evil, Compliance: evil, Enforcement: evil, Reason: evil}}}
		render(s, st)
		checks(s, agent.Doctor{Checks: []agent.Check{{Detail: evil},
			{Warning: agent.Warning{Code: evil, Means: evil, Do: evil, Severity: evil}, By: evil},
			{OK: true, Warning: agent.Warning{Code: evil}}}}, true)
		printEvent(s, enforce.Event{Subject: evil, Reason: evil, Told: evil, Kind: evil})
		if !harmless(out.String()) {
			t.Errorf("%q", out.String())
		}
		if !strings.Contains(out.String(), "Stick") {
			t.Error("it is not shown at all")
		}
	}
}
