package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
)

// refusal reports an invalid policy, with every error.
func refusal(errs policy.Errors) error {
	return &problem{http.StatusBadRequest, "invalid_policy", errs.Error(), errs}
}

// decodePolicy strictly reads a document as an administrator wrote it.
func decodePolicy(body []byte) (*policy.Document, error) {
	d, err := policy.Decode(body, policy.Options{Strict: true})
	var errs policy.Errors
	if errors.As(err, &errs) {
		return nil, refusal(errs)
	}
	return d, err
}

type validView struct {
	Valid    bool             `json:"valid"`
	Warnings []policy.Warning `json:"warnings,omitempty"`
	Errors   []policy.Error   `json:"errors,omitempty"`
}

// validatePolicy answers POST /policies/validate.
func validatePolicy(a *API, q *request) (validView, error) {
	d, err := policy.Decode(q.body, policy.Options{Strict: true})
	if err == nil {
		err = a.listsThere(q.Context(), d)
	}
	var errs policy.Errors
	var no *problem
	if errors.As(err, &no) {
		errs, _ = no.errors.(policy.Errors)
		err = errs
	}
	if errors.As(err, &errs) {
		q.status = http.StatusBadRequest
		return validView{Errors: errs}, nil
	}
	if err != nil {
		return validView{}, err
	}
	return validView{Valid: true, Warnings: policy.Warnings(d, q.Host)}, nil
}

type createdView struct {
	ID        string           `json:"id"`
	Name      string           `json:"name"`
	Version   int              `json:"version"`
	Active    bool             `json:"active"`
	Devices   int              `json:"device_count"`
	CreatedAt time.Time        `json:"created_at"`
	Warnings  []policy.Warning `json:"warnings,omitempty"`
}

func newPolicyID() string { return "policy-" + rand.Text()[:12] }

func createPolicy(a *API, q *request) (createdView, error) { return a.create(q, q.body) }

// create makes a policy of a document.
func (a *API) create(q *request, body []byte) (createdView, error) {
	d, err := decodePolicy(body)
	if err == nil {
		err = a.listsThere(q.Context(), d)
	}
	if err != nil {
		return createdView{}, err
	}
	p, err := fleet.FromDocument(body)
	if err != nil {
		return createdView{}, bad("the body cannot be read: " + err.Error())
	}
	if d.Name == "" {
		no := policy.Error{Field: "name", Message: "must be present and not empty"}
		var in struct{ Name *string }
		if json.Unmarshal(body, &in) == nil && in.Name != nil {
			no.Received = *in.Name
		}
		return createdView{}, refusal(policy.Errors{no})
	}
	p.ID, p.Active, p.Version, p.CreatedAt = newPolicyID(), d.Active, 0, q.now
	if err := a.save(q, p, nil, d); err != nil {
		return createdView{}, err
	}
	q.etag(p.Version)
	q.w.Header().Set("Location", protocol.Base+"/policies/"+p.ID)
	return createdView{p.ID, p.Name, p.Version, p.Active, 0, second(p.CreatedAt), policy.Warnings(d, q.Host)}, nil
}

type updatedView struct {
	ID        string           `json:"id"`
	Name      string           `json:"name"`
	Version   int              `json:"version"`
	UpdatedAt time.Time        `json:"updated_at"`
	Warnings  []policy.Warning `json:"warnings,omitempty"`
}

// putPolicy answers PUT /policies/{id}.
func putPolicy(a *API, q *request) (updatedView, error) {
	e, err := a.edit(q, q.body)
	if err != nil {
		return updatedView{}, err
	}
	p := e.policy
	if err := madeElsewhere(p); err != nil {
		return updatedView{}, err
	}
	if err := a.save(q, p, e.before, e.after); err != nil {
		return updatedView{}, err
	}
	q.etag(p.Version)
	return updatedView{p.ID, p.Name, p.Version, second(p.UpdatedAt), policy.Warnings(e.after, q.Host)}, nil
}

// edit is an administrator's change to the present policy.
type edit struct {
	policy        *fleet.Policy // as it would be, still with the old version's number
	before, after *policy.Document
}

