package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce/section"
)

// ExplainRequest asks a section about one subject, in the section's own form.
type ExplainRequest struct {
	Section string          `json:"section"`
	Subject json.RawMessage `json:"subject"`
}

// Explanation is the answer, and the policy that it follows from.
type Explanation struct {
	section.Answer
	Policy string `json:"policy"`
}

// postExplain answers "warder explain".
func (a *Agent) postExplain(ctx context.Context, c caller, _ *http.Request, body []byte) (any, error) {
	var in ExplainRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, &localapi.Error{Status: http.StatusBadRequest, Message: "the request cannot be read: " + err.Error()}
	}
	x, err := a.explain(ctx, c, in)
	if errors.Is(err, ErrNotEnrolled) {
		return nil, refused(http.StatusConflict, err)
	}
	return x, err
}

// explain answers by the same compiled rules that the guards use.
func (a *Agent) explain(ctx context.Context, c caller, in ExplainRequest) (Explanation, error) {
	none := Explanation{}
	st, written, _ := a.custody.view()
	if written == nil && st.Device == nil {
		return none, ErrNotEnrolled
	}
	if written == nil {
		return none, noPolicy
	}
	inForce := a.machine.opened(a.with(&st, written))
	if !c.Root && !a.seated(c) && len(st.Exceptions) > 0 {
		inForce = a.machine.fresh(written) // not everybody may know which sticks have exceptions
	}
	rules := inForce.Rules(in.Section)
	if rules == nil {
		return none, &localapi.Error{Status: http.StatusNotFound,
			Message: fmt.Sprintf("no section %q answers for single things", in.Section)}
	}
	if !c.Root {
		rules = rules.Public() // not everybody may see what monitor mode would do
	}
	answer, err := rules.Explain(in.Subject, nil)
	if errors.Is(err, section.ErrPresent) {
		if !c.Root && !a.seated(c) {
			return none, &localapi.Error{Status: http.StatusForbidden,
				Message: "what is there now is shown to root and to who sits at the machine; name what you ask about, e.g. 0951:1666"}
		}
		now := a.machine.observe(ctx)
		answer, err = rules.Explain(in.Subject, &now)
	}
	switch {
	case errors.Is(err, section.ErrAbsent):
		return none, &localapi.Error{Status: http.StatusNotFound, Message: err.Error()}
	case err != nil:
		return none, &localapi.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	if l := answer.Listed; l != nil {
		if l.Line = a.shelf.library.Line(l.ListRef, l.Entry); l.Line > 0 {
			answer.Reason += fmt.Sprintf(" (line %d of version %s)", l.Line, l.Short())
		}
	}
	if answer.Now == "" && (c.Root || a.seated(c)) {
		answer.Now = a.machine.present(in.Section, answer.Subject)
	}
	if st.Hold != nil {
		answer.Reason = "the policy is suspended (" + st.Hold.Reason + "), so everything is allowed now; without that: " + answer.Reason
	}
	return Explanation{answer, fmt.Sprintf("%s, version %d", written.Name, written.Version)}, nil
}
