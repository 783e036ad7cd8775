package agent

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce/secret"
)

// Severity says how much a warning matters.
type Severity string

const (
	High   Severity = "high"   // the policy is not in force, or nobody would know
	Medium Severity = "medium" // something does not work as it should; the policy is in force
	Low    Severity = "low"
)

// Warning declares one thing that can be wrong with the agent itself.
type Warning struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Means    string   `json:"means"`
	Do       string   `json:"do"`
	// Depends lists warnings that explain this one. While one of them is active, this one is not shown.
	Depends []string `json:"depends,omitempty"`
	// After is how long the problem has to last before the warning is shown.
	After time.Duration `json:"-"`
	// Local warnings end once the server can be told.
	Local bool `json:"-"`
}

// The codes of warnings. They are sent to the server, so never rename them.
const (
	identityDamaged  = "identity-damaged"
	identityStandby  = "identity-standby"
	ledgerBad        = "ledger"
	storeBad         = "store"
	machineUnread    = "machine-unread"
	machineFailed    = "machine-failed"
	machineUnwatched = "machine-unwatched"
	policyRefused    = "policy-refused"
	serverSetup      = "server-setup"
	serverAway       = "server-away"
	clockWrong       = "clock-wrong"
	configRefused    = "config-refused"
	enrollmentFailed = "enrolment-failed"
	keysRefused      = "keys-refused"
	releaseRefused   = "release-refused"
	bundleFailed     = "diagnostics-failed"
	partStopped      = "part-stopped"
	earlyUnwritten   = "early-start"
	reportCut        = "report-cut"
	sessionMute      = "session-mute"
)

// warnings lists every warning.
var warnings = []Warning{
	{Code: identityDamaged, Severity: High, Means: "the files that say who this machine is cannot be used",
		Do: "enroll this machine again: sudo warder enroll"},
	{Code: identityStandby, Severity: Medium, Means: "the files that say who this machine is cannot be written reliably",
		Do: "check for a full or broken disk (df -h /var/lib/warder); the agent recovers by itself once the disk can be written"},
	{Code: ledgerBad, Severity: High, Means: "the record of this machine's original settings cannot be written reliably",
		Do: "check for a full or broken disk (df -h /var/lib/warder)"},
	{Code: storeBad, Severity: Medium, Means: "events cannot be stored reliably",
		Do: "check for a full or broken disk (df -h /var/lib/warder)"},
	{Code: machineUnread, Severity: High, Means: "a part of this machine cannot be read, so the settings that need it are unknown",
		Do: "the detail says what cannot be read and why; once that is fixed, the agent notices by itself"},
	{Code: machineFailed, Severity: High, Means: "not everything that the policy asks for could be applied",
		Do: "see the findings in warder status, and journalctl -u warder", Depends: []string{machineUnread, ledgerBad}},
	{Code: machineUnwatched, Severity: Low,
		Means: "this machine does not report changes made by other programs; Warder finds them within five minutes",
		Do:    "the usual cause is a container or a missing capability (CAP_SYS_ADMIN); the policy stays in force"},
	{Code: policyRefused, Severity: Medium, Means: "the newest policy was refused; the last good one stays in force",
		Do: "tell the administrator the reason; a corrected policy is picked up by itself"},
	{Code: serverSetup, Severity: High, Means: "the server that this machine is enrolled with cannot be used",
		Do: "check the server's address and the keys; if they are gone, enroll this machine again", Depends: []string{identityDamaged}},
	{Code: serverAway, Severity: Medium, Means: "the server has not been reached for a while; the last policy stays in force",
		Do: "check the network and the proxy in warder.toml; try: warder check-in", Depends: []string{serverSetup}, After: 15 * time.Minute,
		Local: true},
	{Code: clockWrong, Severity: Low, Means: "this machine's clock is wrong",
		Do: "set the clock, or let it be set: timedatectl set-ntp true"},
	{Code: configRefused, Severity: Medium, Means: "the configuration file cannot be used; the last good one stays in force",
		Do: "correct warder.toml; it is read again as soon as it is saved"},
	{Code: enrollmentFailed, Severity: High, Means: "this machine could not be enrolled with the dropped enroll.toml",
		Do: "correct enroll.toml, or check the server, the token and the network; the agent tries again by itself"},
	{Code: keysRefused, Severity: High, Means: "the server changed its policy keys, and this machine does not trust the new ones",
		Do: "ask the administrator whether the keys were changed on purpose; if so, enroll this machine again"},
	{Code: releaseRefused, Severity: Medium, Means: "the server released this machine, but the release could not be carried out",
		Do: "see the reason; the agent tries again at each check-in"},
	{Code: bundleFailed, Severity: Low, Means: "the diagnostics that support asked for could not be sent", Do: "ask for them again",
		Depends: []string{serverAway, serverSetup}},
	{Code: earlyUnwritten, Severity: Low,
		Means: "the policy cannot be saved for the next start of this machine; after a restart it takes effect only when the agent runs",
		Do:    "check /etc/warder: the agent must be able to write the file early there"},
	{Code: reportCut, Severity: Medium,
		Means: "reports are too large for a proxy on the way to the server, so parts are left out; policies still arrive and are enforced",
		Do:    "raise the proxy's limit for request bodies to 1 MiB (nginx: client_max_body_size)", Depends: []string{serverAway}},
	{Code: sessionMute, Severity: Low, Means: "people in a desktop session are not told what is against the policy; it is reported all the same",
		Do: "the detail says why; the helper starts with the next login, or with: systemctl --user start warder-session"},
	{Code: partStopped, Severity: High, Means: "a part of the agent has stopped",
		Do: "restart it: sudo systemctl restart warder; then see journalctl -u warder"},
}

