package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

func currentOf(d *store.Device) (h protocol.PolicyState) {
	_ = json.Unmarshal(d.Report.Current, &h) // written by this server
	return h
}

// How long a device's state counts as current: ten minutes for a device with a socket, which a node hears every minute;
// for a polling device, its interval and five minutes more.
const (
	freshSocket = 10 * time.Minute
	freshPoll   = 5 * time.Minute
	// notedEvery is how often the time of a live socket is stored.
	notedEvery = 4 * time.Minute
)

// clockStep is more than the clocks of nodes differ. A time further ahead was written under a clock that has been set
// back since.
const clockStep = 2 * time.Minute

// fresh is until when a state that was reported now counts as current.
func (a *API) fresh(device string, now time.Time) time.Time {
	if a.hub.connected(device) {
		return now.Add(freshSocket)
	}
	return a.most(now)
}

// most is until when a state that was reported by now can count at most.
func (a *API) most(now time.Time) time.Time { return now.Add(max(a.Interval+freshPoll, freshSocket)) }

// status: a device is online while its socket is up, or if it came within three intervals, and has not said that it is
// stopping.
func (a *API) status(d *store.Device, now time.Time) string {
	seen := a.book.seen(d).At
	if a.hub.connected(d.ID) || !seen.IsZero() && now.Sub(seen) < 3*a.Interval && seen.Sub(now) < clockStep && agentOf(d).Ended == "" {
		return "online"
	}
	return "offline"
}

func agentOf(d *store.Device) (p protocol.Agent) {
	_ = json.Unmarshal(d.Report.Agent, &p) // written by this server
	return p
}

// stands is a device's present state: what it last reported, for as long as that counts. It is computed whenever
// somebody asks, because a state becomes old without a report.
func (a *API) stands(d *store.Device, now time.Time) (rollup, why string) {
	seen := a.book.seen(d)
	switch ended := agentOf(d).Ended; {
	case ended == protocol.EndedStopped:
		return string(enforce.Uncertain), "the agent was stopped, so the policy is no longer in force on the device"
	case ended == protocol.EndedOff:
		return string(enforce.Uncertain), "the device was shut down"
	case ended == protocol.EndedUnenrolled:
		return string(enforce.Uncertain), "the device was unenrolled locally, so the policy is no longer in force on it"
	case ended != "":
		return string(enforce.Uncertain), "the agent ended: " + ended
	case d.Report.Rollup == "":
		return "", ""
	case (now.After(seen.Fresh) || seen.Fresh.After(a.most(now).Add(clockStep))) && !a.hub.connected(d.ID):
		if seen.At.After(now) {
			return string(enforce.Uncertain), "last seen before this server's clock was set back; it said " + d.Report.Rollup
		}
		return string(enforce.Uncertain), "last seen " + now.Sub(seen.At).Round(time.Minute).String() + " ago; it said " + d.Report.Rollup
	}
	return d.Report.Rollup, ""
}

// DeviceView is a device as administrators see it.
type DeviceView struct {
	ID         string               `json:"id"`
	Name       string               `json:"device_name"`
	Status     string               `json:"status" enum:"online,offline"`
	State      string               `json:"state" enum:"enrolled,retired,cloned"`
	Platform   string               `json:"platform"`
	Ownership  string               `json:"ownership,omitempty" enum:"BYOD,COPE"`
	User       string               `json:"user,omitempty"`
	Tags       []string             `json:"tags"`
	Compliance string               `json:"compliance,omitempty" doc:"the worst of its findings: compliant, unverified (what can be read complies, and some setting cannot be read), noncompliant or unknown"`
	Why        string               `json:"compliance_reason,omitempty" doc:"why the compliance is unknown, if its findings do not say"`
	PolicyID   string               `json:"policy_id,omitempty" doc:"its own policy"`
	Priority   int                  `json:"priority,omitempty" doc:"of its own policy"`
	Effective  string               `json:"effective_policy,omitempty" doc:"the policy it should have, its own or a group's"`
	Version    int                  `json:"effective_version,omitempty"`
	Current    protocol.PolicyState `json:"policy" doc:"the policy that it reports"`
	Agent      protocol.Agent       `json:"agent"`
	Host       protocol.Host        `json:"host"`
	EnrolledAt time.Time            `json:"enrolled_at"`
	Enrollment string               `json:"enrollment,omitempty" doc:"id of the token it enrolled with"`
	LastSync   *time.Time           `json:"last_sync"`
	LookedAt   *time.Time           `json:"looked_at" doc:"when the device last looked at itself, by its own clock"`
}

