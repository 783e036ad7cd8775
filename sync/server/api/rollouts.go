package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

type rolloutBody struct {
	Policy PolicyPatch `json:"policy" doc:"the change, as in PUT /policies/{id}"`
	fleet.Plan
}

type rolloutView struct {
	ID         string      `json:"id"`
	PolicyID   string      `json:"policy_id"`
	From       int         `json:"from_version"`
	To         int         `json:"to_version"`
	State      string      `json:"state" enum:"running,paused,stopped,done"`
	Stage      int         `json:"stage" doc:"from 1"`
	StageSince time.Time   `json:"stage_since"`
	Reason     string      `json:"reason,omitempty"`
	Devices    fleet.Tally `json:"devices"`
	Plan       fleet.Plan  `json:"plan"`
	CreatedAt  time.Time   `json:"created_at"`
	CreatedBy  string      `json:"created_by"`
	EndedAt    *time.Time  `json:"ended_at"`
}

// viewRollout is a rollout with its progress.
func (a *API) viewRollout(ctx context.Context, o *fleet.Rollout) (rolloutView, error) {
	t, err := a.Store.Tally(ctx, o.ID)
	return rolloutView{o.ID, o.Policy, o.From, o.To, o.State, o.Stage + 1, second(o.StageSince), o.Reason, t, o.Plan, second(o.CreatedAt),
		o.CreatedBy, when(o.EndedAt)}, err
}

// startRollout writes a new version and gives it to a growing share of the policy's devices.
func startRollout(a *API, q *request) (rolloutView, error) {
	var shape struct {
		Policy json.RawMessage `json:"policy"`
		fleet.Plan
	}
	tree, errs := policy.Parse(q.body)
	if err := invalid(errs); err != nil {
		return rolloutView{}, err
	}
	top, _ := tree.(map[string]any)
	if _, ok := top["policy"].(map[string]any); !ok {
		return rolloutView{}, invalid(policy.Errors{{Field: "policy", Message: "must be an object: the change, as in PUT /policies/{id}"}})
	}
	if err := json.Unmarshal(q.body, &shape); err != nil {
		return rolloutView{}, bad("the body cannot be read: " + err.Error())
	}
	// The plan is checked by its schema, the change by the policy decoder.
	whole := q.body
	var parts map[string]json.RawMessage
	_ = json.Unmarshal(q.body, &parts)
	delete(parts, "policy")
	q.body, _ = json.Marshal(parts)
	var plan fleet.Plan
	err := q.decode(a, &plan)
	q.body = whole
	if err != nil {
		return rolloutView{}, err
	}
	if field, message := plan.Check(); field != "" {
		return rolloutView{}, invalid(policy.Errors{{Field: field, Message: message}})
	}
	for i, g := range plan.Groups {
		checkTarget(fmt.Sprintf("groups[%d]", i), g, &errs)
	}
	if err := invalid(errs); err != nil {
		return rolloutView{}, err
	}
	e, err := a.edit(q, shape.Policy)
	if err != nil {
		return rolloutView{}, err
	}
	p, before, after := e.policy, e.before, e.after
	if err := madeElsewhere(p); err != nil {
		return rolloutView{}, err
	}
	from := p.Version
	p.Version, p.UpdatedAt = from+1, q.now
	p.Digest = policy.DigestOf(p.Document())
	if after.Active != before.Active {
		return rolloutView{}, refusal(policy.Errors{{Field: "active",
			Message: "cannot change in stages: a policy is active for all or for none", Received: after.Active}})
	}
	if p.Digest == before.Digest {
		return rolloutView{}, bad("the change changes nothing on a device: there is nothing to roll out")
	}
	o := &fleet.Rollout{ID: "rollout-" + strings.ToLower(rand.Text()[:12]), Policy: p.ID, From: from, To: p.Version, Plan: plan,
		State:      fleet.Running,
		StageSince: q.now, CreatedAt: q.now, CreatedBy: q.by}
	if err := a.Store.StartRollout(q.Context(), o, p, from, changesOf(before, after)); err != nil {
		return rolloutView{}, err
	}
	return a.viewRollout(q.Context(), o)
}

