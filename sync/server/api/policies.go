package api

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/store"
)

// full is the policy object of the Policies API.
type full struct {
	ID           string          `json:"id"`
	Organization string          `json:"organization_id"`
	Name         string          `json:"name"`
	Description  string          `json:"description"`
	Compliance   json.RawMessage `json:"compliance,omitempty"`
	Sections     json.RawMessage `json:"section_compliance,omitempty"`
	Data         json.RawMessage `json:"policy_data"`
	Version      int             `json:"version"`
	Active       bool            `json:"active"`
	Devices      int             `json:"device_count"`
	CreatedAt    time.Time       `json:"created_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
}

func fullOf(p *store.Policy) full {
	return full{p.ID, p.Organization, p.Name, p.Description, json.RawMessage(p.Compliance), json.RawMessage(p.Sections), p.Data,
		p.Version, p.Active, p.Devices, second(p.CreatedAt), second(p.UpdatedAt)}
}

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func listPolicies(a *API, q *request) (int, any, error) {
	page, size, err := q.page()
	if err != nil {
		return 0, nil, err
	}
	list, total, err := a.Store.Policies(q.Context(), page, size)
	if err != nil {
		return 0, nil, err
	}
	type item struct {
		ID        string    `json:"id"`
		Name      string    `json:"name"`
		Devices   int       `json:"device_count"`
		Active    bool      `json:"active"`
		CreatedAt time.Time `json:"created_at"`
	}
	data := make([]item, 0, len(list))
	for _, p := range list {
		data = append(data, item{p.ID, p.Name, p.Devices, p.Active, second(p.CreatedAt)})
	}
	return http.StatusOK, map[string]any{"data": data, "total": total, "page": page, "page_size": size}, nil
}

func getPolicy(a *API, q *request) (int, any, error) {
	p, err := a.Store.Policy(q.Context(), q.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, fullOf(p), nil
}

func getDefault(a *API, q *request) (int, any, error) {
	p, err := a.Store.Default(q.Context())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, fullOf(p), nil
}

func putDefault(a *API, q *request) (int, any, error) {
	var in struct {
		PolicyID string `json:"policy_id"`
	}
	if err := q.decode(&in); err != nil {
		return 0, nil, err
	}
	if in.PolicyID == "" {
		return 0, nil, &problem{http.StatusBadRequest, "bad_request", "policy_id must be present"}
	}
	if p, err := a.Store.Policy(q.Context(), in.PolicyID); err == nil && !p.Active {
		return 0, nil, &problem{http.StatusConflict, "inactive_policy", "an inactive policy cannot be the default: activate it first"}
	}
	before, err := a.Store.Default(q.Context())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, nil, err
	}
	if err := a.Store.SetDefault(q.Context(), in.PolicyID); err != nil {
		return 0, nil, err
	}
	p, err := a.Store.Default(q.Context())
	if err != nil {
		return 0, nil, err
	}
	if before == nil || before.ID != p.ID {
		a.nudge(p, q.now)
	}
	return http.StatusOK, fullOf(p), nil
}

// decodePolicy reads a document as an administrator wrote it, strictly.
func decodePolicy(body []byte) (*policy.Document, error) {
	d, err := policy.Decode(body, policy.Options{Strict: true})
	if err == nil {
		return d, nil
	}
	invalid := false
	var errs policy.Errors
	if errors.As(err, &errs) {
		return nil, &detailed{http.StatusBadRequest, struct {
			Valid  bool          `json:"valid"`
			Errors policy.Errors `json:"errors"`
		}{invalid, errs}}
	}
	return nil, err
}

func validatePolicy(a *API, q *request) (int, any, error) {
	d, err := decodePolicy(q.body)
	if err != nil {
		return 0, nil, err
	}
	out := map[string]any{"valid": true}
	if w := policy.Warnings(d, q.Host); len(w) > 0 {
		out["warnings"] = w
	}
	return http.StatusOK, out, nil
}

// written is the part of a policy object that an administrator writes, as raw parts.
type written struct {
	ID           *string         `json:"id"`
	Organization *string         `json:"organization_id"`
	Name         *string         `json:"name"`
	Description  *string         `json:"description"`
	Active       *bool           `json:"active"`
	Version      *int            `json:"version"`
	Compliance   json.RawMessage `json:"compliance"`
	Sections     json.RawMessage `json:"section_compliance"`
	Data         json.RawMessage `json:"policy_data"`
}

func createPolicy(a *API, q *request) (int, any, error) {
	if _, err := decodePolicy(q.body); err != nil {
		return 0, nil, err
	}
	var in written
	if err := json.Unmarshal(q.body, &in); err != nil {
		return 0, nil, &problem{http.StatusBadRequest, "bad_request", err.Error()}
	}
	if in.Name == nil || *in.Name == "" {
		return 0, nil, &detailed{http.StatusBadRequest, map[string]any{"valid": false, "errors": policy.Errors{{Field: "name", Message: "must be present"}}}}
	}
	p := &store.Policy{ID: "policy-" + rand.Text()[:12], Active: true, CreatedAt: q.now}
	if err := take(p, in); err != nil {
		return 0, nil, err
	}
	if err := a.save(q, p, nil); err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"id": p.ID, "name": p.Name, "version": p.Version, "active": p.Active,
		"device_count": 0, "created_at": second(p.CreatedAt)}, nil
}

func putPolicy(a *API, q *request) (int, any, error) {
	p, err := a.Store.Policy(q.Context(), q.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	var in written
	if err := json.Unmarshal(q.body, &in); err != nil {
		return 0, nil, &problem{http.StatusBadRequest, "bad_request", "the body cannot be read: " + err.Error()}
	}
	if in.Version != nil && *in.Version != p.Version {
		return 0, nil, &problem{http.StatusConflict, "stale_version", fmt.Sprintf("the policy is at version %d, not %d", p.Version, *in.Version)}
	}
	// What is written is checked on its own first, so that errors name what was sent.
	alone := q.body
	if in.Data == nil {
		var fields map[string]json.RawMessage
		_ = json.Unmarshal(q.body, &fields)
		if fields == nil {
			return 0, nil, &problem{http.StatusBadRequest, "bad_request", "the body must be an object"}
		}
		fields["policy_data"] = json.RawMessage("{}")
		alone, _ = json.Marshal(fields)
	}
	if _, err := decodePolicy(alone); err != nil {
		return 0, nil, err
	}
	if in.Name != nil && *in.Name == "" {
		return 0, nil, &detailed{http.StatusBadRequest, map[string]any{"valid": false, "errors": policy.Errors{{Field: "name", Message: "must not be empty", Received: ""}}}}
	}
	if in.Active != nil && !*in.Active {
		if def, err := a.Store.Default(q.Context()); err == nil && def.ID == p.ID {
			return 0, nil, &problem{http.StatusConflict, "default_policy", "the default policy cannot be inactive: make another one the default first"}
		}
	}
	before, err := decodePolicy(p.Document())
	if err != nil {
		return 0, nil, err
	}
	if err := take(p, in); err != nil {
		return 0, nil, err
	}
	if err := a.save(q, p, before); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"id": p.ID, "name": p.Name, "version": p.Version, "updated_at": second(p.UpdatedAt)}, nil
}

// save writes the next version and nudges whom it reaches.
func (a *API) save(q *request, p *store.Policy, before *policy.Document) error {
	was := p.Version
	p.Version++
	p.UpdatedAt = q.now
	d, err := decodePolicy(p.Document())
	if err != nil {
		return err
	}
	p.Digest = d.Digest
	changes := policy.Diff(before, d)
	err = a.Store.PutPolicy(q.Context(), p, was, q.by, changes)
	if errors.Is(err, store.ErrStale) {
		return &problem{http.StatusConflict, "stale_version", "the policy was changed at the same time; read it again"}
	}
	if err == nil && was > 0 {
		a.nudge(p, q.now)
	}
	return err
}

func policyDevices(a *API, q *request) (int, any, error) {
	page, size, err := q.page()
	if err != nil {
		return 0, nil, err
	}
	id := q.PathValue("id")
	if _, err := a.Store.Policy(q.Context(), id); err != nil {
		return 0, nil, err
	}
	list, total, err := a.Store.Devices(q.Context(), id, page, size)
	if err != nil {
		return 0, nil, err
	}
	type item struct {
		ID            string     `json:"id"`
		Name          string     `json:"device_name"`
		Status        string     `json:"status"`
		PolicyVersion int        `json:"policy_version"`
		LastSync      *time.Time `json:"last_sync"`
	}
	data := make([]item, 0, len(list))
	for _, d := range list {
		held := heldOf(d)
		i := item{ID: d.ID, Name: d.Name, Status: a.status(d, q.now), PolicyVersion: held.Version}
		if !d.LastSeen.IsZero() {
			at := second(d.LastSeen)
			i.LastSync = &at
		}
		data = append(data, i)
	}
	return http.StatusOK, map[string]any{"data": data, "total": total}, nil
}

// compact is raw JSON as it will be signed and hashed: json.Marshal compacts what it embeds.
func compact(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return nil
	}
	var b bytes.Buffer
	_ = json.Compact(&b, raw)
	return b.Bytes()
}

// take puts what an administrator wrote into a policy. A section given replaces that section; the
// rest stays.
func take(p *store.Policy, in written) error {
	text := func(to *string, from *string) {
		if from != nil {
			*to = *from
		}
	}
	text(&p.Name, in.Name)
	text(&p.Description, in.Description)
	text(&p.Organization, in.Organization)
	if in.Active != nil {
		p.Active = *in.Active
	}
	if in.Compliance != nil {
		p.Compliance = string(compact(in.Compliance))
	}
	if in.Sections != nil {
		p.Sections = string(compact(in.Sections))
	}
	if in.Data == nil {
		return nil
	}
	have, given := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if len(p.Data) > 0 {
		if err := json.Unmarshal(p.Data, &have); err != nil {
			return err
		}
	}
	if err := json.Unmarshal(in.Data, &given); err != nil {
		return &problem{http.StatusBadRequest, "bad_request", err.Error()}
	}
	for name, raw := range given {
		have[name] = raw
	}
	var err error
	p.Data, err = json.Marshal(have)
	return err
}