// deviceDetail is the same with what it reported.
type deviceDetail struct {
	DeviceView
	Rollup     *enforce.Rollup `json:"rollup,omitempty"`
	Findings   []storedFinding `json:"findings"`
	FindingsAt *time.Time      `json:"findings_at"`
	Facts      *factsView      `json:"facts,omitempty"`
	Exceptions []exceptionView `json:"exceptions"`
}

// view is a device with the policy that it should have and its present state.
func (a *API) view(d *store.Device, st *fleet.State, now time.Time) DeviceView {
	seen := a.book.seen(d)
	v := DeviceView{ID: d.ID, Name: d.Name, Status: a.status(d, now), State: d.State, Platform: d.OS, Ownership: d.Ownership, User: d.User,
		Tags:     d.Tags,
		PolicyID: d.Policy, Current: currentOf(d), EnrolledAt: second(d.EnrolledAt), Enrollment: d.Enrollment, LastSync: a.lastSync(d, now),
		LookedAt: when(seen.Looked)}
	v.Compliance, v.Why = a.stands(d, now)
	if v.Tags == nil {
		v.Tags = []string{}
	}
	if d.Policy != "" {
		v.Priority = d.Priority
	}
	d.Current.Policy, d.Current.Version = v.Current.ID, v.Current.Version
	if e, ok := st.Effective(&d.Device, now); ok {
		v.Effective, v.Version = e.Policy, e.Version
	}
	_ = json.Unmarshal(d.Report.Agent, &v.Agent) // written by this server
	_ = json.Unmarshal(d.Host, &v.Host)
	return v
}

// listDevices answers GET /devices.
func listDevices(a *API, q *request) (listView[DeviceView], error) {
	var none listView[DeviceView]
	f := roster.Filter{Policy: q.params.Get("policy_id"), Rollup: q.params.Get("compliance"), Name: q.params.Get("name"),
		State:  q.params.Get("state"),
		Status: q.params.Get("status"), Text: q.params.Get("q"),
		Target: fleet.Target{Platform: q.params.Get("platform"), Ownership: q.params.Get("ownership"), User: q.params.Get("user"),
			Tag: q.params.Get("tag")}}
	st := a.state.Load()
	if part := strings.ToLower(q.params.Get("policy_name")); part != "" {
		f.Any = []string{}
		for id, p := range st.Policies {
			if strings.Contains(strings.ToLower(p.Name), part) {
				f.Any = append(f.Any, id)
			}
		}
	}
	list, total, next, err := a.devices(q, f)
	if err != nil {
		return none, err
	}
	data := make([]DeviceView, 0, len(list))
	for _, d := range list {
		data = append(data, a.view(d, st, q.now))
	}
	out := listOf(q, data, total)
	out.Next = next
	return out, nil
}

// devices returns the requested part of the devices that match a filter, how many match in all, and where to read on.
func (a *API) devices(q *request, f roster.Filter) (list []*store.Device, total int, next string, err error) {
	r, err := a.ready(q.Context())
	if err != nil {
		return nil, 0, "", err
	}
	f.Clock = a.clock(q.now)
	page, size := q.page()
	p := roster.Page{Skip: (page - 1) * size, Size: size + 1} // one more, to see whether there is more
	p.Sort, p.Descending = q.order()
	if q.params.Get("cursor") != "" {
		m, err := q.cursor("devices " + q.params.Get("sort"))
		if err != nil {
			return nil, 0, "", err
		}
		p.After, p.Skip = &m, 0
	}
	marks, total := r.List(f, p)
	if len(marks) > size {
		marks = marks[:size]
		last := marks[size-1]
		last.Sort = "devices " + q.params.Get("sort")
		next = cursorOf(last)
	}
	numbers := make([]int64, 0, len(marks))
	for _, m := range marks {
		numbers = append(numbers, m.N)
	}
	list, err = a.Store.Devices(q.Context(), numbers, false)
	return list, total, next, err
}

