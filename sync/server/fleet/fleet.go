// Package fleet decides who gets what: which policy, in which version and mode, a device should have. It is pure:
// policies, assignments and rollouts come in as a State that sync/server/store reads in one transaction, and every node
// of the server computes the same answer.
package fleet

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// Policy is one policy at present.
type Policy struct {
	ID, Name, Description, Organization string
	Active                              bool
	Version                             int
	Compliance, Sections                string // raw JSON; "" means absent
	Data                                json.RawMessage
	Digest                              string
	CreatedAt, UpdatedAt                time.Time
	// Source is the other vendor's document that the policy was made of, as "wso2:1"; "" for one that was written here.
	Source string
}

// Object is a policy as JSON: what devices receive, what administrators read and write, and what is stored of each
// version. It is the only place on the server that writes this form.
type Object struct {
	ID           string          `json:"id"`
	Organization string          `json:"organization_id"`
	Name         string          `json:"name"`
	Description  string          `json:"description"`
	Version      int             `json:"version"`
	Active       bool            `json:"active"`
	Compliance   json.RawMessage `json:"compliance,omitempty"`
	Sections     json.RawMessage `json:"section_compliance,omitempty"`
	Data         json.RawMessage `json:"policy_data"`
}

// Object is the policy as JSON.
func (p *Policy) Object() Object {
	return Object{p.ID, p.Organization, p.Name, p.Description, p.Version, p.Active, json.RawMessage(p.Compliance),
		json.RawMessage(p.Sections), p.Data}
}

// Document is the policy object that devices receive.
func (p *Policy) Document() json.RawMessage {
	b, _ := json.Marshal(p.Object())
	return b
}

// FromDocument reads a policy object; times are not part of it.
func FromDocument(b json.RawMessage) (*Policy, error) {
	var o Object
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, err
	}
	return &Policy{ID: o.ID, Organization: o.Organization, Name: o.Name, Description: o.Description, Version: o.Version, Active: o.Active,
		Compliance: string(Compact(o.Compliance)), Sections: string(Compact(o.Sections)), Data: Compact(o.Data),
		Digest: policy.DigestOf(b)}, nil
}

// Device is what decides about a device's policy.
type Device struct {
	ID                  string
	OS, Ownership, User string
	Tags                []string
	Policy              string // its own; "" for none
	Priority            int    // of its own policy
	Compliance          string // mode of its own policy; "" for the policy's
	Current             Variant
}

// Target names a group. An empty field matches everything; all given fields have to match.
type Target struct {
	Platform  string `json:"platform,omitempty" enum:"linux,windows,darwin" doc:"operating system"`
	Ownership string `json:"ownership,omitempty" enum:"ANY,BYOD,COPE" doc:"ownership of the device"`
	User      string `json:"user,omitempty" maxLength:"256" doc:"the device's user"`
	Tag       string `json:"tag,omitempty" maxLength:"64" doc:"one of the device's tags"`
}

// Matches reports whether a device belongs to the group.
func (t Target) Matches(d *Device) bool {
	return (t.Platform == "" || t.Platform == d.OS) && (t.Ownership == "" || t.Ownership == "ANY" || t.Ownership == d.Ownership) &&
		(t.User == "" || t.User == d.User) && (t.Tag == "" || slices.Contains(d.Tags, t.Tag))
}

