package wso2

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	translator "github.com/warderd/warder/sync/dialect/wso2"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

const kind = "policy"

// state is what the façade keeps beside a policy as it was written.
type state struct {
	Priority int64     `json:"priority"` // 1 is the first
	Active   bool      `json:"active"`
	Updated  bool      `json:"updated"` // changed since changes were applied
	Feature  int       `json:"feature"` // id of its first feature
	Changed  time.Time `json:"changed"`
	// AppliedAt is the state when changes were applied; nil if the policy was in force nowhere then. Applied is the policy as it was, which
	// is what devices have; none if nobody has written it since.
	AppliedAt *state          `json:"applied_at,omitempty"`
	Applied   json.RawMessage `json:"applied,omitempty"`
}

// written is a policy as clients send it, in the shapes of both addresses.
type written struct {
	Name        string `json:"policyName"`
	Description string `json:"description"`
	Compliance  string `json:"compliance"`
	Ownership   string `json:"ownershipType"`
	Active      bool   `json:"active"`
	Profile     *struct {
		Name     string          `json:"profileName"`
		Type     json.RawMessage `json:"deviceType"`
		Features []struct {
			Code     string          `json:"featureCode"`
			Content  json.RawMessage `json:"content"`
			PayLoad  json.RawMessage `json:"payLoad"`
			Corrects json.RawMessage `json:"correctiveActions"`
		} `json:"profileFeaturesList"`
	} `json:"profile"`
	Roles      []string          `json:"roles"`
	Users      []string          `json:"users"`
	Groups     []json.RawMessage `json:"deviceGroups"`
	Devices    []json.RawMessage `json:"devices"`
	ByID       []json.RawMessage `json:"deviceIdentifiers"`
	Kind       json.RawMessage   `json:"policyType"`
	Criteria   []json.RawMessage `json:"policyCriterias"`
	Corrects   []json.RawMessage `json:"correctiveActions"`
	Generic    bool              `json:"generic"`
	Attributes json.RawMessage   `json:"attributes"`
}

// numbers are the ids of device types, as a new console has them; ours come after them.
var numbers = []string{"android", "windows", "ios", "linux", "macos"}

// deviceType is a kind of device as one of both addresses writes it.
type deviceType struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

// typeOf reads a kind of device: a name, or {"id":1,"name":"android"}, of which one may be missing.
func typeOf(raw json.RawMessage) (deviceType, bool) {
	var t deviceType
	var name string
	if json.Unmarshal(raw, &name) == nil {
		t.Name = name
	} else if json.Unmarshal(raw, &t) != nil {
		return t, false
	}
	if t.Name == "" && t.ID > 0 && t.ID <= len(numbers) {
		t.Name = numbers[t.ID-1]
	}
	if t.ID == 0 {
		t.ID = slices.Index(numbers, strings.ToLower(t.Name)) + 1
	}
	return t, t.Name != "" && len(t.Name) <= 45
}

// The objects of an answer, in the order in which the vendor prints their fields.
type (
	policy struct {
		ID          int64             `json:"id"`
		Priority    int64             `json:"priorityId"`
		Profile     profile           `json:"profile"`
		Name        string            `json:"policyName"`
		Generic     bool              `json:"generic"`
		Roles       []string          `json:"roles"`
		Ownership   string            `json:"ownershipType,omitempty"`
		Devices     []json.RawMessage `json:"devices"`
		Users       []string          `json:"users"`
		Active      bool              `json:"active"`
		Updated     bool              `json:"updated"`
		Description string            `json:"description"`
		Compliance  string            `json:"compliance,omitempty"`
		Criteria    []json.RawMessage `json:"policyCriterias"`
		Tenant      int               `json:"tenantId"`
		ProfileID   int64             `json:"profileId"`
		Attributes  json.RawMessage   `json:"attributes,omitempty"`
		Groups      []json.RawMessage `json:"deviceGroups,omitempty"`
		Kind        json.RawMessage   `json:"policyType,omitempty"`
		Corrects    []json.RawMessage `json:"correctiveActions,omitempty"`
	}
	profile struct {
		ID       int64     `json:"profileId"`
		Name     string    `json:"profileName"`
		Tenant   int       `json:"tenantId"`
		Type     any       `json:"deviceType"`
		Created  string    `json:"createdDate"`
		Updated  string    `json:"updatedDate"`
		Features []feature `json:"profileFeaturesList"`
	}
	feature struct {
		ID       int             `json:"id"`
		Code     string          `json:"featureCode"`
		Profile  int64           `json:"profileId"`
		TypeID   *int            `json:"deviceTypeId,omitempty"`
		Type     string          `json:"deviceType,omitempty"`
		Content  *string         `json:"content,omitempty"`
		Corrects json.RawMessage `json:"correctiveActions,omitempty"`
	}
)