// lastSync is when a device last came. A time in the future was written under a clock that has been set back since, and
// is shown as now.
func (a *API) lastSync(d *store.Device, now time.Time) *time.Time {
	at := a.book.seen(d).At
	if at.After(now) {
		at = now
	}
	return when(at)
}

// Schema describes a finding; a newer agent may say more.
func (storedFinding) Schema(r huma.Registry) *huma.Schema { return open[enforce.Finding](r) }

// open is the schema of a type that may have more fields and words than this version knows, from a newer agent.
func open[T any](r huma.Registry) *huma.Schema {
	s := *huma.SchemaFromType(r, reflect.TypeFor[T]())
	s.AdditionalProperties = true
	return closed(&s)
}

// factsView are facts as the device reported them.
type factsView struct{ raw json.RawMessage }

// MarshalJSON writes them unchanged.
func (f factsView) MarshalJSON() ([]byte, error) { return f.raw, nil }

// Schema describes facts: the parts of the snapshot beside these fields.
func (factsView) Schema(r huma.Registry) *huma.Schema {
	texts := &huma.Schema{Type: "array", Items: &huma.Schema{Type: "string"}}
	s := &huma.Schema{Type: "object", AdditionalProperties: true,
		Description: "what the device reports about itself: parts of its snapshot (usb, controllers, inputs, …) and these fields",
		Properties: map[string]*huma.Schema{
			"host": r.Schema(reflect.TypeFor[protocol.Host](), true, ""), "health": texts, "health_codes": texts, "hold": {Type: "string"},
			"capable":     {Type: "object", AdditionalProperties: r.Schema(reflect.TypeFor[fact.Capability](), true, "")},
			"unread":      {Type: "object", AdditionalProperties: &huma.Schema{Type: "string"}},
			"latency_hdr": {Type: "object", AdditionalProperties: &huma.Schema{Type: "string"}},
		}}
	return closed(s)
}

// storedFinding is a finding as the device reported it, in words that this version may not know.
type storedFinding struct {
	enforce.Finding
	raw json.RawMessage
}

// MarshalJSON writes it unchanged.
func (f storedFinding) MarshalJSON() ([]byte, error) { return f.raw, nil }

// UnmarshalJSON keeps it unchanged.
func (f *storedFinding) UnmarshalJSON(b []byte) error {
	f.raw = append(json.RawMessage(nil), b...)
	if json.Unmarshal(b, &f.Finding) != nil {
		*f = unreadableFinding
	}
	return nil
}

// unreadableFinding stands for a stored finding that cannot be read: the others are still shown.
var unreadableFinding = func() (f storedFinding) {
	f.Finding = enforce.Finding{Setting: "unreadable", Compliance: enforce.Uncertain, Reason: "this finding was stored and cannot be read"}
	f.raw, _ = json.Marshal(f.Finding)
	return f
}()

// getDevice answers GET /devices/{id}.
func getDevice(a *API, q *request) (deviceDetail, error) {
	d, err := a.Store.Device(q.Context(), q.PathValue("id"))
	if err != nil {
		return deviceDetail{}, err
	}
	out := deviceDetail{DeviceView: a.view(d, a.state.Load(), q.now), Findings: []storedFinding{}, FindingsAt: when(d.Report.FindingsAt),
		Exceptions: []exceptionView{}}
	if d.Report.Findings != nil {
		if json.Unmarshal(d.Report.Findings, &out.Findings) != nil {
			out.Findings = []storedFinding{unreadableFinding}
		}
		list := make([]enforce.Finding, 0, len(out.Findings))
		for _, f := range out.Findings {
			list = append(list, f.Finding)
		}
		r := enforce.RollUp(list)
		if out.Why != "" {
			r.Compliance = enforce.Uncertain
		}
		out.Rollup = &r
	}
	if d.Report.Facts != nil {
		out.Facts = &factsView{d.Report.Facts}
	}
	list, err := a.Store.Exceptions(q.Context(), d.N, true, q.now)
	for _, x := range list {
		out.Exceptions = append(out.Exceptions, viewException(x, q.now))
	}
	return out, err
}

