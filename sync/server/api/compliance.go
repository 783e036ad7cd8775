package api

import (
	"context"
	"encoding/json"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/store"
)

// Tally counts devices by how they stand.
type Tally struct {
	Compliant    int `json:"compliant"`
	Unverified   int `json:"unverified" doc:"what can be read there holds, and some setting cannot be; of devices alone"`
	Noncompliant int `json:"noncompliant"`
	Unknown      int `json:"unknown"`
}

func (t *Tally) add(c enforce.Compliance, n int) {
	switch c {
	case enforce.Compliant:
		t.Compliant += n
	case enforce.Unverified:
		t.Unverified += n
	case enforce.Noncompliant:
		t.Noncompliant += n
	default:
		t.Unknown += n
	}
}

// settingTally is one setting over all devices that report it.
type settingTally struct {
	Setting enforce.Setting `json:"setting"`
	Tally
	Enforcement map[enforce.Enforcement]int `json:"enforcement"`
	Modes       map[string]int              `json:"modes"`
}

// policyTally is one policy over the devices that hold it.
type policyTally struct {
	PolicyID string `json:"policy_id"`
	Name     string `json:"name"`
	Devices  int    `json:"devices" doc:"that say they hold it"`
	Assigned int    `json:"assigned" doc:"that are to hold it"`
	Tally
	Settings []settingTally `json:"settings"`
}

type complianceView struct {
	Devices  int `json:"devices"`
	Reported int `json:"reported" doc:"devices that hold a policy and have said how they stand"`
	Tally
	Policies []policyTally `json:"policies"`
}

// sums are what was summed up last, where that took long: who looks again at once is shown the same. Two do not
// sum up at a time.
type sums struct {
	mu   sync.Mutex
	last map[string]sum
}

type sum struct {
	at   time.Time
	took time.Duration
	list []store.Standing
}

// A sum that took longer than sumQuick is shown for ten times as long as it took, and sumMost at most.
const (
	sumQuick = 300 * time.Millisecond
	sumMost  = 30 * time.Second
)

func (a *API) standings(ctx context.Context, only string, now time.Time) ([]store.Standing, error) {
	a.sums.mu.Lock()
	defer a.sums.mu.Unlock()
	if s, ok := a.sums.last[only]; ok && time.Since(s.at) < min(10*s.took, sumMost) {
		return s.list, nil
	}
	began := time.Now()
	list, err := a.Store.Standings(ctx, only, now, a.most(now))
	took := time.Since(began)
	if err != nil || took < sumQuick {
		delete(a.sums.last, only)
		return list, err
	}
	if a.sums.last == nil {
		a.sums.last = map[string]sum{}
	}
	a.sums.last[only] = sum{time.Now(), took, list}
	return list, nil
}

func getCompliance(a *API, q *request) (complianceView, error) { return a.compliance(q, "") }

func policyCompliance(a *API, q *request) (policyTally, error) {
	p, err := a.Store.Policy(q.Context(), q.PathValue("id"))
	if err != nil {
		return policyTally{}, err
	}
	v, err := a.compliance(q, p.ID)
	if err != nil {
		return policyTally{}, err
	}
	for _, t := range v.Policies {
		if t.PolicyID == p.ID {
			return t, nil
		}
	}
	return policyTally{PolicyID: p.ID, Name: p.Name, Settings: []settingTally{}}, nil
}

func (a *API) compliance(q *request, only string) (complianceView, error) {
	var out complianceView
	list, err := a.standings(q.Context(), only, q.now)
	if err != nil {
		return out, err
	}
	count, total, err := a.counts(q.Context())
	if err != nil {
		return out, err
	}
	out.Devices, out.Policies = total, []policyTally{}
	byPolicy := map[string]*policyTally{}
	settings := map[string]map[enforce.Setting]*settingTally{}
	st := a.state.Load()
	for id, p := range st.Policies {
		if only == "" || only == id {
			byPolicy[id] = &policyTally{PolicyID: id, Name: p.Name, Assigned: count[id]}
		}
	}
	for _, s := range list {
		if s.Policy == "" || s.Rollup == "" {
			continue
		}
		p := byPolicy[s.Policy]
		if p == nil { // deleted, and still held
			p = &policyTally{PolicyID: s.Policy}
			byPolicy[s.Policy] = p
		}
		if settings[s.Policy] == nil {
			settings[s.Policy] = map[enforce.Setting]*settingTally{}
		}
		if s.Old { // last heard of too long ago: how they stand now nobody knows
			s.Rollup = string(enforce.Uncertain)
		}
		out.Reported += s.Devices
		out.add(enforce.Compliance(s.Rollup), s.Devices)
		p.Devices += s.Devices
		p.add(enforce.Compliance(s.Rollup), s.Devices)
		if err := addStanding(settings[s.Policy], s); err != nil {
			return out, err
		}
	}
	for id, p := range byPolicy {
		p.Settings = []settingTally{}
		for _, t := range settings[id] {
			p.Settings = append(p.Settings, *t)
		}
		sort.Slice(p.Settings, func(i, j int) bool { return p.Settings[i].Setting < p.Settings[j].Setting })
		out.Policies = append(out.Policies, *p)
	}
	sort.Slice(out.Policies, func(i, j int) bool { return out.Policies[i].PolicyID < out.Policies[j].PolicyID })
	return out, nil
}

// otherSettings sums up the settings that this version does not know: a newer agent's, or those that a newer
// policy names.
const otherSettings enforce.Setting = "other"

func addStanding(to map[enforce.Setting]*settingTally, s store.Standing) error {
	var list []stood
	if err := json.Unmarshal([]byte(s.Body), &list); err != nil {
		return err
	}
	for _, f := range list {
		if _, known := policy.Find(f.Setting); !known {
			f.Setting = otherSettings
		}
		if !slices.Contains(enforce.Enforcements, f.Enforcement) {
			f.Enforcement = "unknown"
		}
		t := to[f.Setting]
		if t == nil {
			t = &settingTally{Setting: f.Setting, Enforcement: map[enforce.Enforcement]int{}, Modes: map[string]int{}}
			to[f.Setting] = t
		}
		if s.Old {
			f.Compliance = enforce.Uncertain
		}
		t.add(f.Compliance, s.Devices)
		t.Enforcement[f.Enforcement] += s.Devices
		t.Modes[f.Mode.String()] += s.Devices
	}
	return nil
}