// tenant is that of a console that has one.
const tenant = -1234

// Dates, as the two print them.
const (
	oldDate = "Jan 2, 2006 3:04:05 PM"
	newDate = "Mon, 2 Jan 2006 15:04:05 -0700"
)

func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// shown is a policy as it is answered.
func shown(d *store.VendorDocument, document json.RawMessage, s *state, old bool) (policy, error) {
	w, err := writtenOf(d, document)
	if err != nil {
		return policy{}, err
	}
	t, _ := typeOf(w.Profile.Type)
	date := func(at time.Time) string {
		if old {
			return at.UTC().Format(oldDate)
		}
		return at.UTC().Format(newDate)
	}
	p := policy{ID: d.Number, Priority: s.Priority, Name: w.Name, Roles: orNone(w.Roles), Ownership: w.Ownership, Devices: orNone(w.Devices),
		Users: orNone(w.Users), Active: s.Active, Updated: s.Updated, Description: w.Description, Compliance: w.Compliance,
		Criteria: orNone(w.Criteria), Tenant: tenant, ProfileID: d.Number, Groups: w.Groups, Kind: w.Kind, Corrects: w.Corrects, Generic: w.Generic, Attributes: w.Attributes,
		Profile: profile{ID: d.Number, Name: w.Profile.Name, Tenant: tenant, Type: t, Created: date(d.CreatedAt), Updated: date(s.Changed), Features: []feature{}}}
	if p.Profile.Name == "" {
		p.Profile.Name = w.Name
	}
	if !old {
		p.Profile.Type = t.Name
	}
	for i, f := range w.Profile.Features {
		x := feature{ID: s.Feature + i, Code: f.Code, Profile: d.Number, Corrects: f.Corrects}
		if old {
			x.TypeID = &t.ID
		} else {
			x.Type = t.Name
		}
		raw := f.Content
		if unset(raw) && !unset(f.PayLoad) {
			raw = f.PayLoad
		}
		if len(raw) > 0 && string(raw) != "null" {
			var text string
			if json.Unmarshal(raw, &text) != nil { // an object is printed as a text, as there
				var b bytes.Buffer
				if err := json.Compact(&b, raw); err != nil {
					return p, err
				}
				text = b.String()
			}
			x.Content = &text
		}
		p.Profile.Features = append(p.Profile.Features, x)
	}
	return p, nil
}

// damaged says which row of the database cannot be read.
func damaged(d *store.VendorDocument, err error) error {
	return fmt.Errorf("policy %d of wso2, as it is stored: %w", d.Number, err)
}

func stateOf(d *store.VendorDocument) (*state, error) {
	var s state
	if err := json.Unmarshal(d.State, &s); err != nil {
		return nil, damaged(d, err)
	}
	return &s, nil
}

// writtenOf is a stored policy.
func writtenOf(d *store.VendorDocument, document json.RawMessage) (*written, error) {
	var w written
	err := json.Unmarshal(document, &w)
	if err == nil && w.Profile == nil {
		err = errors.New("it has no profile")
	}
	if err != nil {
		return nil, damaged(d, err)
	}
	return &w, nil
}

func (s *state) keep(d *store.VendorDocument) { d.State, _ = json.Marshal(s) }

// view is a document as it is answered now.
func view(c *facade.Call, d *store.VendorDocument) (policy, error) {
	s, err := stateOf(d)
	if err != nil {
		return policy{}, err
	}
	return shown(d, d.Document, s, dated(c.Request))
}

