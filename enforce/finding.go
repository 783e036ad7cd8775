package enforce

import "time"

// Compliance is a finding's first answer: does the machine comply with the setting?
type Compliance string

const (
	Compliant    Compliance = "compliant"
	Noncompliant Compliance = "noncompliant"
	Uncertain    Compliance = "unknown" // could not be read; never counts as compliant
	// Unverified appears only in a rollup: what can be read here complies, and some managed setting cannot be read on
	// this machine.
	Unverified Compliance = "unverified"
)

// Enforcement is a finding's second answer: what Warder does about it here.
type Enforcement string

const (
	Enforced       Enforcement = "enforced"
	Partial        Enforcement = "partial"     // the reason says what escapes
	DetectOnly     Enforcement = "detect_only" // read, never changed
	Observed       Enforcement = "observed"    // warn or monitor
	Unconfirmed    Enforcement = "unconfirmed" // applied, but not yet confirmed by an answer of the server
	PendingRelogin Enforcement = "pending_relogin"
	PendingReboot  Enforcement = "pending_reboot"
	IsGuarded      Enforcement = "guarded"   // not applied, so that nobody is locked out
	Contended      Enforcement = "contended" // another program keeps changing it back
	Conflicting    Enforcement = "conflict"  // on release: the value is neither ours nor the baseline
	NotEnforced    Enforcement = "failed"
	Reverted       Enforcement = "reverted"
	WrongMode      Enforcement = "wrong_mode"
	Unsupported    Enforcement = "unsupported"
)

// Enforcements lists all answers that this version knows.
var Enforcements = []Enforcement{Enforced, Partial, DetectOnly, Observed, Unconfirmed, PendingRelogin, PendingReboot, IsGuarded, Contended,
	Conflicting, NotEnforced, Reverted, WrongMode, Unsupported}

// Finding is the state of one managed setting on the machine.
type Finding struct {
	Setting     Setting     `json:"setting"`
	Mode        Mode        `json:"mode"`
	Compliance  Compliance  `json:"compliance"`
	Enforcement Enforcement `json:"enforcement"`
	Reason      string      `json:"reason,omitempty"`
	Evidence    []Evidence  `json:"evidence,omitempty"`
	Since       time.Time   `json:"since,omitzero"`
	// ReadAt is when the machine was last read for it. Like evidence, a new ReadAt is not news by itself: the server
	// has it from the last report with news, and separately the time of the device's last look.
	ReadAt time.Time `json:"read_at,omitzero"`
}

// Evidence is what was read, where, when and how.
type Evidence struct {
	Key   string    `json:"key"`
	State State     `json:"state"`
	Value Value     `json:"value,omitempty"`
	How   string    `json:"how,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// Alike compares what two findings say, without Since and evidence.
func (f Finding) Alike(o Finding) bool {
	return f.Setting == o.Setting && f.Mode == o.Mode && f.Compliance == o.Compliance &&
		f.Enforcement == o.Enforcement && f.Reason == o.Reason
}

// Aged returns a finding whose evidence is too old: the machine's present state is unknown.
func (f Finding) Aged(now time.Time) Finding {
	if f.Enforcement == Unsupported {
		return f
	}
	f.Compliance = Uncertain
	old := "it was last read " + now.Sub(f.ReadAt).Round(time.Minute).String() + " ago"
	if f.ReadAt.IsZero() {
		old = "the time of the last reading is unknown"
	}
	if f.Reason != "" {
		old += ": " + f.Reason
	}
	f.Reason = old
	return f
}

// rank orders findings from harmless to worst.
func (f Finding) rank() int {
	switch {
	case f.Enforcement == WrongMode:
		return 4
	case f.Compliance == Noncompliant:
		return 3
	case f.Compliance == Compliant:
		return 1
	}
	return 2 // unknown, or a word of a newer version
}

// Rollup is the answer for the whole machine: the worst finding. "compliant" means that every managed setting was read
// back and complies; if one of them cannot be verified on this machine at all, the rollup is "unverified".
type Rollup struct {
	Compliance  Compliance `json:"compliance"`
	WrongMode   bool       `json:"wrong_mode,omitempty"`
	Managed     int        `json:"managed"`
	Unsupported int        `json:"unsupported"`
	Worst       Setting    `json:"worst,omitempty"`
}

// known returns a compliance that this version knows. A newer version's word counts as unknown.
func known(c Compliance) Compliance {
	if c == Compliant || c == Noncompliant {
		return c
	}
	return Uncertain
}

// RollUp takes the worst of all findings.
func RollUp(findings []Finding) Rollup {
	r := Rollup{Compliance: Compliant}
	worst := 0
	var unseen Setting // the first that cannot be verified
	for _, f := range findings {
		if f.Enforcement == Unsupported {
			if r.Unsupported++; r.Unsupported == 1 {
				unseen = f.Setting
			}
			continue
		}
		r.Managed++
		if k := f.rank(); k > worst {
			worst, r.Compliance, r.Worst = k, known(f.Compliance), f.Setting
			r.WrongMode = f.Enforcement == WrongMode
		}
	}
	if r.WrongMode {
		r.Compliance = Noncompliant
	}
	if r.Compliance == Compliant && r.Unsupported > 0 {
		r.Compliance, r.Worst = Unverified, unseen
	}
	return r
}
