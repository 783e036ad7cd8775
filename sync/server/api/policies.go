package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
	"github.com/warderd/warder/sync/server/templates"
)

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// when is a time that may not have been.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = second(t)
	return &t
}

// listView is a page of anything.
type listView[T any] struct {
	Data     []T `json:"data"`
	Total    int `json:"total"`
	Page     int `json:"page,omitempty"`
	PageSize int `json:"page_size,omitempty"`
}

func listOf[T any](q *request, data []T, total int) listView[T] {
	page, size := q.page()
	if data == nil {
		data = []T{}
	}
	return listView[T]{data, total, page, size}
}

// census counts devices by policy, at most once per change in a small fleet, and in a large one now
// and then.
type census struct {
	mu     sync.Mutex
	stale  atomic.Bool
	count  map[string]int
	total  int
	at     time.Time
	took   time.Duration
	asking atomic.Bool
}

// Counting that takes longer than this is done in the background, at most every censusRest.
const (
	censusQuick = 30 * time.Millisecond
	censusRest  = 30 * time.Second
)

func (a *API) counts(ctx context.Context) (map[string]int, int, error) {
	c := &a.census
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count != nil && !c.stale.Load() {
		return c.count, c.total, nil
	}
	if c.count != nil && c.took > censusQuick {
		if time.Since(c.at) > censusRest && c.asking.CompareAndSwap(false, true) {
			go func() {
				defer c.asking.Store(false)
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				defer cancel()
				if err := a.count(ctx, func(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }); err != nil {
					a.Log.Error("cannot count devices", "error", err)
				}
			}()
		}
		return c.count, c.total, nil
	}
	err := a.count(ctx, func(f func()) { f() })
	return c.count, c.total, err
}

func (a *API) count(ctx context.Context, locked func(func())) error {
	c := &a.census
	c.stale.Store(false)
	began := time.Now()
	count, err := a.Store.Census(ctx, a.state.Load())
	if err != nil {
		c.stale.Store(true)
		return err
	}
	locked(func() {
		c.count, c.total, c.at, c.took = count, 0, time.Now(), time.Since(began)
		for _, n := range count {
			c.total += n
		}
	})
	return nil
}