// read is the policy in a body; an error says which field is wrong.
func read(c *facade.Call) (json.RawMessage, *written, error) {
	if len(bytes.TrimSpace(c.Body)) == 0 {
		return nil, nil, plain("Policy is empty.")
	}
	if _, err := dialect.Read(c.Body); err != nil { // its bounds, and fields that come twice
		return nil, nil, malformed()
	}
	var w written
	if err := json.Unmarshal(c.Body, &w); err != nil {
		return nil, nil, malformed()
	}
	if field := facade.Misspelled(c.Body, w); field != "" {
		return nil, nil, invalid(field, "is not the field's name")
	}
	size := func(field, s string, least, most int) error {
		if n := utf8.RuneCountInString(s); n < least || n > most {
			return invalid(field, fmt.Sprintf("size must be between %d and %d", least, most))
		}
		return nil
	}
	for _, err := range []error{size("policyName", w.Name, 1, 45), size("description", w.Description, 0, 1000), size("compliance", w.Compliance, 0, 100),
		size("ownershipType", w.Ownership, 0, 45)} {
		if err != nil {
			return nil, nil, err
		}
	}
	switch {
	case w.Profile == nil:
		return nil, nil, invalid("profile", "may not be null")
	case len(w.Profile.Features) == 0:
		return nil, nil, invalid("profile.profileFeaturesList", "may not be empty")
	case w.Ownership != "" && !slices.Contains([]string{"ANY", "BYOD", "COPE"}, strings.ToUpper(w.Ownership)):
		return nil, nil, invalid("ownershipType", "must be ANY, BYOD or COPE")
	}
	if err := size("profile.profileName", w.Profile.Name, 0, 255); err != nil {
		return nil, nil, err
	}
	if _, ok := typeOf(w.Profile.Type); !ok {
		return nil, nil, invalid("profile.deviceType", "must be a name, or an object with id and name")
	}
	for i, f := range w.Profile.Features {
		if f.Code == "" {
			return nil, nil, invalid(fmt.Sprintf("profile.profileFeaturesList[%d].featureCode", i), "may not be empty")
		}
	}
	var b bytes.Buffer
	if err := json.Compact(&b, c.Body); err != nil {
		return nil, nil, malformed()
	}
	return b.Bytes(), &w, nil
}

// say is the answer to a change: an object under the old address, a text under the new one.
func say(c *facade.Call, code int, before, since string) (facade.Answer, error) {
	if dated(c.Request) {
		return facade.JSON(http.StatusOK, wrapped{Status: code, Message: before})
	}
	return facade.JSON(http.StatusOK, since)
}

// list answers GET policies.
func (f *wso2) list(c *facade.Call) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(kind)
	if err != nil {
		return facade.Answer{}, err
	}
	all := make([]policy, 0, len(docs))
	for _, d := range docs {
		p, err := view(c, d)
		if err != nil {
			return facade.Answer{}, err
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(a, b policy) int { return int(a.Priority - b.Priority) })
	if dated(c.Request) {
		if f.enveloped(c) {
			return facade.JSON(http.StatusOK, wrapped{http.StatusOK, "Sending all retrieved device policies.", all})
		}
		return facade.JSON(http.StatusOK, all)
	}
	number := func(name, negative string) (int, error) {
		v := c.Query.Get(name)
		if v == "" {
			return 0, nil
		}
		n, err := strconv.Atoi(v)
		if err != nil {
			return 0, invalid(name, "must be a whole number")
		}
		if n < 0 {
			return 0, plain("Request parameter " + name + " is " + negative + " negative value.")
		}
		return n, nil
	}
	offset, err := number("offset", "s")
	if err != nil {
		return facade.Answer{}, err
	}
	limit, err := number("limit", "a")
	if err != nil {
		return facade.Answer{}, err
	}
	if limit > 100 {
		return facade.Answer{}, plain("Request parameter limit should be less than or equal to 100.")
	}
	from := min(offset, len(all))
	page := struct { // without a limit it has no policies, as there
		Policies []policy `json:"policies"`
		Count    int      `json:"count"`
	}{all[from:min(from+limit, len(all))], len(all)}
	if f.enveloped(c) {
		return facade.JSON(http.StatusOK, wrapped{http.StatusOK, "Sending all retrieved device policies.", page})
	}
	return facade.JSON(http.StatusOK, page)
}

