package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/usb"
)

// Status is what "warder status" shows.
type Status struct {
	Agent     string            `json:"agent"` // running, stopped
	Version   string            `json:"version"`
	At        time.Time         `json:"at"`
	StartedAt time.Time         `json:"started_at"`
	Enrolled  bool              `json:"enrolled"`
	DeviceID  string            `json:"device_id,omitempty"`
	Server    string            `json:"server,omitempty"`
	Policy    *PolicyStatus     `json:"policy,omitempty"`
	Rollup    enforce.Rollup    `json:"rollup"`
	Findings  []enforce.Finding `json:"findings"`
	Hidden    int               `json:"hidden_findings,omitempty"` // of monitor mode; root sees them
	Hold      *identity.Hold    `json:"hold,omitempty"`
	// Exceptions that hold now.
	Exceptions []identity.Exception `json:"exceptions,omitempty"`
	CheckIn    CheckInStatus        `json:"check_in"`
	USB        USBStatus            `json:"usb"`
	Latency    map[string]Latency   `json:"latency"`
	Writes     WriteStatus          `json:"writes"`
	// Releases are the disks that are being emptied before their device is taken away.
	Releases []ReleaseStatus `json:"releases,omitempty"`
	Health   []string        `json:"health"` // problems in words; empty when there is none
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

// CheckInStatus is how the agent stands with its server.
type CheckInStatus struct {
	Last    time.Time `json:"last_ok,omitzero"`
	Next    time.Time `json:"next,omitzero"`
	Push    bool      `json:"push"`
	Error   string    `json:"error,omitempty"`
	Backlog int       `json:"events_waiting"`
	// Offset is what the server's clock is ahead of this machine's, in seconds, as far as it had to be
	// learnt to reach it.
	Offset int64 `json:"clock_offset_seconds,omitempty"`
}

// USBStatus counts what is plugged in.
type USBStatus struct {
	Buses   int    `json:"buses"`
	Devices int    `json:"devices"`
	Refused int    `json:"refused"`
	Guarded int    `json:"guarded"`
	Source  string `json:"inventory"`
	Problem string `json:"problem,omitempty"`
}

// ReleaseStatus is one disk that is being emptied.
type ReleaseStatus struct {
	Device  string    `json:"device"`
	Since   time.Time `json:"since"`
	Seconds int       `json:"seconds"` // since then
	Step    string    `json:"step,omitempty"`
}

// WriteStatus counts what passed the gate.
type WriteStatus struct {
	Passed  int64 `json:"passed"`
	Refused int64 `json:"refused"`
}

// health lists what is wrong with the agent itself.
func (a *Agent) health() []string {
	out := []string{}
	if h := a.store.Health(); !h.OK() {
		out = append(out, "store: "+h.String())
	}
	if h := a.ledger.Health(); !h.OK() {
		out = append(out, "ledger: "+h.String())
	}
	if h := a.ids.Health(); h != "" {
		out = append(out, "identity: "+h)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ident != "" {
		out = append(out, "identity: "+a.ident)
	}
	names := make([]string, 0, len(a.problems))
	for n := range a.problems {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		out = append(out, n+": "+a.problems[n])
	}
	return out
}

// everything is root's view, and anybody that of any user.
var (
	everything = view{root: true}
	anybody    = view{}
)

// status gives the whole; without root what monitor mode found is left out, and the sticks of exceptions
// are named to who sits at the machine alone.
func (a *Agent) status(v view) Status {
	root := v.root
	health := a.health()
	backlog, _ := a.store.Backlog()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{Agent: "running", Version: a.o.Version, At: a.o.Now().UTC(), StartedAt: a.started.UTC(), Health: health,
		Rollup: enforce.RollUp(a.findings), Findings: []enforce.Finding{}, Hold: a.state.Hold, Latency: a.latency.summary(),
		CheckIn: CheckInStatus{a.contact.LastOK, a.contact.Next, a.contact.Pushed, a.contact.Error, backlog, int64(a.contact.Offset.Seconds())},
		Writes:  WriteStatus{a.gate.passed.Load(), a.gate.refused.Load()}}
	s.Exceptions = a.current()
	for i := range s.Exceptions {
		if x := &s.Exceptions[i]; !root && !v.seated {
			x.USB, x.Reason = "", ""
		}
	}
	for _, f := range a.findings {
		if f.Mode == enforce.Monitor && !root {
			s.Hidden++
			continue
		}
		s.Findings = append(s.Findings, f)
	}
	if !root {
		s.Rollup = enforce.RollUp(s.Findings)
	}
	if d := a.state.Device; d != nil {
		s.Enrolled, s.DeviceID, s.Server = true, d.DeviceID, d.Server
		if a.config.Server != "" {
			s.Server = a.config.Server
		}
	}
	if a.doc != nil && a.state.Policy != nil && a.issued != nil {
		h := a.heldPolicy()
		s.Policy = &PolicyStatus{a.doc.ID, a.doc.Name, a.doc.Version, a.state.Policy.Serial, h.Digest, h.State, a.stale(), a.issued.ExpiresAt, a.state.Policy.Received}
	}
	s.USB = a.usbStatus()
	for _, r := range a.ports.Releases() {
		step := enforce.Plain(r.Step) // may name a mount point, and so whose stick it is
		if !root && !v.seated {
			step = ""
		}
		s.Releases = append(s.Releases, ReleaseStatus{r.Device, r.Since.UTC(), int(time.Since(r.Since).Seconds()), step})
	}
	return s
}

func (a *Agent) usbStatus() USBStatus {
	u := USBStatus{Buses: len(a.machine.Controllers.V), Source: usb.InventorySource}
	if !a.machine.USB.OK {
		u.Problem = a.machine.USB.Why
	}
	rules := a.rules
	for i := range a.machine.USB.V {
		d := &a.machine.USB.V[i]
		if d.Root {
			continue
		}
		u.Devices++
		if d.Authorized.OK && !d.Authorized.V {
			u.Refused++
		}
		if rules != nil && rules.Judge(d).Guard != enforce.NoGuard {
			u.Guarded++
		}
	}
	return u
}

// Exit codes of "warder status".
const (
	ExitHealthy      = 0
	ExitNoncompliant = 1
	ExitDegraded     = 2 // stale, degraded or unknown
	ExitUnreachable  = 3
	ExitNotEnrolled  = 4
)

// Exit is the exit code that a status stands for.
func (s Status) Exit() int {
	switch {
	case s.Agent != "running":
		return ExitUnreachable
	case !s.Enrolled:
		return ExitNotEnrolled
	case s.Rollup.Compliance == enforce.Noncompliant:
		return ExitNoncompliant
	case s.Policy == nil || s.Policy.Stale || s.Hold != nil || len(s.Health) > 0 || s.Rollup.Compliance != enforce.Compliant || s.CheckIn.Error != "":
		return ExitDegraded
	}
	return ExitHealthy
}

// flatName is the status as any user may see it, for when the agent is dead.
const flatName = "status.json"

// flatten writes the status where "warder status" finds it when nobody answers.
func (a *Agent) flatten(state string) {
	s := a.status(anybody)
	s.Agent = state
	path := filepath.Join(a.o.Paths.Run, flatName)
	// The runtime directory is memory: no durability is wanted, only a whole file.
	if err := os.WriteFile(path+".new", encode(s), 0o644); err != nil { //nolint:gosec // holds what any user may see
		return
	}
	_ = os.Rename(path+".new", path)
}

// FlatStatus reads what a dead agent left.
func FlatStatus(p paths.Paths) (Status, error) {
	var s Status
	b, err := os.ReadFile(filepath.Join(p.Run, flatName))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}
