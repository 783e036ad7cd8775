package api

import (
	"encoding/json"
	"slices"
	"sort"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
)

// Tally counts devices by state.
type Tally struct {
	Compliant    int `json:"compliant"`
	Unverified   int `json:"unverified" doc:"what can be read complies, and some setting cannot be read; of devices only"`
	Noncompliant int `json:"noncompliant"`
	Unknown      int `json:"unknown"`
}

// add counts n devices in a state.
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

// policyTally is one policy over the devices that have it.
type policyTally struct {
	PolicyID string `json:"policy_id"`
	Name     string `json:"name"`
	Devices  int    `json:"devices" doc:"devices that report this policy"`
	Assigned int    `json:"assigned" doc:"devices that should have the policy"`
	Tally
	Settings []settingTally `json:"settings"`
}

type complianceView struct {
	Devices  int `json:"devices"`
	Reported int `json:"reported" doc:"devices that have a policy and have reported their compliance"`
	Tally
	Policies []policyTally `json:"policies"`
}

func getCompliance(a *API, q *request) (complianceView, error) { return a.compliance(q, "") }

// policyCompliance answers GET /policies/{id}/compliance.
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

// compliance sums up the fleet, or one policy's devices.
func (a *API) compliance(q *request, only string) (complianceView, error) {
	var out complianceView
	r, err := a.ready(q.Context())
	if err != nil {
		return out, err
	}
	list := r.Standings(only, a.clock(q.now))
	said, err := a.people.said(q.Context(), list)
	if err != nil {
		return out, err
	}
	count, total := r.Counts()
	out.Devices, out.Policies = total, []policyTally{}
	byPolicy := map[string]*policyTally{}
	settings := map[string]map[enforce.Setting]*settingTally{}
	st := a.state.Load()
	for id, p := range st.Policies {
		if only == "" || only == id {
			byPolicy[id] = &policyTally{PolicyID: id, Name: p.Name, Assigned: count[id]}
		}
	}
	gone, err := a.Store.Deleted(q.Context(), unknownPolicies(list, st))
	if err != nil {
		return out, err
	}
	for _, s := range list {
		if st.Policies[s.Policy] == nil && !gone[s.Policy] {
			s.Policy = inventedPolicy // not a policy of this server, whatever a device says
		}
		p := byPolicy[s.Policy]
		if p == nil { // deleted, but devices still have it
			p = &policyTally{PolicyID: s.Policy}
			byPolicy[s.Policy] = p
		}
		if settings[s.Policy] == nil {
			settings[s.Policy] = map[enforce.Setting]*settingTally{}
		}
		if s.Old { // last heard of too long ago: the present state is unknown
			s.Rollup = string(enforce.Uncertain)
		}
		out.Reported += s.Devices
		out.add(enforce.Compliance(s.Rollup), s.Devices)
		p.Devices += s.Devices
		p.add(enforce.Compliance(s.Rollup), s.Devices)
		addStanding(settings[s.Policy], s, said[s.Hash])
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

// inventedPolicy stands for policies that devices report and that this server never had.
const inventedPolicy = "unknown"

// unknownPolicies are the reported policies that do not exist now.
func unknownPolicies(list []roster.Sum, st *fleet.State) (out []string) {
	for _, s := range list {
		if st.Policies[s.Policy] == nil && !slices.Contains(out, s.Policy) {
			if out = append(out, s.Policy); len(out) == 500 {
				break
			}
		}
	}
	return out
}

// otherSettings sums up the settings that this version does not know, because an agent or a policy is newer.
const otherSettings enforce.Setting = "other"

// readStanding reads what standing wrote, also in an earlier version. Words that only a newer agent knows are replaced
// by ours.
func readStanding(body string) ([]stood, error) {
	var list []stood
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return nil, err
	}
	for i := range list {
		f := &list[i]
		if _, known := policy.Find(f.Setting); !known {
			f.Setting = otherSettings
		}
		if !slices.Contains(enforce.Enforcements, f.Enforcement) {
			f.Enforcement = "unknown"
		}
	}
	return list, nil
}

// addStanding counts the devices of one sum, setting by setting.
func addStanding(to map[enforce.Setting]*settingTally, s roster.Sum, list []stood) {
	for _, f := range list {
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
}