func declared(code string) Warning {
	i := slices.IndexFunc(warnings, func(w Warning) bool { return w.Code == code })
	return warnings[i]
}

// Problem is an active warning.
type Problem struct {
	Warning
	Detail string    `json:"detail"`
	Since  time.Time `json:"since,omitzero"`
}

func (p Problem) String() string { return p.Detail }

// UnmarshalJSON also reads the plain text that an agent of version 0.3 left.
func (p *Problem) UnmarshalJSON(b []byte) error {
	*p = Problem{}
	if json.Unmarshal(b, &p.Detail) == nil {
		return nil
	}
	type plain Problem
	return json.Unmarshal(b, (*plain)(p))
}

// health is what is wrong now.
type health struct {
	now func() time.Time

	mu     sync.Mutex
	stands map[string]Problem // by code and, if there can be several, by the thing concerned
	// pulled are functions that are asked each time whether their warning applies.
	pulled map[string]func() string
}

func newHealth(now func() time.Time) *health {
	return &health{now: now, stands: map[string]Problem{}, pulled: map[string]func() string{}}
}

// pull adds a warning that is active for as long as f returns a reason.
func (h *health) pull(code string, f func() string) {
	declared(code)
	h.pulled[code] = f
}

// set activates a warning, or ends it if the reason is "".
func (h *health) set(code, detail string) { h.of(code, "", detail) }

// of is set, for one of several things that a warning can apply to.
func (h *health) of(code, what, detail string) {
	w := declared(code)
	h.mu.Lock()
	defer h.mu.Unlock()
	key := strings.TrimSuffix(code+" "+what, " ")
	if detail == "" {
		delete(h.stands, key)
		return
	}
	p, stood := h.stands[key]
	if !stood {
		p = Problem{Warning: w, Since: h.now().UTC()}
	}
	p.Detail = secret.Scrub(detail)
	h.stands[key] = p
}

// clear ends everything that was set.
func (h *health) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stands = map[string]Problem{}
}

// all returns the active warnings, including those not shown yet and those explained by another.
func (h *health) all() []Problem {
	var pulled []Problem
	for code, f := range h.pulled {
		if why := f(); why != "" {
			pulled = append(pulled, Problem{Warning: declared(code), Detail: secret.Scrub(why)})
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := pulled
	for _, p := range h.stands {
		out = append(out, p)
	}
	order := func(code string) int {
		return slices.IndexFunc(warnings, func(w Warning) bool { return w.Code == code })
	}
	slices.SortFunc(out, func(a, b Problem) int {
		if x, y := order(a.Code), order(b.Code); x != y {
			return x - y
		}
		return strings.Compare(a.Detail, b.Detail)
	})
	return out
}

// active returns the warnings to show.
func (h *health) active() []Problem {
	list, now := h.all(), h.now()
	stands := map[string]bool{}
	shown := func(p Problem) bool { return p.Since.IsZero() || now.Sub(p.Since) >= p.After }
	for _, p := range list {
		stands[p.Code] = stands[p.Code] || shown(p)
	}
	out := []Problem{}
	for _, p := range list {
		if shown(p) && !slices.ContainsFunc(p.Depends, func(code string) bool { return stands[code] }) {
			out = append(out, p)
		}
	}
	return out
}

// words and codes are what the server is told.
func words(list []Problem) (words, codes []string) {
	for _, p := range list {
		if p.Local {
			continue
		}
		words = append(words, p.Detail)
		if !slices.Contains(codes, p.Code) {
			codes = append(codes, p.Code)
		}
	}
	return words, codes
}

// Check is one line of "warder doctor".
type Check struct {
	Warning
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	// By names the warning that explains this one.
	By string `json:"explained_by,omitempty"`
}

// checkup lists every warning, and whether it is active.
func checkup(list []Problem) []Check {
	var out []Check
	for _, w := range warnings {
		found := false
		for _, p := range list {
			if p.Code != w.Code {
				continue
			}
			found = true
			c := Check{Warning: w, Detail: p.Detail}
			for _, q := range list {
				if slices.Contains(w.Depends, q.Code) {
					c.By = q.Code
				}
			}
			out = append(out, c)
		}
		if !found {
			out = append(out, Check{Warning: w, OK: true})
		}
	}
	return out
}