// edit applies an administrator's change to the present policy, without storing it. The resulting document is decoded
// once; its errors name the fields that were sent, because the others were valid.
func (a *API) edit(q *request, body []byte) (e edit, err error) {
	p, err := a.Store.Policy(q.Context(), q.PathValue("id"))
	if err != nil {
		return e, err
	}
	tree, errs := policy.Parse(body)
	if err := invalid(errs); err != nil {
		return e, err
	}
	fields, ok := tree.(map[string]any)
	if !ok {
		return e, bad("the body must be an object")
	}
	want, err := q.ifMatch()
	if err == nil {
		err = precondition(p.Version, want)
	}
	if err != nil {
		return e, err
	}
	whole, err := over(p.Document(), body)
	if err != nil {
		return e, err
	}
	if e.after, err = decodeEdited(whole, fields); err != nil {
		return e, err
	}
	if err := a.editable(p, e.after, fields); err != nil {
		return e, err
	}
	if err := a.listsThere(q.Context(), e.after); err != nil {
		return e, err
	}
	if e.before, err = a.decoded(p); err != nil {
		return e, err
	}
	e.policy, err = fleet.FromDocument(whole)
	if err == nil {
		e.policy.Version, e.policy.CreatedAt, e.policy.UpdatedAt, e.policy.Source = p.Version, p.CreatedAt, p.UpdatedAt, p.Source
	}
	return e, err
}

// decodeEdited reads a policy of which some fields were sent. A stored field that an earlier version accepted is no
// reason to refuse a change to another field: devices accept it, too.
func decodeEdited(whole []byte, sent map[string]any) (*policy.Document, error) {
	d, err := policy.Decode(whole, policy.Options{Strict: true})
	var errs policy.Errors
	if !errors.As(err, &errs) {
		return d, err
	}
	sections, _ := sent["policy_data"].(map[string]any)
	theirs := slices.ContainsFunc(errs, func(e policy.Error) bool {
		first := e.Field
		if i := strings.IndexAny(first, ".["); i >= 0 {
			first = first[:i]
		}
		_, field := sent[first]
		_, section := sections[first]
		return field || section
	})
	if !theirs {
		if d, err := policy.Decode(whole, policy.Options{}); err == nil {
			return d, nil
		}
	}
	return nil, refusal(errs)
}

// editable refuses a change that is valid in itself but cannot apply to the present policy.
func (a *API) editable(p *fleet.Policy, d *policy.Document, fields map[string]any) error {
	_, named := fields["name"]
	switch {
	case d.Version != p.Version:
		return &problem{status: http.StatusConflict, code: "stale_version",
			message: "the policy is at version " + strconv.Itoa(p.Version) + ", not " + strconv.Itoa(d.Version)}
	case d.ID != p.ID:
		return refusal(policy.Errors{{Field: "id", Message: "is not the id in the path", Received: d.ID}})
	case named && d.Name == "":
		return refusal(policy.Errors{{Field: "name", Message: "must not be empty", Received: ""}})
	case !d.Active && a.state.Load().Default == p.ID:
		return &problem{status: http.StatusConflict, code: "default_policy",
			message: "the default policy cannot be inactive: make another one the default first"}
	}
	return nil
}

// decoded is the present policy's document; it is nearly always decoded already, because devices have received it.
func (a *API) decoded(p *fleet.Policy) (*policy.Document, error) {
	st := a.state.Load()
	if known := st.Policies[p.ID]; known != nil && known.Version == p.Version {
		r, err := st.Render(fleet.Variant{Policy: p.ID, Version: p.Version})
		if err == nil {
			return r.Decoded, nil
		}
	}
	return policy.Decode(p.Document(), policy.Options{})
}

// save writes the next version.
func (a *API) save(q *request, p *fleet.Policy, before, after *policy.Document) error {
	was := p.Version
	p.Version++
	p.UpdatedAt = q.now
	p.Digest = policy.DigestOf(p.Document())
	return a.Store.PutPolicy(q.Context(), p, was, changesOf(before, after))
}

// over applies an object to a policy's document: a given field replaces that field, and a given section that section;
// the rest stays.
func over(document, body []byte) ([]byte, error) {
	have, given := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal(document, &have); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &given); err != nil {
		return nil, bad("the body cannot be read: " + err.Error())
	}
	var sections, written map[string]json.RawMessage
	if raw, ok := given["policy_data"]; ok && json.Unmarshal(raw, &written) == nil && written != nil {
		if err := json.Unmarshal(have["policy_data"], &sections); err != nil {
			return nil, err
		}
		if sections == nil {
			sections = map[string]json.RawMessage{}
		}
		maps.Copy(sections, written)
		b, err := json.Marshal(sections)
		if err != nil {
			return nil, err
		}
		given["policy_data"] = b
	}
	maps.Copy(have, given)
	return json.Marshal(have)
}