// String is the target for people.
func (t Target) String() string {
	var parts []string
	for _, p := range [][2]string{{"platform", t.Platform}, {"ownership", t.Ownership}, {"user", t.User}, {"tag", t.Tag}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	if len(parts) == 0 {
		return "all devices"
	}
	return strings.Join(parts, ", ")
}

// Assignment gives a policy to a group.
type Assignment struct {
	ID         string
	Policy     string
	Target     Target
	Priority   int
	Compliance string // mode; "" for the policy's own
	CreatedAt  time.Time
	CreatedBy  string
}

// MaxAssignments bounds what each check-in has to compare.
const MaxAssignments = 1000

// DevicePriority is the priority of a device's own policy if none is given: above any group's.
const DevicePriority = 1000

// Variant is one policy in one version and mode: what a device should have.
type Variant struct {
	Policy     string
	Version    int
	Compliance string // "" for the policy's own
}

// State is everything that decides who gets what, read at one moment.
type State struct {
	Sequence    int64
	Default     string
	Policies    map[string]*Policy
	Assignments []Assignment        // in order of precedence; Order sorts them
	Rollouts    []*Rollout          // running and paused
	Old         map[Variant]*Policy // the versions that rollouts come from

	mu       sync.Mutex
	rendered map[Variant]*Rendered
}

// Next is a new state to be filled in: it has the policies of this one except those that changed, and their cached
// documents.
func (s *State) Next(changed []string) *State {
	out := &State{Policies: maps.Clone(s.Policies), Old: map[Variant]*Policy{}}
	s.mu.Lock()
	out.rendered = maps.Clone(s.rendered)
	s.mu.Unlock()
	for _, id := range changed {
		delete(out.Policies, id)
		for v := range out.rendered {
			if v.Policy == id {
				delete(out.rendered, v)
			}
		}
	}
	return out
}

// Order sorts assignments: the higher priority first; of equal ones the older.
func Order(list []Assignment) {
	slices.SortStableFunc(list, func(a, b Assignment) int {
		if a.Priority != b.Priority {
			return b.Priority - a.Priority
		}
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// active reports whether a policy can be used: it exists and is active.
func (s *State) active(id string) bool {
	p := s.Policies[id]
	return p != nil && p.Active
}

// Assigned is the policy that a device is assigned, and the mode, without rollouts. A device has one policy: the one of
// the highest priority (docs/decisions/0007).
func (s *State) Assigned(d *Device) (id, compliance string) {
	own := d.Policy != "" && s.active(d.Policy)
	for i := range s.Assignments {
		a := &s.Assignments[i]
		if own && d.Priority >= a.Priority {
			break
		}
		if s.active(a.Policy) && a.Target.Matches(d) {
			return a.Policy, a.Compliance
		}
	}
	if own {
		return d.Policy, d.Compliance
	}
	if s.active(s.Default) {
		return s.Default, ""
	}
	return "", ""
}

// SameAssignments reports whether every device is assigned the same policy by both.
func (s *State) SameAssignments(o *State) bool {
	if s.Default != o.Default || len(s.Policies) != len(o.Policies) ||
		!slices.EqualFunc(s.Assignments, o.Assignments, func(a, b Assignment) bool {
			return a.ID == b.ID && a.Policy == b.Policy && a.Target == b.Target && a.Priority == b.Priority
		}) {
		return false
	}
	for id, p := range s.Policies {
		if q := o.Policies[id]; q == nil || p.Active != q.Active {
			return false
		}
	}
	return true
}

// Effective is what a device should have now; false if there is nothing.
func (s *State) Effective(d *Device, now time.Time) (Variant, bool) {
	id, mode := s.Assigned(d)
	if id == "" {
		return Variant{}, false
	}
	v := Variant{Policy: id, Version: s.Policies[id].Version, Compliance: mode}
	for _, r := range s.Rollouts {
		if r.Policy == id && !r.Includes(d, now) {
			v.Version = r.From
		}
	}
	return v, true
}

// Rendered is a variant as devices receive it.
type Rendered struct {
	Variant
	Document json.RawMessage
	Digest   string
	Changed  time.Time // when this version was written
	Decoded  *policy.Document
}

// Render returns the document of a variant, from a cache that lives as long as the state.
func (s *State) Render(v Variant) (*Rendered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rendered[v]; r != nil {
		return r, nil
	}
	p := s.Policies[v.Policy]
	if p == nil || p.Version != v.Version {
		p = s.Old[Variant{Policy: v.Policy, Version: v.Version}]
	}
	if p == nil {
		return nil, errNoVersion
	}
	r, err := Render(p, v.Compliance)
	if err != nil {
		return nil, err
	}
	if s.rendered == nil {
		s.rendered = map[Variant]*Rendered{}
	}
	s.rendered[v] = r
	return r, nil
}

type renderError string

func (e renderError) Error() string { return string(e) }

const errNoVersion = renderError("the policy has no such version")

// Render makes the document of a policy in a mode: the mode replaces the policy's, and no section has a higher one.
func Render(p *Policy, compliance string) (*Rendered, error) {
	q := *p
	if compliance != "" {
		mode, _ := enforce.ParseMode(compliance)
		q.Compliance = `"` + compliance + `"`
		var sections map[string]string
		if q.Sections != "" {
			if err := json.Unmarshal([]byte(q.Sections), &sections); err != nil {
				return nil, err
			}
			for name, text := range sections {
				if m, _ := enforce.ParseMode(text); m > mode {
					sections[name] = compliance
				}
			}
			b, err := json.Marshal(sections)
			if err != nil {
				return nil, err
			}
			q.Sections = string(b)
		}
	}
	doc := q.Document()
	d, err := policy.Decode(doc, policy.Options{})
	if err != nil {
		return nil, err
	}
	return &Rendered{Variant: Variant{p.ID, p.Version, compliance}, Document: doc, Digest: d.Digest, Changed: p.UpdatedAt, Decoded: d}, nil
}

// Compact is raw JSON as it will be signed and hashed: json.Marshal compacts what it embeds.
func Compact(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return nil
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}