func (f *wso2) count(c *facade.Call) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(kind)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, len(docs))
}

// get answers GET policies/{id}.
func (f *wso2) get(c *facade.Call) (facade.Answer, error) {
	id := c.PathValue("id")
	var d *store.VendorDocument
	if n, err := strconv.ParseInt(id, 10, 64); err == nil {
		if d, err = c.Fleet.Document(kind, n); err != nil {
			return facade.Answer{}, err
		}
	}
	if d == nil {
		if !dated(c.Request) {
			return facade.JSON(http.StatusNotFound, wrong{Message: fmt.Sprintf("No policy found with the id '%s'", id)})
		}
		status := http.StatusNotFound
		if f.enveloped(c) {
			status = http.StatusOK // it is inside
		}
		return facade.JSON(status, wrapped{Status: http.StatusNotFound, Message: "Policy for ID " + id + " not found."})
	}
	p, err := view(c, d)
	if err != nil {
		return facade.Answer{}, err
	}
	if f.enveloped(c) {
		return facade.JSON(http.StatusOK, wrapped{http.StatusOK, "Sending all retrieved device policies.", p})
	}
	return facade.JSON(http.StatusOK, p)
}

// find is a policy by its id; nil if there is none.
func find(docs []*store.VendorDocument, id string) *store.VendorDocument {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return nil
	}
	return facade.Find(docs, n)
}

// most bounds the policies of a console.
const most = 1000

// nextFeature is the id of a feature that comes now.
func nextFeature(have []*store.VendorDocument) (int, error) {
	next := 1
	for _, o := range have {
		s, err := stateOf(o)
		if err != nil {
			return 0, err
		}
		w, err := writtenOf(o, o.Document)
		if err != nil {
			return 0, err
		}
		next = max(next, s.Feature+len(w.Profile.Features))
	}
	return next, nil
}

// add makes the handler that adds a policy.
func (f *wso2) add(active bool) func(*facade.Call) (facade.Answer, error) {
	return func(c *facade.Call) (facade.Answer, error) {
		raw, w, err := read(c)
		if err != nil {
			return facade.Answer{}, err
		}
		var d *store.VendorDocument
		err = c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
			s := &state{Active: active || w.Active && !dated(c.Request), Changed: c.Now, Priority: 1}
			d = &store.VendorDocument{Document: raw}
			if err := translatable(c, d, s); err != nil {
				return nil, err
			}
			if err := facade.Room(have, d, most); err != nil {
				return nil, err
			}
			for _, o := range have {
				was, err := stateOf(o)
				if err != nil {
					return nil, err
				}
				s.Priority = max(s.Priority, was.Priority+1)
			}
			var err error
			if s.Feature, err = nextFeature(have); err != nil {
				return nil, err
			}
			s.keep(d)
			return &facade.Update{Documents: []*store.VendorDocument{d}, Detail: []string{"added: " + enforce.Plain(w.Name)}}, nil
		})
		if err != nil {
			return facade.Answer{}, err
		}
		if dated(c.Request) {
			return facade.JSON(http.StatusOK, wrapped{Status: http.StatusCreated, Message: "Policy has been added successfully."})
		}
		p, err := view(c, d)
		if err != nil {
			return facade.Answer{}, err
		}
		x, err := facade.JSON(http.StatusCreated, p)
		x.Header = http.Header{"Location": {fmt.Sprintf("%s/%d", newer, d.Number)}}
		return x, err
	}
}

