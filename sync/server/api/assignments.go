package api

import (
	"crypto/rand"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/fleet"
)

type AssignmentBody struct {
	PolicyID   string       `json:"policy_id" minLength:"1" maxLength:"128"`
	Target     fleet.Target `json:"target" doc:"what is given must all match; empty: every device"`
	Priority   int          `json:"priority" minimum:"0" maximum:"1000000" doc:"the highest wins; of equal ones the older"`
	Compliance string       `json:"compliance,omitempty" enum:"enforce,warn,monitor" doc:"mode for these devices; the policy's own where absent"`
}

type assignmentView struct {
	ID string `json:"id"`
	AssignmentBody
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
}

func viewAssignment(x fleet.Assignment) assignmentView {
	return assignmentView{x.ID, AssignmentBody{x.Policy, x.Target, x.Priority, x.Compliance}, second(x.CreatedAt), x.CreatedBy}
}

type assignmentList struct {
	Data  []assignmentView `json:"data"`
	Total int              `json:"total"`
}

// listAssignments gives them in the order in which they are asked.
func listAssignments(a *API, _ *request) (assignmentList, error) {
	out := assignmentList{Data: []assignmentView{}}
	for _, x := range a.state.Load().Assignments {
		out.Data = append(out.Data, viewAssignment(x))
	}
	out.Total = len(out.Data)
	return out, nil
}

// maxAssignments bounds what each check-in asks.
const maxAssignments = 1000

// checkTarget says what is wrong with a group beyond its shape.
func checkTarget(field string, t fleet.Target, errs *policy.Errors) {
	if t.Tag != "" {
		var of policy.Errors
		checkTags([]string{t.Tag}, &of)
		for _, e := range of {
			e.Field = field + ".tag"
			*errs = append(*errs, e)
		}
	}
	text(errs, field+".user", t.User, 256)
}

func createAssignment(a *API, q *request, in *AssignmentBody) (assignmentView, error) {
	var errs policy.Errors
	checkTarget("target", in.Target, &errs)
	if len(a.state.Load().Assignments) >= maxAssignments {
		errs = append(errs, policy.Error{Field: "", Message: "there may be at most 1000 assignments to groups", Received: maxAssignments})
	}
	if err := invalid(errs); err != nil {
		return assignmentView{}, err
	}
	x := fleet.Assignment{ID: "assignment-" + strings.ToLower(rand.Text()[:12]), Policy: in.PolicyID, Target: in.Target, Priority: in.Priority, Compliance: in.Compliance, CreatedAt: q.now, CreatedBy: q.by}
	return viewAssignment(x), a.Store.AddAssignment(q.Context(), x)
}

func deleteAssignment(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	return messageView{"assignment deleted", id}, a.Store.RemoveAssignment(q.Context(), id, q.now)
}
