package api

import (
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

type exceptionBody struct {
	Section string `json:"section,omitempty" maxLength:"64" doc:"the section that the exception belongs to: usb, network, storage or dlp"`
	Subject string `json:"subject,omitempty" maxLength:"400" doc:"what is let in; for usb vendor:product or vendor:product:SERIAL, as warder status and events show it; for network a name, an address or vpn; for storage disk:SERIAL, client:NAME, mount:PATH or file:PATH; for dlp print or clipboard"`
	USB     string `json:"usb,omitempty" maxLength:"400" doc:"short for section usb and this subject"`
	Minutes int    `json:"minutes" minimum:"1" maximum:"43200"`
	Reason  string `json:"reason" minLength:"1" maxLength:"500"`
	Offline bool   `json:"offline,omitempty" doc:"answer with a code to read out, for a device without a network; it has to be redeemed within a day"`
}

type exceptionView struct {
	ID        string     `json:"id"`
	Section   string     `json:"section"`
	Subject   string     `json:"subject"`
	USB       string     `json:"usb,omitempty" doc:"the subject, if the section is usb"`
	Reason    string     `json:"reason"`
	CreatedBy string     `json:"created_by"`
	CreatedAt time.Time  `json:"created_at"`
	Until     time.Time  `json:"until" doc:"for a code: the latest time at which it can end"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Offline   bool       `json:"offline,omitempty"`
	Current   bool       `json:"current" doc:"the server sends it to the device now; false for a code, which takes effect once the device has redeemed it (see state)"`
	State     string     `json:"state" enum:"current,code_issued,ended,expired" doc:"code_issued: a code was given out and may be in use; the device's events say whether it was redeemed"`
	Code      string     `json:"code,omitempty" doc:"shown only once"`
}

// viewException is an exception as the API shows it.
func viewException(x store.Exception, now time.Time) exceptionView {
	state := "current"
	switch {
	case !x.EndedAt.IsZero():
		state = "ended"
	case !x.Until.After(now):
		state = "expired"
	case x.Offline:
		state = "code_issued"
	}
	v := exceptionView{ID: x.ID, Section: x.Section, Subject: x.Subject, Reason: x.Reason, CreatedBy: x.CreatedBy,
		CreatedAt: second(x.CreatedAt), Until: second(x.Until),
		EndedAt: when(x.EndedAt), Offline: x.Offline, Current: state == "current", State: state}
	if x.Section == "usb" {
		v.USB = x.Subject
	}
	return v
}

// subject reads what an exception is for: section and subject, or the short form.
func (in *exceptionBody) subject(errs *policy.Errors) (section, subject string) {
	field := "subject"
	section, subject = in.Section, in.Subject
	switch {
	case in.USB != "" && (section != "" || subject != ""):
		*errs = append(*errs, policy.Error{Field: "usb", Message: "cannot be combined with section and subject", Received: short(in.USB)})
		return "", ""
	case in.USB != "" || section == "" && subject == "":
		section, subject, field = "usb", in.USB, "usb"
	}
	s, ok := all.Find(section)
	if !ok || s.Except == nil {
		*errs = append(*errs, policy.Error{Field: "section", Message: "must be a section that has exceptions", Received: short(section)})
		return "", ""
	}
	name, err := s.Except.Parse(subject)
	if err != nil {
		*errs = append(*errs, policy.Error{Field: field, Message: err.Error(), Received: short(subject)})
	}
	text(errs, field, subject, 400)
	return section, name
}

// grantException answers POST /devices/{id}/exceptions: the server sends it, or answers a code.
func grantException(a *API, q *request, in *exceptionBody) (exceptionView, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return exceptionView{}, err
	}
	var errs policy.Errors
	section, subject := in.subject(&errs)
	text(&errs, "reason", in.Reason, 500)
	if strings.TrimSpace(in.Reason) == "" {
		errs = append(errs, policy.Error{Field: "reason", Message: "must not be empty: it is shown to the user and in the audit log",
			Received: in.Reason})
	}
	if err := invalid(errs); err != nil {
		return exceptionView{}, err
	}
	if d.State != store.Enrolled {
		return exceptionView{}, &problem{status: http.StatusConflict, code: "device_state", message: "the device is " + d.State}
	}
	length := time.Duration(in.Minutes) * time.Minute
	x := store.Exception{ID: "exception-" + strings.ToLower(rand.Text()[:12]), Device: d.N, Section: section, Subject: subject,
		Reason: in.Reason, CreatedBy: q.by, CreatedAt: q.now, Until: q.now.Add(length), Offline: in.Offline}
	code := ""
	if in.Offline {
		if code, err = protocol.NewCode(a.Keys.CodeSecret(d.ID), d.ID, protocol.CodeSubject(section, subject), length, q.now); err != nil {
			return exceptionView{}, err
		}
		x.Until = x.Until.Add(protocol.CodeLife)
	}
	v := viewException(x, q.now)
	v.Code = code
	return v, a.Store.AddException(q.Context(), d.ID, x)
}

type exceptionList struct {
	Data []exceptionView `json:"data"`
}

// listExceptions answers GET /devices/{id}/exceptions.
func listExceptions(a *API, q *request) (exceptionList, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return exceptionList{}, err
	}
	list, err := a.Store.Exceptions(q.Context(), d.N, false, q.now)
	out := exceptionList{[]exceptionView{}}
	for _, x := range list {
		out.Data = append(out.Data, viewException(x, q.now))
	}
	return out, err
}

// endException answers DELETE /devices/{id}/exceptions/{exception}.
func endException(a *API, q *request) (messageView, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return messageView{}, err
	}
	id := q.PathValue("exception")
	return messageView{"exception ended", id}, a.Store.EndException(q.Context(), d.ID, d.N, id, q.now)
}
