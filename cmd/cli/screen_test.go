package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform/usb"
)

// evil is what a device may call itself: escapes, the eight-bit forms of them, a line of its own, and
// text that runs backwards.
const evil = "Stick\x1b]0;owned\x07\x1b[2J\u009b31m\x9b\r\nPASSWORD:\u202eevil\x00"

// harmless reports whether nothing in a text commands a terminal, beside what we paint ourselves.
func harmless(out string) bool {
	for _, ours := range []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31;1m"} {
		out = strings.ReplaceAll(out, ours, "")
	}
	return !strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) && !strings.Contains(out, "\nPASSWORD")
}

func TestScreen(t *testing.T) {
	for _, on := range []bool{false, true} {
		var out bytes.Buffer
		s := screen{&out, style{on}}
		s.printf("%s %-10s %q %v %d %s %s\n", evil, enforce.Setting(evil), evil, []string{evil}, 7, s.warn(evil), errors.New(evil))
		if got := strings.Replace(out.String(), "\nPASSWORD", "", 1); !harmless(got) { // an error of our own may have lines
			t.Errorf("%q", got)
		}
		out.Reset()
		now := time.Now()
		st := agent.Status{Agent: "running", Version: evil, Enrolled: true, Server: evil, DeviceID: evil, Policy: &agent.PolicyStatus{Name: evil, State: evil},
			Hold: &identity.Hold{Who: evil, Reason: evil}, Exceptions: []identity.Exception{{Section: evil, Subject: evil, Reason: evil}}, Health: []agent.Problem{{Detail: evil}},
			CheckIn: agent.CheckInStatus{Error: evil, Last: now, Next: now}, Work: []agent.WorkStatus{{Subject: evil, What: evil, Step: evil}},
			Sections: map[string]agent.SectionStatus{evil: {Problem: evil}, "b" + evil: {Counts: []section.Count{{Name: evil, N: 1, Bad: true}}}},
			Findings: []enforce.Finding{{Setting: evil, Compliance: evil, Enforcement: evil, Reason: evil}}}
		render(s, st)
		checks(s, agent.Doctor{Checks: []agent.Check{{Detail: evil}, {Warning: agent.Warning{Code: evil, Means: evil, Do: evil, Severity: evil}, By: evil}, {OK: true, Warning: agent.Warning{Code: evil}}}}, true)
		printEvent(s, enforce.Event{Subject: evil, Reason: evil, Told: evil, Kind: evil})
		if !harmless(out.String()) {
			t.Errorf("%q", out.String())
		}
		if !strings.Contains(out.String(), "Stick") {
			t.Error("it is not shown at all")
		}
		out.Reset()
		if err := s.json(usb.Item{Model: evil}, false); err != nil || !harmless(out.String()) {
			t.Errorf("%q %v", out.String(), err)
		}
		var back usb.Item
		want, _ := json.Marshal(usb.Item{Model: evil})
		var same usb.Item
		_ = json.Unmarshal(want, &same)
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back.Model != same.Model {
			t.Errorf("as JSON it reads %q, %v", back.Model, err)
		}
	}
}

// TestOneWayToTheTerminal: every command prints through screen.go.
func TestOneWayToTheTerminal(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if f == "screen.go" || strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range []string{"fmt.Print", "fmt.Fprint", "OutOrStdout", "ErrOrStderr", "NewEncoder", "println("} {
			if strings.Contains(string(b), way) {
				t.Errorf("%s uses %s", f, way)
			}
		}
	}
}
