package agent

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/paths"
)

// Status is what "warder status" shows.
type Status struct {
	Agent     string            `json:"agent"` // running, stopped; dead, hung, unreachable as seen from outside
	Version   string            `json:"version"`
	At        time.Time         `json:"at"`
	StartedAt time.Time         `json:"started_at"`
	Enrolled  bool              `json:"enrolled"`
	DeviceID  string            `json:"device_id,omitempty"`
	Server    string            `json:"server,omitempty"`
	Policy    *PolicyStatus     `json:"policy,omitempty"`
	Rollup    enforce.Rollup    `json:"rollup"`
	LookedAt  time.Time         `json:"looked_at,omitzero"` // when the machine was last looked at
	Findings  []enforce.Finding `json:"findings"`
	Hidden    int               `json:"hidden_findings,omitempty"` // findings of monitor mode; root sees them
	Hold      *identity.Hold    `json:"hold,omitempty"`
	// Exceptions that are current.
	Exceptions []identity.Exception `json:"exceptions,omitempty"`
	Portal     *PortalStatus        `json:"portal,omitempty"` // the way to a captive portal is open
	CheckIn    CheckInStatus        `json:"check_in"`
	// Sections has figures by section.
	Sections map[string]SectionStatus `json:"sections"`
	Latency  map[string]Latency       `json:"latency"`
	Writes   WriteStatus              `json:"writes"`
	// Sessions are the graphical sessions: root sees all of them, users their own.
	Sessions []SessionStatus `json:"sessions,omitempty"`
	// Work is what goes on in the background.
	Work   []WorkStatus `json:"work,omitempty"`
	Health []Problem    `json:"health"` // the active warnings; empty when there are none
	// Error is why nothing is known, when no agent answers and none has left its status.
	Error string `json:"error,omitempty"`
}

// PolicyStatus is the policy in force.
type PolicyStatus struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Version int       `json:"version"`
	Serial  int64     `json:"serial"`
	Digest  string    `json:"digest"`
	State   string    `json:"state"` // active, unconfirmed, held
	Stale   bool      `json:"stale,omitempty"`
	Expires time.Time `json:"expires_at"`
	Since   time.Time `json:"received_at"`
}

// CheckInStatus is the state of the agent's connection to its server.
type CheckInStatus struct {
	Last    time.Time `json:"last_ok,omitzero"`
	Next    time.Time `json:"next,omitzero"`
	Push    bool      `json:"push"`
	Error   string    `json:"error,omitempty"`
	Backlog int       `json:"events_waiting"`
	// Offset is how far the server's clock is ahead of this machine's, in seconds. It is only learnt when it is needed
	// to reach the server.
	Offset int64 `json:"clock_offset_seconds,omitempty"`
}

// SectionStatus has the figures of a section.
type SectionStatus struct {
	Counts  []section.Count `json:"counts"`
	Problem string          `json:"problem,omitempty"` // why they are not known
}

// Count returns one figure; 0 if there is none of that name.
func (s SectionStatus) Count(name string) int {
	for _, c := range s.Counts {
		if c.Name == name {
			return c.N
		}
	}
	return 0
}

// WorkStatus is something that goes on in the background.
type WorkStatus struct {
	Subject string    `json:"subject"`
	What    string    `json:"what"`
	Since   time.Time `json:"since"`
	Seconds int       `json:"seconds"` // since when
	Step    string    `json:"step,omitempty"`
}

// WriteStatus counts what passed the gate.
type WriteStatus struct {
	Passed  int64 `json:"passed"`
	Refused int64 `json:"refused"`
}

// everything is root's view, anybody that of any user.
var (
	everything = view{root: true}
	anybody    = view{}
)