// edit answers PUT policies/{id}.
func (f *wso2) edit(c *facade.Call) (facade.Answer, error) {
	raw, w, err := read(c)
	if err != nil {
		return facade.Answer{}, err
	}
	found := false
	err = c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		d := find(have, c.PathValue("id"))
		if found = d != nil; !found {
			return &facade.Update{}, nil
		}
		s, err := stateOf(d)
		if err != nil {
			return nil, err
		}
		next, err := nextFeature(have)
		if err != nil {
			return nil, err
		}
		was, err := writtenOf(d, d.Document)
		if err != nil {
			return nil, err
		}
		if len(w.Profile.Features) > len(was.Profile.Features) {
			s.Feature = next
		}
		if s.AppliedAt != nil && s.Applied == nil && !bytes.Equal(d.Document, raw) {
			s.Applied = d.Document
		}
		d.Document = raw
		if err := translatable(c, d, s); err != nil {
			return nil, err
		}
		if err := facade.Room(have, d, most); err != nil {
			return nil, err
		}
		s.Updated, s.Changed = true, c.Now
		s.keep(d)
		return &facade.Update{Documents: []*store.VendorDocument{d}, Detail: []string{"changed: " + enforce.Plain(w.Name)}}, nil
	})
	switch {
	case err != nil:
		return facade.Answer{}, err
	case found:
		return say(c, http.StatusCreated, "Policy has been updated successfully.", "Policy has successfully been updated.")
	case dated(c.Request):
		return facade.JSON(http.StatusNotFound, wrapped{Status: http.StatusNotFound, Message: "Policy for ID " + c.PathValue("id") + " not found."})
	default:
		return facade.JSON(http.StatusNotFound, "Policy not found.")
	}
}

// ids reads a list of ids.
func ids(c *facade.Call) ([]string, error) {
	var list []int64
	if err := json.Unmarshal(c.Body, &list); err != nil {
		return nil, malformed()
	}
	if len(list) == 0 {
		return nil, plain("Policy Id list is empty.")
	}
	if len(list) > most {
		return nil, plain(fmt.Sprintf("Policy Id list has more than %d entries.", most))
	}
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = strconv.FormatInt(n, 10)
	}
	return out, nil
}

// turn makes the handler that activates or deactivates policies. Devices have it when changes are applied.
func (f *wso2) turn(on bool) func(*facade.Call) (facade.Answer, error) {
	return func(c *facade.Call) (facade.Answer, error) {
		list, err := ids(c)
		if err != nil {
			return facade.Answer{}, err
		}
		some := false
		err = c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
			u := &facade.Update{Detail: []string{map[bool]string{true: "activated", false: "deactivated"}[on]}}
			some = false
			for _, id := range list {
				d := find(have, id)
				if d == nil {
					continue // as there, if others are known
				}
				some = true
				s, err := stateOf(d)
				if err != nil {
					return nil, err
				}
				if s.Active != on {
					s.Active, s.Updated = on, true
					s.keep(d)
					u.Documents = append(u.Documents, d)
				}
			}
			return u, nil
		})
		word := map[bool]string{true: "activated", false: "deactivated"}[on]
		switch {
		case err != nil:
			return facade.Answer{}, err
		case !some && !dated(c.Request):
			return facade.JSON(http.StatusNotFound, wrong{Message: "Selected policies have not been " + word})
		case !some:
			return facade.JSON(http.StatusBadRequest, wrapped{Status: http.StatusBadRequest, Message: "Policy does not exist."})
		}
		return say(c, http.StatusOK, "Selected policies have been successfully "+map[bool]string{true: "activated", false: "inactivated"}[on]+".",
			"Selected policies have been successfully "+word)
	}
}

// order answers PUT priorities.
func (f *wso2) order(c *facade.Call) (facade.Answer, error) {
	var list []struct {
		ID       int64 `json:"id"`
		Priority int64 `json:"priority"`
	}
	if err := json.Unmarshal(c.Body, &list); err != nil {
		return facade.Answer{}, malformed()
	}
	good := false
	err := c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		u := &facade.Update{Detail: []string{"priorities"}}
		good = len(list) > 0
		for _, l := range list {
			d := find(have, strconv.FormatInt(l.ID, 10))
			if d == nil || l.Priority < 1 || l.Priority > 1<<31 {
				good = false
				return &facade.Update{}, nil
			}
			s, err := stateOf(d)
			if err != nil {
				return nil, err
			}
			if s.Priority != l.Priority {
				s.Priority, s.Updated = l.Priority, true
				s.keep(d)
				u.Documents = append(u.Documents, d)
			}
		}
		return u, nil
	})
	const message = "Policy priorities did not update. Bad Request."
	switch {
	case err != nil:
		return facade.Answer{}, err
	case !good && dated(c.Request):
		return facade.JSON(http.StatusBadRequest, wrapped{Status: http.StatusBadRequest, Message: message})
	case !good:
		return facade.JSON(http.StatusNotFound, wrong{Code: http.StatusBadRequest, Message: message})
	}
	return say(c, http.StatusOK, "Policy Priorities successfully updated.", "Policy Priorities successfully updated.")
}

