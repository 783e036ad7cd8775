package api

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

type enrollmentBody struct {
	Uses      int      `json:"uses,omitempty" minimum:"1" maximum:"1000000" doc:"how many devices may use it; default 1"`
	Hours     int      `json:"hours,omitempty" minimum:"1" maximum:"8760" doc:"how long it is valid; default 24"`
	Note      string   `json:"note,omitempty" maxLength:"500"`
	Ownership string   `json:"ownership,omitempty" enum:"BYOD,COPE" doc:"of the devices that enroll with it; default: as they report"`
	User      string   `json:"user,omitempty" maxLength:"256"`
	Tags      []string `json:"tags,omitempty" maxItems:"50"`
	PolicyID  string   `json:"policy_id,omitempty" maxLength:"128" doc:"a policy of their own; default: those of their groups"`
}

type enrollmentView struct {
	ID        string     `json:"id"`
	Token     string     `json:"token,omitempty" doc:"shown only once; the server keeps a hash"`
	CAPin     string     `json:"ca_pin,omitempty" doc:"for warder enroll --ca-pin"`
	Uses      int        `json:"uses"`
	Used      int        `json:"used"`
	ExpiresAt time.Time  `json:"expires_at"`
	Note      string     `json:"note,omitempty"`
	Ownership string     `json:"ownership,omitempty"`
	User      string     `json:"user,omitempty"`
	Tags      []string   `json:"tags"`
	PolicyID  string     `json:"policy_id,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	CreatedBy string     `json:"created_by"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	State     string     `json:"state,omitempty" enum:"usable,used_up,expired,revoked"`
}

// viewEnrollment is a token's record as the API shows it.
func viewEnrollment(e store.Enrollment) enrollmentView {
	if e.Tags == nil {
		e.Tags = []string{}
	}
	return enrollmentView{e.ID, "", "", e.Uses, e.Used, second(e.Expires), e.Note, e.Ownership, e.User, e.Tags, e.Policy,
		second(e.CreatedAt), e.CreatedBy, when(e.RevokedAt), ""}
}

// NewEnrollment makes a token and its record.
func NewEnrollment(uses int, life time.Duration, by string, now time.Time) (token string, e store.Enrollment) {
	return "wte_" + rand.Text(), store.Enrollment{ID: "enrollment-" + strings.ToLower(rand.Text()[:12]), Uses: uses, Expires: now.Add(life),
		CreatedAt: now, CreatedBy: by}
}

// createEnrollment answers POST /enrollments. The token is in this answer only.
func createEnrollment(a *API, q *request, in *enrollmentBody) (enrollmentView, error) {
	var errs policy.Errors
	checkTags(in.Tags, &errs)
	text(&errs, "note", in.Note, 500)
	text(&errs, "user", in.User, 256)
	if in.PolicyID != "" && a.state.Load().Policies[in.PolicyID] == nil {
		errs = append(errs, policy.Error{Field: "policy_id", Message: "is not a policy", Received: in.PolicyID})
	}
	if err := invalid(errs); err != nil {
		return enrollmentView{}, err
	}
	token, e := NewEnrollment(max(in.Uses, 1), time.Duration(in.Hours)*time.Hour, q.by, q.now)
	if in.Hours == 0 {
		e.Expires = q.now.Add(24 * time.Hour)
	}
	e.Note, e.Ownership, e.User, e.Tags, e.Policy = in.Note, in.Ownership, in.User, in.Tags, in.PolicyID
	v := viewEnrollment(e)
	v.Token, v.CAPin = token, a.Keys.CAPin()
	return v, a.Store.AddEnrollment(q.Context(), token, e)
}

// The states of an enrollment token.
const (
	usable  = "usable"
	usedUp  = "used_up"
	expired = "expired"
	revoked = "revoked"
)

// stateOf is the state of a token at a moment.
func stateOf(e store.Enrollment, now time.Time) string {
	switch {
	case !e.RevokedAt.IsZero():
		return revoked
	case e.Used >= e.Uses:
		return usedUp
	case !now.Before(e.Expires):
		return expired
	}
	return usable
}

var enrollmentShelf = shelf[store.Enrollment]{
	id: func(e store.Enrollment) string { return e.ID },
	text: func(e store.Enrollment) string {
		return e.ID + "\n" + e.Note + "\n" + e.User + "\n" + strings.Join(e.Tags, " ") + "\n" + e.CreatedBy
	},
	orders: map[string]func(store.Enrollment) string{
		"":           func(e store.Enrollment) string { return newestFirst(e.CreatedAt) },
		"created_at": func(e store.Enrollment) string { return sortable(e.CreatedAt) },
		"expires_at": func(e store.Enrollment) string { return sortable(e.Expires) },
	},
	takes: func(q *request, e store.Enrollment) bool {
		state, by := q.params.Get("state"), q.params.Get("created_by")
		return (state == "" || state == stateOf(e, q.now)) && (by == "" || by == e.CreatedBy)
	},
}