// status returns the whole status. Without root, findings of monitor mode are left out, and the subjects of exceptions
// are only shown to users at the machine.
func (a *Agent) status(v view) Status {
	backlog, _ := a.store.Backlog()
	st, doc, issued := a.custody.view()
	seen, stands := a.contact.shown(), a.machine.last()
	s := Status{Agent: "running", Version: a.o.Version, At: a.o.Now().UTC(), StartedAt: a.started.UTC(), Health: a.health.active(),
		Findings: []enforce.Finding{}, Hold: st.Hold, Latency: a.latency.summary(), Sections: a.machine.counts(),
		CheckIn: CheckInStatus{seen.LastOK, seen.Next, seen.Pushed, seen.Error, backlog, int64(seen.Offset.Seconds())},
		Writes:  WriteStatus{a.machine.gate.passed.Load(), a.machine.gate.refused.Load()}}
	if until := a.portal.open(a.o.Now()); !until.IsZero() {
		s.Portal = &PortalStatus{until.UTC(), len(st.Portals), portalMost}
	}
	s.Exceptions = a.exceptions.current(st.Exceptions)
	for i := range s.Exceptions {
		if x := &s.Exceptions[i]; !v.root && !v.seated {
			x.Subject, x.Reason = "", ""
		}
	}
	for _, f := range stands.findings {
		if f.Mode == enforce.Monitor && !v.root {
			s.Hidden++
			continue
		}
		s.Findings = append(s.Findings, f)
	}
	if at := stands.result.At; !at.IsZero() {
		s.LookedAt = at.UTC()
	}
	if d := st.Device; d != nil {
		s.Enrolled, s.DeviceID = true, d.DeviceID
		s.Server, _ = a.server()
	}
	if doc != nil && st.Policy != nil && issued != nil {
		h := a.custody.reported()
		s.Policy = &PolicyStatus{doc.ID, doc.Name, doc.Version, st.Policy.Serial, h.Digest, h.State, a.stale(), issued.ExpiresAt,
			st.Policy.Received}
	}
	s.Age(a.o.Now())
	if uid, err := strconv.ParseUint(v.uid, 10, 32); v.root || err == nil {
		s.Sessions = a.helpers.sessions(v.root, uint32(uid))
	}
	for _, w := range a.machine.work() {
		step := enforce.Plain(w.Step) // may name a mount point, and so whose stick it is
		if !v.root && !v.seated {
			step = ""
		}
		s.Work = append(s.Work, WorkStatus{w.Subject, w.What, w.Since.UTC(), int(time.Since(w.Since).Seconds()), step})
	}
	return s
}

// Age marks readings as unknown that are too old, and sums up the findings. If no agent runs or no policy applies,
// nothing is known to comply.
func (s *Status) Age(now time.Time) {
	for i, f := range s.Findings {
		if now.Sub(f.ReadAt) > evidenceGood {
			s.Findings[i] = f.Aged(now)
		}
	}
	if s.Rollup = enforce.RollUp(s.Findings); s.Agent != "running" || s.Policy == nil {
		s.Rollup.Compliance = enforce.Uncertain
	}
}

// Exit codes of "warder status".
const (
	ExitHealthy      = 0
	ExitNoncompliant = 1
	ExitDegraded     = 2 // stale, degraded, unverified or unknown
	ExitUnreachable  = 3
	ExitNotEnrolled  = 4
)

// Exit is the exit code for a status.
func (s Status) Exit() int {
	switch {
	case s.Agent != "running":
		return ExitUnreachable
	case !s.Enrolled:
		return ExitNotEnrolled
	case s.Rollup.Compliance == enforce.Noncompliant:
		return ExitNoncompliant
	case s.Policy == nil || s.Policy.Stale || s.Hold != nil || degraded(s.Health) || s.Rollup.Compliance != enforce.Compliant ||
		s.CheckIn.Error != "":
		return ExitDegraded
	}
	return ExitHealthy
}

// degraded reports whether a warning above low severity is active.
func degraded(list []Problem) bool {
	return slices.ContainsFunc(list, func(p Problem) bool { return p.Severity != Low })
}

// flatName is the file with the status as any user may see it, for when the agent is dead.
const flatName = "status.json"

// flatten writes the status to the file that "warder status" reads when nobody answers.
func (a *Agent) flatten(state string) {
	s := a.status(anybody)
	s.Agent = state
	s.Age(a.o.Now())
	path := filepath.Join(a.o.Paths.Run, flatName)
	// The runtime directory is in memory: the file has to be whole, not durable.
	_ = durable.Swap(path, encode(s), 0o644) // contains what any user may see
}

// maxFlat bounds that file.
const maxFlat = 4 << 20

// FlatStatus reads what a dead agent left.
func FlatStatus(p paths.Paths) (Status, error) {
	var s Status
	b, err := durable.Read(filepath.Join(p.Run, flatName), maxFlat)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}