// remove deletes policies, at once: all of them or, if one is not there, none.
func (f *wso2) remove(c *facade.Call) (facade.Answer, error) {
	list, err := ids(c)
	if err != nil {
		return facade.Answer{}, err
	}
	var unknown []string
	err = c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		u := &facade.Update{Detail: []string{"removed"}}
		unknown = nil
		for _, id := range list {
			d := find(have, id)
			if d == nil {
				unknown = append(unknown, id)
				continue
			}
			if slices.Contains(u.Documents, d) {
				continue
			}
			d.Gone = true
			u.Documents = append(u.Documents, d)
			u.Publish = append(u.Publish, facade.Publication{Document: d})
		}
		if len(unknown) > 0 {
			return &facade.Update{}, nil
		}
		return u, nil
	})
	switch {
	case err != nil:
		return facade.Answer{}, err
	case len(unknown) > 0 && dated(c.Request):
		return facade.JSON(http.StatusBadRequest, wrapped{Status: http.StatusBadRequest, Message: "Policy does not exist."})
	case len(unknown) > 0:
		return facade.JSON(http.StatusBadRequest, wrong{Message: fmt.Sprintf("Policies with the policy ID %s doesn't exist", strings.Join(unknown, ","))})
	}
	return say(c, http.StatusOK, "Policies have been successfully deleted.", "Policies have been successfully deleted")
}

// apply brings what was saved into force.
func (f *wso2) apply(c *facade.Call) (facade.Answer, error) {
	if !f.applying.TryLock() { // as there
		const message = "Exception in applying changes."
		return facade.Answer{}, &facade.Problem{Status: http.StatusInternalServerError, Code: "applying", Message: message, Body: wrong{Code: http.StatusInternalServerError, Message: message}}
	}
	defer f.applying.Unlock()
	err := c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		u := &facade.Update{Detail: []string{"applied"}}
		states := map[*store.VendorDocument]*state{}
		for _, d := range have {
			s, err := stateOf(d)
			if err != nil {
				return nil, err
			}
			states[d] = s
		}
		// By their order and not by their numbers, which only grow.
		slices.SortStableFunc(have, func(a, b *store.VendorDocument) int { return cmp.Compare(states[a].Priority, states[b].Priority) })
		rank := 0
		for _, d := range have {
			s := states[d]
			p, err := publication(c, d, s)
			if err != nil {
				return nil, err
			}
			if p.Translation != nil {
				p.Priority = max(first-rank, 0)
				rank++
			}
			u.Publish = append(u.Publish, *p)
			s.Updated, s.Applied, s.AppliedAt = false, nil, nil
			if p.Translation != nil {
				at := *s
				s.AppliedAt = &at
			}
			s.keep(d)
		}
		return u, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return say(c, http.StatusOK, "Changes have been successfully updated.", "Changes have been successfully updated.")
}

// translated is what a policy asks for, of which devices get a part: of all that was written, also of what is not printed again.
func translated(c *facade.Call, d *store.VendorDocument, document json.RawMessage, s *state) (*dialect.Translation, error) {
	profile, err := contents(document)
	if err != nil {
		return nil, damaged(d, err)
	}
	whole, err := facade.Over(document, map[string]any{"id": d.Number, "priorityId": s.Priority, "active": s.Active, "deviceIdentifiers": nil, "profile": profile})
	if err != nil {
		return nil, err
	}
	t, err := translator.Translate(whole, dialect.Options{Whole: c.Whole})
	if err != nil {
		return nil, invalid("profile", err.Error())
	}
	return &t, nil
}

