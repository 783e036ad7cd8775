package api

import (
	"crypto/rand"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/store"
)

type enrollmentBody struct {
	Uses      int      `json:"uses,omitempty" minimum:"1" maximum:"1000000" doc:"how many devices may use it; 1 where absent"`
	Hours     int      `json:"hours,omitempty" minimum:"1" maximum:"8760" doc:"how long it is valid; 24 where absent"`
	Note      string   `json:"note,omitempty" maxLength:"500"`
	Ownership string   `json:"ownership,omitempty" enum:"BYOD,COPE" doc:"of the devices that come by it; what they say where absent"`
	User      string   `json:"user,omitempty" maxLength:"256"`
	Tags      []string `json:"tags,omitempty" maxItems:"50"`
	PolicyID  string   `json:"policy_id,omitempty" maxLength:"128" doc:"their own policy; what their groups say where absent"`
}

type enrollmentView struct {
	ID        string     `json:"id"`
	Token     string     `json:"token,omitempty" doc:"shown once; the server keeps a hash"`
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
}

func viewEnrollment(e store.Enrollment) enrollmentView {
	if e.Tags == nil {
		e.Tags = []string{}
	}
	return enrollmentView{e.ID, "", "", e.Uses, e.Used, second(e.Expires), e.Note, e.Ownership, e.User, e.Tags, e.Policy, second(e.CreatedAt), e.CreatedBy, when(e.RevokedAt)}
}

// NewEnrollment makes a token and its record.
func NewEnrollment(uses int, life time.Duration, by string, now time.Time) (token string, e store.Enrollment) {
	return "wte_" + rand.Text(), store.Enrollment{ID: "enrollment-" + strings.ToLower(rand.Text()[:12]), Uses: uses, Expires: now.Add(life), CreatedAt: now, CreatedBy: by}
}

func createEnrollment(a *API, q *request, in *enrollmentBody) (enrollmentView, error) {
	var errs policy.Errors
	checkTags(in.Tags, &errs)
	text(&errs, "note", in.Note, 500)
	text(&errs, "user", in.User, 256)
	if in.PolicyID != "" && a.state.Load().Policies[in.PolicyID] == nil {
		errs = append(errs, policy.Error{Field: "policy_id", Message: "is no policy", Received: in.PolicyID})
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

func listEnrollments(a *API, q *request) (listView[enrollmentView], error) {
	page, size := q.page()
	list, total, err := a.Store.Enrollments(q.Context(), page, size)
	var data []enrollmentView
	for _, e := range list {
		data = append(data, viewEnrollment(e))
	}
	return listOf(q, data, total), err
}

func revokeEnrollment(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	return messageView{"enrolment token revoked", id}, a.Store.RevokeEnrollment(q.Context(), id, q.now)
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

func listAudit(a *API, q *request) (listView[changeView], error) {
	page, size := q.page()
	list, total, err := a.Store.Audit(q.Context(), q.params.Get("subject"), page, size)
	var data []changeView
	for _, c := range list {
		data = append(data, changeView{c.Sequence, second(c.At), c.By, c.Action, c.Subject, c.Detail, c.Request})
	}
	return listOf(q, data, total), err
}