// listEnrollments answers GET /enrollments.
func listEnrollments(a *API, q *request) (listView[enrollmentView], error) {
	all, err := a.Store.Enrollments(q.Context())
	if err != nil {
		return listView[enrollmentView]{}, err
	}
	list, total, next, err := enrollmentShelf.cut(q, all)
	var data []enrollmentView
	for _, e := range list {
		v := viewEnrollment(e)
		v.State = stateOf(e, q.now)
		data = append(data, v)
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, err
}

func revokeEnrollment(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	return messageView{"enrollment token revoked", id}, a.Store.RevokeEnrollment(q.Context(), id, q.now)
}

type changeView struct {
	Sequence  int64     `json:"sequence"`
	At        time.Time `json:"at"`
	By        string    `json:"by"`
	Action    string    `json:"action"`
	Subject   string    `json:"subject"`
	Detail    []string  `json:"detail"`
	RequestID string    `json:"request_id,omitempty"`
}

func viewChange(c store.Change) changeView {
	return changeView{c.Sequence, second(c.At), c.By, c.Action, c.Subject, c.Detail, c.Request}
}

func listAudit(a *API, q *request) (listView[changeView], error) {
	return a.audit(q, store.AuditFilter{Subject: q.params.Get("subject"), Actor: q.params.Get("actor"), Action: q.params.Get("action")})
}

// audit is a page of the audit log.
func (a *API) audit(q *request, f store.AuditFilter) (listView[changeView], error) {
	var none listView[changeView]
	f.Text, f.Since, f.Until = q.params.Get("q"), q.moment("since"), q.moment("until")
	page, size := q.page()
	skip := (page - 1) * size
	if q.params.Get("cursor") != "" {
		m, err := q.cursor("audit")
		if err != nil {
			return none, err
		}
		f.Before, skip = m.N, 0
	}
	list, total, err := a.Store.Audit(q.Context(), f, skip, size+1)
	if err != nil {
		return none, err
	}
	next := ""
	if len(list) > size {
		list = list[:size]
		next = cursorOf(roster.Mark{N: list[size-1].Sequence, Sort: "audit"})
	}
	var data []changeView
	for _, c := range list {
		data = append(data, viewChange(c))
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, nil
}

// tokenIssued is the audit log's action for a new administrator's token.
const tokenIssued = "token.created"

// listTokens lists the administrators' tokens that were made here, newest first. The audit log is their only record.
func listTokens(a *API, q *request) (listView[changeView], error) {
	return a.audit(q, store.AuditFilter{Action: tokenIssued})
}

type fleetEvent struct {
	DeviceID string            `json:"device_id"`
	Name     string            `json:"device_name"`
	Event    store.StoredEvent `json:"event"`
}

type fleetEvents struct {
	Data []fleetEvent `json:"data"`
	Next string       `json:"next,omitempty" doc:"cursor for the next answer; absent at the end. An answer may be short or empty and still have one"`
}

// listEvents lists the events of all devices, newest first.
func listEvents(a *API, q *request) (fleetEvents, error) {
	out := fleetEvents{Data: []fleetEvent{}}
	f := store.EventFilter{Kind: q.params.Get("kind"), Setting: q.params.Get("setting"), Text: q.params.Get("q"), Since: q.moment("since"),
		Until: q.moment("until")}
	r, err := a.ready(q.Context())
	if err != nil {
		return out, err
	}
	if id := q.params.Get("device_id"); id != "" {
		n, ok := r.Number(id)
		if !ok {
			return out, store.ErrNotFound
		}
		f.Device = n
	}
	if text := q.params.Get("cursor"); text != "" {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err == nil {
			err = json.Unmarshal(b, &f.After)
		}
		if err != nil || f.After == nil {
			return out, badCursor(text)
		}
	}
	list, next, err := a.Store.Fleet(q.Context(), f, q.number("page_size"))
	for _, e := range list {
		id, name := r.Name(e.Device)
		out.Data = append(out.Data, fleetEvent{id, name, e.StoredEvent})
	}
	if next != nil {
		b, _ := json.Marshal(next)
		out.Next = base64.RawURLEncoding.EncodeToString(b)
	}
	return out, err
}