// contents is a policy's profile, with what features ask for where the console prints it: clients may send it as payLoad, too.
func contents(document json.RawMessage) (json.RawMessage, error) {
	var p struct {
		Profile json.RawMessage `json:"profile"`
	}
	if err := json.Unmarshal(document, &p); err != nil {
		return nil, err
	}
	var f struct {
		Features []map[string]json.RawMessage `json:"profileFeaturesList"`
	}
	if err := json.Unmarshal(p.Profile, &f); err != nil {
		return nil, err
	}
	for _, x := range f.Features {
		content, payLoad := x["content"], x["payLoad"]
		switch {
		case unset(payLoad), string(content) == string(payLoad):
			delete(x, "payLoad")
		case unset(content):
			x["content"] = payLoad
			delete(x, "payLoad")
		} // what both say is named
	}
	return facade.Over(p.Profile, map[string]any{"profileFeaturesList": f.Features})
}

// unset reports whether a feature says nothing there.
func unset(raw json.RawMessage) bool {
	return slices.Contains([]string{"", "null", `""`, "{}"}, string(raw))
}

func translatable(c *facade.Call, d *store.VendorDocument, s *state) error {
	_, err := translated(c, d, d.Document, s)
	return err
}

// first is the priority of ours of a policy that comes first: below that of a device's own policy.
const first = fleet.DevicePriority - 1

// publication is what applying a policy does.
func publication(c *facade.Call, d *store.VendorDocument, s *state) (*facade.Publication, error) {
	t, err := translated(c, d, d.Document, s)
	if err != nil {
		return nil, err
	}
	w, err := writtenOf(d, d.Document)
	if err != nil {
		return nil, err
	}
	p := &facade.Publication{Document: d, Carried: facade.CarriedOf(t)}
	if t.Released || !s.Active {
		return p, nil
	}
	p.Translation = t
	of, _ := typeOf(w.Profile.Type)
	var why string
	if p.Targets, why = targets(c, t.Selection, of.Name, w); why != "" {
		p.Carried.Notes = append(p.Carried.Notes, "No device has it: "+why)
	}
	return p, nil
}

// targets are whom a policy is for; the text says why nobody is.
func targets(c *facade.Call, s dialect.Selection, of string, w *written) (out []fleet.Target, why string) {
	platforms := c.Types[strings.ToLower(of)]
	switch {
	case s.Unknown:
		return nil, "whom it is for was not understood."
	case len(platforms) == 0:
		return nil, fmt.Sprintf("devices of type %q are not mapped (serve --facade wso2=ADDRESS,%s:linux).", of, strings.ToLower(of))
	case len(s.Roles) > 0 && len(s.Groups) > 0:
		return nil, "it is for roles and for groups, and Warder knows one tag in a group of devices."
	case len(w.ByID) > 0 || len(s.Devices) > 0:
		return nil, "it is for single devices: give it to them here."
	}
	for _, name := range slices.Concat(w.Roles, w.Users) {
		if name != enforce.Plain(name) || name != strings.TrimSpace(name) {
			return nil, fmt.Sprintf("%q is nobody's name: it has spaces around it, or characters that are not printed.", enforce.Plain(name))
		}
	}
	tags := []string{}
	for prefix, list := range map[string][]string{"role:": s.Roles, "group:": s.Groups} {
		for _, name := range list {
			tag, ok := facade.Tag(prefix, name)
			if !ok {
				return nil, fmt.Sprintf("%q is too long for a tag.", name)
			}
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	tags = slices.Compact(tags) // two names of one tag, in other cases
	or := func(list []string) []string {
		if len(list) == 0 {
			return []string{""}
		}
		return list
	}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(platforms))) {
		for _, tag := range or(tags) {
			for _, user := range or(s.Users) {
				t := fleet.Target{Platform: p, Tag: tag, User: user, Ownership: strings.ToUpper(s.Ownership)}
				if out = append(out, t); len(out) > maxTargets {
					return nil, fmt.Sprintf("it is for more than %d groups.", maxTargets)
				}
			}
		}
	}
	return out, ""
}

// maxTargets bounds the groups that one policy is for.
const maxTargets = 100
