package api

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

type AssignmentBody struct {
	PolicyID   string       `json:"policy_id" minLength:"1" maxLength:"128"`
	Target     fleet.Target `json:"target" doc:"a device has to match every given field; an empty target matches every device"`
	Priority   int          `json:"priority" minimum:"0" maximum:"1000000" doc:"the highest wins; of equal ones, the oldest"`
	Compliance string       `json:"compliance,omitempty" enum:"enforce,warn,monitor" doc:"mode for these devices; default: the policy's own"`
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

var assignmentShelf = shelf[fleet.Assignment]{
	id: func(x fleet.Assignment) string { return x.ID },
	text: func(x fleet.Assignment) string {
		return x.ID + "\n" + x.Policy + "\n" + x.Target.String() + "\n" + x.CreatedBy
	},
	orders: map[string]func(fleet.Assignment) string{
		// In order of precedence (fleet.Order).
		"":           func(x fleet.Assignment) string { return fmt.Sprintf("%010d", 1<<31-x.Priority) + sortable(x.CreatedAt) },
		"priority":   func(x fleet.Assignment) string { return fmt.Sprintf("%010d", x.Priority) },
		"created_at": func(x fleet.Assignment) string { return sortable(x.CreatedAt) },
	},
	takes: func(q *request, x fleet.Assignment) bool {
		t := x.Target
		for name, v := range map[string]string{"policy_id": x.Policy, "platform": t.Platform, "ownership": t.Ownership, "user": t.User,
			"tag": t.Tag} {
			if want := q.params.Get(name); want != "" && want != v {
				return false
			}
		}
		return true
	},
}

// listAssignments lists them in order of precedence.
func listAssignments(a *API, q *request) (listView[assignmentView], error) {
	list, total, next, err := assignmentShelf.cut(q, a.state.Load().Assignments)
	data := make([]assignmentView, 0, len(list))
	for _, x := range list {
		data = append(data, viewAssignment(x))
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, err
}

// getAssignment answers GET /assignments/{id}.
func getAssignment(a *API, q *request) (assignmentView, error) {
	for _, x := range a.state.Load().Assignments {
		if x.ID == q.PathValue("id") {
			return viewAssignment(x), nil
		}
	}
	return assignmentView{}, store.ErrNotFound
}

// putAssignment replaces one.
func putAssignment(a *API, q *request, in *AssignmentBody) (assignmentView, error) {
	was, err := getAssignment(a, q)
	if err == nil {
		err = assignedElsewhere(was.ID)
	}
	if err != nil {
		return was, err
	}
	var errs policy.Errors
	checkTarget("target", in.Target, &errs)
	if a.state.Load().Policies[in.PolicyID] == nil {
		errs = append(errs, policy.Error{Field: "policy_id", Message: "is not a policy", Received: in.PolicyID})
	}
	if err := invalid(errs); err != nil {
		return was, err
	}
	was.AssignmentBody = *in
	return was, a.Store.EditAssignment(q.Context(), fleet.Assignment{ID: was.ID, Policy: in.PolicyID, Target: in.Target,
		Priority: in.Priority, Compliance: in.Compliance}, q.now)
}

// checkTarget checks a group beyond its shape.
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

// createAssignment answers POST /assignments.
func createAssignment(a *API, q *request, in *AssignmentBody) (assignmentView, error) {
	var errs policy.Errors
	checkTarget("target", in.Target, &errs)
	if len(a.state.Load().Assignments) >= fleet.MaxAssignments {
		errs = append(errs, policy.Error{Field: "", Message: "there may be at most 1000 assignments to groups", Received: fleet.MaxAssignments})
	}
	if err := invalid(errs); err != nil {
		return assignmentView{}, err
	}
	x := fleet.Assignment{ID: "assignment-" + strings.ToLower(rand.Text()[:12]), Policy: in.PolicyID, Target: in.Target,
		Priority: in.Priority, Compliance: in.Compliance, CreatedAt: q.now, CreatedBy: q.by}
	return viewAssignment(x), a.Store.AddAssignment(q.Context(), x)
}

func deleteAssignment(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	if _, err := getAssignment(a, q); err == nil {
		if err := assignedElsewhere(id); err != nil {
			return messageView{}, err
		}
	}
	return messageView{"assignment deleted", id}, a.Store.RemoveAssignment(q.Context(), id, q.now)
}
