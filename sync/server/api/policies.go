package api

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// when is a time, or nil if it is zero.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = second(t)
	return &t
}

// policyView is the policy object as the API answers it, with what the server knows about it.
type policyView struct {
	fleet.Object
	Devices   int             `json:"device_count"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
	Rollout   *rolloutSummary `json:"rollout,omitempty" doc:"the rollout that is bringing this version to devices"`
	Source    string          `json:"source,omitempty" doc:"the other vendor's document that it was made of, and is changed with"`
	Carried   *facade.Carried `json:"source_report,omitempty" doc:"what of that document no device can do, or not all of it"`
}

type rolloutSummary struct {
	ID    string `json:"id"`
	State string `json:"state"`
	From  int    `json:"from_version"`
}

// viewPolicy is a policy with the number of its devices and its rollout.
func (a *API) viewPolicy(ctx context.Context, p *fleet.Policy) (policyView, error) {
	count, _, err := a.counts(ctx)
	if err != nil {
		return policyView{}, err
	}
	v := policyView{Object: p.Object(), Devices: count[p.ID], CreatedAt: second(p.CreatedAt), UpdatedAt: second(p.UpdatedAt)}
	if v.Source = p.Source; v.Source != "" {
		d, err := a.Store.VendorDocument(ctx, p.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return v, err
		}
		if err == nil && len(d.Report) > 0 {
			if err := json.Unmarshal(d.Report, &v.Carried); err != nil {
				return v, err
			}
		}
	}
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
	Version   int       `json:"version,omitempty"`
	Mode      string    `json:"compliance,omitempty" enum:"enforce,warn,monitor" doc:"the policy's mode; default enforce"`
	Source    string    `json:"source,omitempty" doc:"the other vendor's document that it was made of"`
}

// itemOf is a policy as a list shows it.
func itemOf(p *fleet.Policy, devices int) policyItem {
	mode, ok := enforce.ParseMode(strings.Trim(p.Compliance, `"`)) // kept as the JSON that was written
	if !ok {
		mode = enforce.Enforce
	}
	return policyItem{p.ID, p.Name, devices, p.Active, second(p.CreatedAt), p.Version, mode.String(), p.Source}
}

// policyShelf sorts and filters policies, which every node has in memory.
var policyShelf = shelf[*fleet.Policy]{
	id:   func(p *fleet.Policy) string { return p.ID },
	text: func(p *fleet.Policy) string { return p.Name + "\n" + p.Description + "\n" + p.ID },
	orders: map[string]func(*fleet.Policy) string{
		"":           func(p *fleet.Policy) string { return sortable(p.CreatedAt) },
		"name":       func(p *fleet.Policy) string { return strings.ToLower(p.Name) + "\x00" + p.Name },
		"created_at": func(p *fleet.Policy) string { return sortable(p.CreatedAt) },
		"updated_at": func(p *fleet.Policy) string { return sortable(p.UpdatedAt) },
	},
	takes: func(q *request, p *fleet.Policy) bool {
		active := q.params.Get("active")
		return active == "" || (active == "true") == p.Active
	},
}

// listPolicies answers GET /policies.
func listPolicies(a *API, q *request) (listView[policyItem], error) {
	count, _, err := a.counts(q.Context())
	if err != nil {
		return listView[policyItem]{}, err
	}
	list, total, next, err := policyShelf.cut(q, slices.Collect(maps.Values(a.state.Load().Policies)))
	data := make([]policyItem, 0, len(list))
	for _, p := range list {
		data = append(data, itemOf(p, count[p.ID]))
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, err
}

// getPolicy answers GET /policies/{id}.
func getPolicy(a *API, q *request) (policyView, error) {
	p, err := a.Store.Policy(q.Context(), q.PathValue("id"))
	if err != nil {
		return policyView{}, err
	}
	q.etag(p.Version)
	return a.viewPolicy(q.Context(), p)
}

// getDefault answers GET /policies/default.
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

// putDefault answers PUT /policies/default.
func putDefault(a *API, q *request, in *defaultBody) (policyView, error) {
	if p, err := a.Store.Policy(q.Context(), in.PolicyID); err == nil && p.Source != "" {
		return policyView{}, &problem{status: http.StatusConflict, code: "foreign_source",
			message: "the policy was made of " + p.Source + ", which may end there, and there must always be a default: create another policy for it"}
	}
	if err := a.Store.SetDefault(q.Context(), in.PolicyID, q.now); err != nil {
		return policyView{}, err
	}
	if err := a.changed(q.Context()); err != nil {
		return policyView{}, err
	}
	return getDefault(a, q)
}

type deletedView struct {
	Message  string `json:"message"`
	Affected int    `json:"affected_devices"`
	Fallback string `json:"fallback_policy"`
}

// deletePolicy answers DELETE /policies/{id}.
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
	count, _, err := a.counts(q.Context())
	if err != nil {
		return deletedView{}, err
	}
	if err := a.Store.DeletePolicy(q.Context(), id, p.Version, q.now); err != nil {
		return deletedView{}, err
	}
	return deletedView{"policy deleted", count[id], st.Default}, nil
}

type policyDeviceView struct {
	ID            string     `json:"id"`
	Name          string     `json:"device_name"`
	Status        string     `json:"status" enum:"online,offline"`
	PolicyVersion int        `json:"policy_version"`
	LastSync      *time.Time `json:"last_sync"`
}

// policyDevices answers GET /policies/{id}/devices.
func policyDevices(a *API, q *request) (listView[policyDeviceView], error) {
	var none listView[policyDeviceView]
	id := q.PathValue("id")
	if _, err := a.Store.Policy(q.Context(), id); err != nil {
		return none, err
	}
	list, total, next, err := a.devices(q, roster.Filter{Policy: id})
	if err != nil {
		return none, err
	}
	data := make([]policyDeviceView, 0, len(list))
	for _, d := range list {
		data = append(data, policyDeviceView{d.ID, d.Name, a.status(d, q.now), currentOf(d).Version, a.lastSync(d, q.now)})
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, nil
}