var rolloutShelf = shelf[*fleet.Rollout]{
	id:   func(o *fleet.Rollout) string { return o.ID },
	text: func(o *fleet.Rollout) string { return o.ID + "\n" + o.CreatedBy },
	orders: map[string]func(*fleet.Rollout) string{
		"":           func(o *fleet.Rollout) string { return newestFirst(o.CreatedAt) },
		"created_at": func(o *fleet.Rollout) string { return sortable(o.CreatedAt) },
	},
	takes: func(q *request, o *fleet.Rollout) bool {
		state := q.params.Get("state")
		return state == "" || state == o.State
	},
}

// listRollouts answers GET /policies/{id}/rollouts.
func listRollouts(a *API, q *request) (listView[rolloutView], error) {
	none := listView[rolloutView]{}
	all, err := a.Store.Rollouts(q.Context(), q.PathValue("id"))
	if err != nil {
		return none, err
	}
	list, total, next, err := rolloutShelf.cut(q, all)
	if err != nil {
		return none, err
	}
	var data []rolloutView
	for _, o := range list {
		v, err := a.viewRollout(q.Context(), o)
		if err != nil {
			return none, err
		}
		data = append(data, v)
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, nil
}

// getRollout answers GET /rollouts/{id}.
func getRollout(a *API, q *request) (rolloutView, error) {
	o, err := a.Store.Rollout(q.Context(), q.PathValue("id"))
	if err != nil {
		return rolloutView{}, err
	}
	return a.viewRollout(q.Context(), o)
}

// turnRollout makes the handler that pauses, resumes, finishes or stops a rollout.
func turnRollout(from []string, to, reason string) func(*API, *request) (rolloutView, error) {
	return func(a *API, q *request) (rolloutView, error) {
		o, err := a.Store.Rollout(q.Context(), q.PathValue("id"))
		if err != nil {
			return rolloutView{}, err
		}
		ok := false
		for _, s := range from {
			ok = ok || o.State == s
		}
		if !ok {
			return rolloutView{}, &problem{status: http.StatusConflict, code: "rollout_state",
				message: fmt.Sprintf("the rollout is %s", o.State)}
		}
		why := reason + " by " + q.by
		if to == fleet.Stopped {
			err = a.stopRollout(q.Context(), o, why, q.now)
		} else {
			err = a.Store.MoveRollout(q.Context(), o, to, o.Stage, why, q.now)
		}
		if err != nil {
			return rolloutView{}, err
		}
		return getRollout(a, q)
	}
}

// stopRollout sends the devices back: the earlier content becomes the policy's newest version.
func (a *API) stopRollout(ctx context.Context, o *fleet.Rollout, reason string, now time.Time) error {
	was, err := a.Store.PolicyVersion(ctx, o.Policy, o.From)
	if err != nil {
		return err
	}
	cur, err := a.Store.Policy(ctx, o.Policy)
	if err != nil {
		return err
	}
	back, err := fleet.FromDocument(was.Document)
	if err != nil {
		return err
	}
	back.Version, back.CreatedAt, back.UpdatedAt = o.To+1, cur.CreatedAt, now
	after, err := policy.Decode(back.Document(), policy.Options{})
	if err != nil {
		return err
	}
	before, err := policy.Decode(cur.Document(), policy.Options{})
	if err != nil {
		return err
	}
	back.Digest = after.Digest
	return a.Store.StopRollout(ctx, o, back, reason, append([]string{"rollout stopped, back to version " + fmt.Sprint(o.From)},
		changesOf(before, after)...))
}

// advance moves rollouts to the stage that is due, and stops one in which too much went wrong. Every node tries; the
// first one does it.
func (a *API) advance(ctx context.Context) {
	st, now := a.state.Load(), a.Now()
	for _, o := range st.Rollouts {
		if err := a.advanceOne(ctx, st, o, now); err != nil && !errors.Is(err, store.ErrStale) && ctx.Err() == nil {
			a.Log.Error("cannot advance a rollout", "rollout", o.ID, "error", err)
		}
	}
}

// advanceOne moves one rollout on, or stops it.
func (a *API) advanceOne(ctx context.Context, st *fleet.State, o *fleet.Rollout, now time.Time) error {
	if o.State != fleet.Running {
		return nil
	}
	t, err := a.Store.Tally(ctx, o.ID)
	if err != nil {
		return err
	}
	ctx = store.WithActor(ctx, store.Actor{By: "warder-server"})
	count, _, err := a.counts(ctx)
	if err != nil {
		return err
	}
	size, err := a.stageSize(ctx, o, count[o.Policy])
	if err != nil {
		return err
	}
	if o.Plan.Stop(t, size) {
		reason := fmt.Sprintf("stopped by itself: of %d devices that reported, %d reverted and %d turned noncompliant",
			t.Good+t.Reverted+t.Noncompliant, t.Reverted, t.Noncompliant)
		a.Log.Warn("rollout stopped", "rollout", o.ID, "policy", o.Policy, "reason", reason)
		if err := a.stopRollout(ctx, o, reason, now); err != nil {
			return err
		}
		return a.changed(ctx)
	}
	stage, done := o.Next(now, t, size)
	switch {
	case done:
		err = a.Store.MoveRollout(ctx, o, fleet.Done, stage, "all stages are through", now)
	case stage != o.Stage:
		err = a.Store.MoveRollout(ctx, o, fleet.Running, stage, fmt.Sprintf("%d percent", o.Plan.Stages[stage].Percent), now)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return a.changed(ctx)
}

// countedFleet is up to how many devices a stage is counted exactly. Above that, its share is close enough, and far
// more than is needed as evidence.
const countedFleet = 2000

// stageSize is how many devices a stage is for.
func (a *API) stageSize(ctx context.Context, o *fleet.Rollout, devices int) (int, error) {
	if devices > countedFleet {
		return devices * o.Plan.Stages[o.Stage].Percent / 100, nil
	}
	r, err := a.ready(ctx)
	if err != nil {
		return 0, err
	}
	return r.Count(roster.Filter{Policy: o.Policy, State: store.Enrolled}, o.InStage), nil
}

// rolloutOf is the rollout that decides a device's version, if there is one.
func rolloutOf(st *fleet.State, policy string, version int) *fleet.Rollout {
	for _, o := range st.Rollouts {
		if o.Policy == policy && o.To == version {
			return o
		}
	}
	return nil
}

// moved records a device's state before it is sent a rollout's version.
func (a *API) moved(q *request, e *entry, r *fleet.Rendered, st *fleet.State) error {
	o := rolloutOf(st, r.Policy, r.Version)
	if o == nil || e.current.ID == r.Policy && e.current.Version == r.Version {
		return nil
	}
	was := e.d.Report.Rollup
	if was == "" {
		was = "none"
	}
	return a.batch.put(q.Context(), &store.Record{Device: e.d.N, Moved: o.ID, Was: was})
}

// outcome says what became of a device that a rollout moved, from its report.
func (a *API) outcome(q *request, e *entry, in *protocol.Report, rec *store.Record, st *fleet.State) error {
	id, mode := st.Assigned(&e.d.Device)
	for _, o := range st.Rollouts {
		if o.Policy != id {
			continue
		}
		to, err := st.Render(fleet.Variant{Policy: o.Policy, Version: o.To, Compliance: mode})
		if err != nil {
			return err
		}
		// A device that was cut off by a policy goes back and reports it as refused.
		refused := in.Policy.Refused == to.Digest
		has := in.Policy.ID == o.Policy && in.Policy.Version == o.To && !refused
		if !has && !refused {
			continue
		}
		was, outcome, err := a.Store.Before(q.Context(), o.ID, e.d.N)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		rollup := e.d.Report.Rollup
		if in.Findings != nil {
			rollup = rec.Rollup
		}
		now := "good"
		switch {
		case refused:
			now = "reverted"
		case in.Findings == nil && in.FindingsDigest != e.d.Report.FindingsDigest:
			continue // it has not reported its state under it yet
		case was != string(enforce.Noncompliant) && rollup == string(enforce.Noncompliant):
			now = "noncompliant"
		}
		if now != outcome {
			rec.Rollout, rec.Outcome = o.ID, now
		}
	}
	return nil
}