type deviceEdit struct {
	Name      *string   `json:"device_name,omitempty" minLength:"1" maxLength:"256"`
	User      *string   `json:"user,omitempty" maxLength:"256"`
	Ownership *string   `json:"ownership,omitempty" enum:"BYOD,COPE"`
	Tags      *[]string `json:"tags,omitempty" maxItems:"50" doc:"replace the present tags"`
}

// checkTags checks tags: they are compared exactly, and searched for in a list.
func checkTags(tags []string, errs *policy.Errors) {
	for i, t := range tags {
		if t == "" || len(t) > 64 || strings.Trim(t, "abcdefghijklmnopqrstuvwxyz0123456789._-:") != "" {
			*errs = append(*errs, policy.Error{Field: fmt.Sprintf("tags[%d]", i),
				Message: "must have 1 to 64 of a-z, 0-9, '.', '_', '-' and ':'", Received: short(t)})
		} else if slices.Index(tags, t) < i {
			*errs = append(*errs, policy.Error{Field: fmt.Sprintf("tags[%d]", i), Message: "appears more than once", Received: t})
		}
	}
}

// CheckTags checks tags.
func CheckTags(tags []string) error {
	var errs policy.Errors
	checkTags(tags, &errs)
	return invalid(errs)
}

// editDevice answers PATCH /devices/{id}.
func editDevice(a *API, q *request, in *deviceEdit) (deviceDetail, error) {
	var errs policy.Errors
	if in.Tags != nil {
		checkTags(*in.Tags, &errs)
	}
	for field, v := range map[string]*string{"device_name": in.Name, "user": in.User} {
		if v != nil {
			text(&errs, field, *v, 256)
		}
	}
	if err := invalid(errs); err != nil {
		return deviceDetail{}, err
	}
	if _, err := a.Store.Known(q.Context(), q.PathValue("id")); err != nil {
		return deviceDetail{}, err
	}
	if err := a.Store.Edit(q.Context(), q.PathValue("id"), in.Name, in.User, in.Ownership, in.Tags, q.now); err != nil {
		return deviceDetail{}, err
	}
	return getDevice(a, q)
}

type eventList struct {
	Data []store.StoredEvent `json:"data"`
}

// deviceEvents answers GET /devices/{id}/events.
func deviceEvents(a *API, q *request) (eventList, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return eventList{}, err
	}
	list, err := a.Store.Events(q.Context(), d.N, q.number("page_size"))
	if list == nil {
		list = []store.StoredEvent{}
	}
	return eventList{list}, err
}

type messageView struct {
	Message string `json:"message"`
	ID      string `json:"id"`
}

// retireDevice: the device's next check-in gets a signed release.
func retireDevice(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	return messageView{"device retired", id}, a.Store.SetState(q.Context(), id, store.Retired, q.now)
}

type ownPolicyBody struct {
	PolicyID   string `json:"policy_id" maxLength:"128" doc:"empty: no policy of its own, only those of its groups"`
	Priority   *int   `json:"priority,omitempty" minimum:"0" maximum:"1000000" doc:"compared with the priorities of group assignments; default 1000"`
	Compliance string `json:"compliance,omitempty" enum:"enforce,warn,monitor" doc:"mode; default: the policy's own"`
}

type ownPolicyView struct {
	ID         string `json:"id"`
	PolicyID   string `json:"policy_id"`
	Priority   int    `json:"priority"`
	Compliance string `json:"compliance,omitempty"`
}

// assignDevice answers PUT /devices/{id}/policy.
func assignDevice(a *API, q *request, in *ownPolicyBody) (ownPolicyView, error) {
	out := ownPolicyView{q.PathValue("id"), in.PolicyID, fleet.DevicePriority, in.Compliance}
	if in.Priority != nil {
		out.Priority = *in.Priority
	}
	d, err := a.Store.Known(q.Context(), out.ID)
	if err != nil {
		return out, err
	}
	if d.State == store.Retired {
		return out, &problem{status: http.StatusConflict, code: "device_state", message: "the device is retired"}
	}
	return out, a.Store.Assign(q.Context(), out.ID, out.PolicyID, out.Compliance, out.Priority, q.now)
}
