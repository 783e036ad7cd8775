package api

import (
	"context"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
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

// policyView is the policy object as the API answers it, with what the server knows about it.
type policyView struct {
	fleet.Object
	Devices   int             `json:"device_count"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
	Rollout   *rolloutSummary `json:"rollout,omitempty" doc:"the rollout that is bringing this version to devices"`
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
	v := policyView{Object: p.Object(), Devices: count[p.ID], CreatedAt: second(p.CreatedAt), UpdatedAt: second(p.UpdatedAt)}
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

func policyDevices(a *API, q *request) (listView[policyDeviceView], error) {
	var none listView[policyDeviceView]
	page, size := q.page()
	id := q.PathValue("id")
	if _, err := a.Store.Policy(q.Context(), id); err != nil {
		return none, err
	}
	list, total, err := a.devices(q, roster.Filter{Policy: id}, roster.Page{Skip: (page - 1) * size, Size: size})
	if err != nil {
		return none, err
	}
	data := make([]policyDeviceView, 0, len(list))
	for _, d := range list {
		data = append(data, policyDeviceView{d.ID, d.Name, a.status(d, q.now), heldOf(d).Version, when(a.book.seen(d).At)})
	}
	return listOf(q, data, total), nil
}