// policyView is the policy object of the Policies API.
type policyView struct {
	ID           string          `json:"id"`
	Organization string          `json:"organization_id"`
	Name         string          `json:"name"`
	Description  string          `json:"description"`
	Compliance   modeText        `json:"compliance,omitempty"`
	Sections     sectionModes    `json:"section_compliance,omitempty"`
	Data         policyData      `json:"policy_data"`
	Version      int             `json:"version"`
	Active       bool            `json:"active"`
	Devices      int             `json:"device_count"`
	CreatedAt    time.Time       `json:"created_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
	Rollout      *rolloutSummary `json:"rollout,omitempty" doc:"the rollout that is bringing this version to devices"`
}

type rolloutSummary struct {
	ID    string `json:"id"`
	State string `json:"state"`
	From  int    `json:"from_version"`
}

func (a *API) viewPolicy(ctx context.Context, p *fleet.Policy) (policyView, error) {
	count, _, err := a.counts(ctx)
	if err != nil {
		return policyView{}, err
	}
	v := policyView{ID: p.ID, Organization: p.Organization, Name: p.Name, Description: p.Description, Data: policyData{raw: p.Data}, Version: p.Version,
		Active: p.Active, Devices: count[p.ID], CreatedAt: second(p.CreatedAt), UpdatedAt: second(p.UpdatedAt)}
	_ = json.Unmarshal([]byte(p.Compliance), &v.Compliance) // absent stays absent
	_ = json.Unmarshal([]byte(p.Sections), &v.Sections)
	for _, r := range a.state.Load().Rollouts {
		if r.Policy == p.ID {
			v.Rollout = &rolloutSummary{r.ID, r.State, r.From}
		}
	}
	return v, nil
}

type policyItem struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Devices   int       `json:"device_count"`
	Active    bool      `json:"active"`
	CreatedAt time.Time `json:"created_at"`
}

func listPolicies(a *API, q *request) (listView[policyItem], error) {
	page, size := q.page()
	var none listView[policyItem]
	list, total, err := a.Store.Policies(q.Context(), page, size)
	if err != nil {
		return none, err
	}
	count, _, err := a.counts(q.Context())
	if err != nil {
		return none, err
	}
	data := make([]policyItem, 0, len(list))
	for _, p := range list {
		data = append(data, policyItem{p.ID, p.Name, count[p.ID], p.Active, second(p.CreatedAt)})
	}
	return listOf(q, data, total), nil
}

func getPolicy(a *API, q *request) (policyView, error) {
	p, err := a.Store.Policy(q.Context(), q.PathValue("id"))
	if err != nil {
		return policyView{}, err
	}
	q.etag(p.Version)
	return a.viewPolicy(q.Context(), p)
}

func getDefault(a *API, q *request) (policyView, error) {
	p, err := a.Store.Default(q.Context())
	if err != nil {
		return policyView{}, err
	}
	return a.viewPolicy(q.Context(), p)
}

type defaultBody struct {
	PolicyID string `json:"policy_id" minLength:"1" maxLength:"128"`
}

func putDefault(a *API, q *request, in *defaultBody) (policyView, error) {
	if err := a.Store.SetDefault(q.Context(), in.PolicyID, q.now); err != nil {
		return policyView{}, err
	}
	if err := a.changed(q.Context()); err != nil {
		return policyView{}, err
	}
	return getDefault(a, q)
}

// refusal is a policy that cannot be, with every error.
func refusal(errs policy.Errors) error {
	return &problem{http.StatusBadRequest, "invalid_policy", errs.Error(), errs}
}

// decodePolicy reads a document as an administrator wrote it, strictly.
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

func validatePolicy(_ *API, q *request) (validView, error) {
	d, err := policy.Decode(q.body, policy.Options{Strict: true})
	var errs policy.Errors
	if errors.As(err, &errs) {
		q.status = http.StatusBadRequest
		return validView{Errors: errs}, nil
	}
	if err != nil {
		return validView{}, err
	}
	return validView{Valid: true, Warnings: policy.Warnings(d, q.Host)}, nil
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

func createPolicy(a *API, q *request) (createdView, error) {
	if _, err := decodePolicy(q.body); err != nil {
		return createdView{}, err
	}
	var in written
	if err := json.Unmarshal(q.body, &in); err != nil {
		return createdView{}, bad(err.Error())
	}
	if in.Name == nil || *in.Name == "" {
		return createdView{}, refusal(policy.Errors{{Field: "name", Message: "must be present and not empty"}})
	}
	return a.create(q, in)
}

func (a *API) create(q *request, in written) (createdView, error) {
	p := &fleet.Policy{ID: newPolicyID(), Active: true, CreatedAt: q.now}
	if err := take(p, in); err != nil {
		return createdView{}, err
	}
	d, err := a.save(q, p, nil)
	if err != nil {
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

func putPolicy(a *API, q *request) (updatedView, error) {
	p, before, _, err := a.edit(q, q.body)
	if err != nil {
		return updatedView{}, err
	}
	d, err := a.save(q, p, before)
	if err != nil {
		return updatedView{}, err
	}
	q.etag(p.Version)
	return updatedView{p.ID, p.Name, p.Version, second(p.UpdatedAt), policy.Warnings(d, q.Host)}, nil
}

// edit puts what an administrator wrote over a policy as it stands; nothing is stored. It gives the
// policy as it would be and the document as it is.
func (a *API) edit(q *request, body []byte) (p *fleet.Policy, before, after *policy.Document, err error) {
	if p, err = a.Store.Policy(q.Context(), q.PathValue("id")); err != nil {
		return nil, nil, nil, err
	}
	// What is written is checked on its own first, so that errors name what was sent.
	tree, errs := policy.Parse(body)
	if err := invalid(errs); err != nil {
		return nil, nil, nil, err
	}
	fields, ok := tree.(map[string]any)
	if !ok {
		return nil, nil, nil, bad("the body must be an object")
	}
	alone := body
	if _, ok := fields["policy_data"]; !ok {
		var parts map[string]json.RawMessage
		_ = json.Unmarshal(body, &parts)
		parts["policy_data"] = json.RawMessage("{}")
		alone, _ = json.Marshal(parts)
	}
	if _, err := decodePolicy(alone); err != nil {
		return nil, nil, nil, err
	}
	var in written
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, nil, nil, bad("the body cannot be read: " + err.Error())
	}
	want, err := q.ifMatch()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := precondition(p.Version, want); err != nil {
		return nil, nil, nil, err
	}
	if in.Version != nil && *in.Version != p.Version {
		return nil, nil, nil, &problem{status: http.StatusConflict, code: "stale_version", message: "the policy is at version " + strconv.Itoa(p.Version) + ", not " + strconv.Itoa(*in.Version)}
	}
	if in.ID != nil && *in.ID != p.ID {
		return nil, nil, nil, refusal(policy.Errors{{Field: "id", Message: "is another policy's than the path's", Received: *in.ID}})
	}
	if in.Name != nil && *in.Name == "" {
		return nil, nil, nil, refusal(policy.Errors{{Field: "name", Message: "must not be empty", Received: ""}})
	}
	if in.Active != nil && !*in.Active && a.state.Load().Default == p.ID {
		return nil, nil, nil, &problem{status: http.StatusConflict, code: "default_policy", message: "the default policy cannot be inactive: make another one the default first"}
	}
	if before, err = policy.Decode(p.Document(), policy.Options{}); err != nil {
		return nil, nil, nil, err
	}
	if err := take(p, in); err != nil {
		return nil, nil, nil, err
	}
	after, err = decodePolicy(p.Document())
	return p, before, after, err
}

// save writes the next version.
func (a *API) save(q *request, p *fleet.Policy, before *policy.Document) (*policy.Document, error) {
	was := p.Version
	p.Version++
	p.UpdatedAt = q.now
	d, err := decodePolicy(p.Document())
	if err != nil {
		return nil, err
	}
	p.Digest = d.Digest
	return d, a.Store.PutPolicy(q.Context(), p, was, changesOf(before, d))
}

// changesOf says what a version changes; a change that takes no effect on a device is said, too.
func changesOf(before, after *policy.Document) []string {
	changes := policy.Diff(before, after)
	if before == nil {
		return changes
	}
	for _, c := range []struct{ field, was, is string }{{"name", before.Name, after.Name}, {"description", before.Description, after.Description},
		{"organization_id", before.Organization, after.Organization}, {"active", strconv.FormatBool(before.Active), strconv.FormatBool(after.Active)}} {
		if c.was != c.is {
			changes = append(changes, c.field+": "+strconv.Quote(short(c.was))+" → "+strconv.Quote(short(c.is)))
		}
	}
	if len(changes) == 0 {
		changes = []string{"no change"}
	}
	return changes
}

type deletedView struct {
	Message  string `json:"message"`
	Affected int    `json:"affected_devices"`
	Fallback string `json:"fallback_policy"`
}

func deletePolicy(a *API, q *request) (deletedView, error) {
	id := q.PathValue("id")
	p, err := a.Store.Policy(q.Context(), id)
	if err != nil {
		return deletedView{}, err
	}
	want, err := q.ifMatch()
	if err == nil {
		err = precondition(p.Version, want)
	}
	if err != nil {
		return deletedView{}, err
	}
	st := a.state.Load()
	n, err := a.Store.Count(q.Context(), st, store.Filter{Policy: id})
	if err != nil {
		return deletedView{}, err
	}
	if err := a.Store.DeletePolicy(q.Context(), id, p.Version, q.now); err != nil {
		return deletedView{}, err
	}
	return deletedView{"policy deleted", n, st.Default}, nil
}

type policyDeviceView struct {
	ID            string     `json:"id"`
	Name          string     `json:"device_name"`
	Status        string     `json:"status" enum:"online,offline"`
	PolicyVersion int        `json:"policy_version"`
	LastSync      *time.Time `json:"last_sync"`
}

func policyDevices(a *API, q *request) (listView[policyDeviceView], error) {
	var none listView[policyDeviceView]
	page, size := q.page()
	id := q.PathValue("id")
	if _, err := a.Store.Policy(q.Context(), id); err != nil {
		return none, err
	}
	st, f := a.state.Load(), store.Filter{Policy: id}
	total, err := a.Store.Count(q.Context(), st, f)
	if err != nil {
		return none, err
	}
	list, err := a.Store.Devices(q.Context(), st, f, page, size)
	if err != nil {
		return none, err
	}
	data := make([]policyDeviceView, 0, len(list))
	for _, d := range list {
		data = append(data, policyDeviceView{d.ID, d.Name, a.status(d, q.now), heldOf(d).Version, when(a.book.lastSeen(d))})
	}
	return listOf(q, data, total), nil
}

type HistoryItem struct {
	Version   int       `json:"version"`
	ChangedBy string    `json:"changed_by"`
	ChangedAt time.Time `json:"changed_at"`
	Changes   []string  `json:"changes"`
}

// historyList has what the documented answer has, and beside it how much there is.
type historyList struct {
	Data     []HistoryItem `json:"data"`
	Total    int           `json:"total,omitempty"`
	Page     int           `json:"page,omitempty"`
	PageSize int           `json:"page_size,omitempty"`
}

func policyHistory(a *API, q *request) (historyList, error) {
	page, size := q.page()
	list, total, err := a.Store.History(q.Context(), q.PathValue("id"), page, size)
	if err == nil && total == 0 {
		err = store.ErrNotFound
	}
	var data []HistoryItem
	for _, v := range list {
		data = append(data, HistoryItem{v.Version, v.By, second(v.At), v.Changes})
	}
	return historyList(listOf(q, data, total)), err
}

type versionView struct {
	HistoryItem
	Policy storedPolicy `json:"policy"`
}

// storedPolicy is a policy object as it was written.
type storedPolicy struct {
	ID           string       `json:"id"`
	Organization string       `json:"organization_id,omitempty"`
	Name         string       `json:"name"`
	Description  string       `json:"description,omitempty"`
	Version      int          `json:"version"`
	Active       bool         `json:"active"`
	Compliance   modeText     `json:"compliance,omitempty"`
	Sections     sectionModes `json:"section_compliance,omitempty"`
	Data         policyData   `json:"policy_data"`
}

func policyVersion(a *API, q *request) (versionView, error) {
	n, err := strconv.Atoi(q.PathValue("version"))
	if err != nil {
		return versionView{}, store.ErrNotFound
	}
	v, err := a.Store.PolicyVersion(q.Context(), q.PathValue("id"), n)
	if err != nil {
		return versionView{}, err
	}
	out := versionView{HistoryItem: HistoryItem{v.Version, v.By, second(v.At), v.Changes}}
	return out, json.Unmarshal(v.Document, &out.Policy)
}

// take puts what an administrator wrote into a policy. A section given replaces that section; the
// rest stays.
func take(p *fleet.Policy, in written) error {
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
		p.Compliance = string(fleet.Compact(in.Compliance))
	}
	if in.Sections != nil {
		p.Sections = string(fleet.Compact(in.Sections))
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
		return bad(err.Error())
	}
	for name, raw := range given {
		have[name] = raw
	}
	var err error
	p.Data, err = json.Marshal(have)
	return err
}

type TemplateItem struct {
	ID             string   `json:"id"`
	Name           string   `json:"name"`
	Description    string   `json:"description"`
	RecommendedFor []string `json:"recommended_for"`
}

type templateList struct {
	Data []TemplateItem `json:"data"`
}

func listTemplates(*API, *request) (templateList, error) {
	var out templateList
	for _, t := range templates.All {
		out.Data = append(out.Data, TemplateItem{t.ID, t.Name, t.Description, t.RecommendedFor})
	}
	return out, nil
}

type templateView struct {
	TemplateItem
	Compliance modeText   `json:"compliance"`
	Data       policyData `json:"policy_data"`
}

func getTemplate(_ *API, q *request) (templateView, error) {
	t, ok := templates.Find(q.PathValue("id"))
	if !ok {
		return templateView{}, store.ErrNotFound
	}
	return templateView{TemplateItem{t.ID, t.Name, t.Description, t.RecommendedFor}, modeText(t.Compliance), policyData{raw: t.Data}}, nil
}

type fromTemplateBody struct {
	TemplateID     string       `json:"template_id" minLength:"1" maxLength:"64"`
	Name           string       `json:"name" minLength:"1" maxLength:"4096"`
	Description    *string      `json:"description,omitempty" maxLength:"4096"`
	Organization   *string      `json:"organization_id,omitempty" maxLength:"4096"`
	Compliance     modeText     `json:"compliance,omitempty"`
	Sections       sectionModes `json:"section_compliance,omitempty"`
	Customizations policyData   `json:"customizations,omitempty" doc:"laid over the template, setting by setting"`
}

// fromTemplate lays customizations over a template, however deep: an object is merged, anything
// else is replaced.
func fromTemplate(a *API, q *request) (createdView, error) {
	var in struct {
		fromTemplateBody
		Customizations map[string]any  `json:"customizations"`
		Compliance     json.RawMessage `json:"compliance"`
		Sections       json.RawMessage `json:"section_compliance"`
	}
	var shape fromTemplateBody
	if err := q.decode(a, &shape); err != nil {
		return createdView{}, err
	}
	if err := json.Unmarshal(q.body, &in); err != nil {
		return createdView{}, bad("the body cannot be read: " + err.Error())
	}
	t, ok := templates.Find(in.TemplateID)
	if !ok {
		return createdView{}, invalid(policy.Errors{{Field: "template_id", Message: "is no template; GET /policies/templates lists them", Received: in.TemplateID}})
	}
	var data map[string]any
	if err := json.Unmarshal(t.Data, &data); err != nil {
		return createdView{}, err
	}
	if in.Customizations != nil {
		alone, _ := json.Marshal(map[string]any{"policy_data": in.Customizations})
		if _, err := decodePolicy(alone); err != nil {
			return createdView{}, err
		}
		overlay(data, in.Customizations)
	}
	w := written{Name: &in.Name, Description: in.Description, Organization: in.Organization, Compliance: in.Compliance, Sections: in.Sections}
	if w.Description == nil {
		w.Description = &t.Description
	}
	if w.Compliance == nil {
		w.Compliance, _ = json.Marshal(t.Compliance)
	}
	w.Data, _ = json.Marshal(data)
	return a.create(q, w)
}

func overlay(under, over map[string]any) {
	for name, v := range over {
		o, oo := v.(map[string]any)
		u, uo := under[name].(map[string]any)
		if oo && uo {
			overlay(u, o)
			continue
		}
		under[name] = v
	}
}
