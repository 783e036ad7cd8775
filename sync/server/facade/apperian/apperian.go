// Package apperian is the façade of Apperian: its catalogue of policies, presets of these, and what is applied to an app. Which programs of a
// laptop an app is, the operator says; an app that nobody has said that of is not there. What is applied is in force at once, for the devices
// that an administrator assigns it to in Warder: these calls do not say for whom an app is.
package apperian

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warderd/warder/sync/server/facade"
)

const (
	maxBody  = 256 << 10
	maxSmall = 32 << 10

	policies       = "/v2/policies"
	onePolicy      = policies + "/{policy}"
	below          = onePolicy + "/{below}" // {policy}/configurations, or configurations/{configuration}
	appPolicies    = "/v2/applications/{application}/policies"
	authentication = "/users/authenticate"
)

// Facade is the façade. What asks for an administrator there asks for the role admin here, and so does what writes presets.
func Facade() *facade.Vendor {
	f := &apperian{}
	v := &facade.Vendor{Name: "apperian", Token: token, Refuse: refuse, Routes: []facade.Route{
		{Method: "GET", Path: policies, Do: list},
		{Method: "GET", Path: onePolicy, Do: get},
		{Method: "GET", Path: below, Do: either(getPreset, createByGet), Body: maxBody},
		{Method: "POST", Path: below, Access: facade.Admin, Do: either(nil, createPreset), Body: maxBody},
		{Method: "PUT", Path: below, Access: facade.Admin, Do: either(putPreset, nil), Body: maxBody},
		{Method: "DELETE", Path: below, Access: facade.Admin, Do: either(deletePreset, nil), Body: maxSmall},

		{Method: "GET", Path: appPolicies, Access: facade.Admin, Do: applied},
		{Method: "POST", Path: appPolicies, Access: facade.Admin, Do: f.apply, Body: maxBody},
		{Method: "DELETE", Path: appPolicies, Access: facade.Admin, Do: f.remove, Body: maxSmall},
	}}
	for _, version := range []string{"", "/v1", "/v2", "/v3"} { // a console answers some of its calls under each
		v.Routes = append(v.Routes, facade.Route{Method: "POST", Path: version + authentication, Access: facade.Anyone, Do: authenticate, Body: maxSmall})
	}
	return v
}

// either is the call of a preset by its id, or of the presets of a policy: of the two paths, neither is the more special one for a mux.
func either(preset, of func(*facade.Call) (facade.Answer, error)) func(*facade.Call) (facade.Answer, error) {
	return func(c *facade.Call) (facade.Answer, error) {
		policy, below := c.PathValue("policy"), c.PathValue("below")
		do := of
		switch {
		case policy == "configurations":
			do = preset
		case below != "configurations":
			return facade.Answer{}, facade.NotFound(fmt.Sprintf("no such resource: %.200q", c.URL.Path))
		}
		if do == nil {
			return facade.Answer{}, &facade.Problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: fmt.Sprintf("method %.20q is not answered here", c.Method)}
		}
		return do(c)
	}
}

func token(q *http.Request) string { return strings.TrimSpace(q.Header.Get("X-TOKEN")) }

func refuse(_ *http.Request, p *facade.Problem) facade.Answer {
	x, _ := facade.JSON(p.Status, map[string]string{"error": p.Message})
	return x
}

func malformed() error { return facade.Bad(facade.ErrMalformed.Error()) }

func invalid(field, what string) error { return facade.Bad(field + " " + what) }

// authenticate answers POST users/authenticate: the password is a token of ours, and so is the token.
func authenticate(c *facade.Call) (facade.Answer, error) {
	var in struct {
		User     string `json:"user_id"`
		Password string `json:"password"`
	}
	if strings.HasPrefix(strings.TrimSpace(string(c.Body)), "{") {
		if facade.Decode(c.Body, &in) != nil {
			return facade.Answer{}, malformed()
		}
	} else {
		form, err := facade.Form(c)
		if err != nil {
			return facade.Answer{}, malformed()
		}
		in.User, in.Password = form.Get("user_id"), form.Get("password")
	}
	if in.Password == "" {
		return facade.Answer{}, invalid("password", "is required")
	}
	if _, err := c.Fleet.Login(in.Password); err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, map[string]string{"token": in.Password})
}

// created is a time as the vendor prints it.
func created(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-07:00") }

// fieldRule is what the vendor's forms check of a field.
type fieldRule struct {
	Type     string `json:"type"`
	Required bool   `json:"required"`
	Min      *int64 `json:"min,omitempty"`
}

// field is one of a policy's configuration, as the catalogue shows it.
type field struct {
	Label      string     `json:"label"`
	Type       string     `json:"type"`
	Default    string     `json:"default"`
	Validation *fieldRule `json:"validation"`
}

// definition is a policy of the catalogue.
type definition struct {
	id, name, about string
	optional        bool // whether users have to log in may be chosen
	fields          []string
	rules           map[string]field
}

// catalogue are the policies that there are. Their names are the vendor's; what they are about is said in our words.
var catalogue = func() []definition {
	one := int64(1)
	text := func(label, def, kind string, required bool, least *int64) field {
		return field{label, "text", def, &fieldRule{kind, required, least}}
	}
	return []definition{
		{id: "com.apperian.access-control", name: "App Expiration", about: "Keeps an app from being used before and after given days.", optional: true,
			fields: []string{"access_date_range", "user_message"}, rules: map[string]field{
				"access_date_range": text("Access Date Range", "", "date_range", true, nil), "user_message": text("User Message", "", "text", false, nil)}},
		{id: "com.apperian.app-usage", name: "App Usage", about: "Tells when an app is opened.", optional: true},
		{id: "com.apperian.collect-crash-reports", name: "Collect Crash Reports", about: "Collects what an app leaves when it crashes."},
		{id: "com.apperian.data-wipe", name: "Data Wipe", about: "Deletes the data of an app. No laptop does it."},
		{id: "com.apperian.enterprise-sso", name: "Enterprise SSO", about: "Asks for the login of the console before an app is used."},
		{id: "com.apperian.jailbreak-and-root-protection", name: "Jailbreak and Root Protection", about: "Keeps an app from being used on a system that is not intact.", optional: true},
		{id: "com.apperian.open-webpage-url", name: "Open Web Page", about: "Opens a web page after an app has been opened some times.",
			fields: []string{"open_webpage_frequency", "open_webpage_url"}, rules: map[string]field{
				"open_webpage_frequency": text("Frequency", "1", "number", true, &one), "open_webpage_url": text("Web Page URL", "", "url", true, nil)}},
		{id: "com.apperian.self-update", name: "Self Update", about: "Asks for the newest version of an app to be installed.", optional: true},
	}
}()

// key is the 22 characters by which the vendor knows a policy, beside its name in reverse.
func (d *definition) key() string { return facade.ShortID("policy " + d.id) }

// definitionOf is a policy by either of its ids.
func definitionOf(id string) *definition {
	if i := slices.IndexFunc(catalogue, func(d definition) bool { return d.id == id || d.key() == id }); i >= 0 {
		return &catalogue[i]
	}
	return nil
}

// check says what is wrong with a configuration. Fields that the catalogue does not know are the translator's to name.
func (d *definition) check(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		if slices.ContainsFunc(d.fields, func(f string) bool { return d.rules[f].Validation.Required }) {
			return invalid("configuration", "is required by "+d.id)
		}
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return invalid("configuration", "must be an object")
	}
	for _, name := range d.fields {
		rule, value := d.rules[name].Validation, fields[name]
		if len(value) == 0 || string(value) == "null" {
			if rule.Required {
				return invalid("configuration."+name, "is required by "+d.id)
			}
			continue
		}
		if rule.Type == "date_range" {
			if _, err := dates(value); err != nil {
				return invalid("configuration."+name, err.Error())
			}
			continue
		}
		text := string(value)
		if json.Unmarshal(value, &text) != nil && rule.Type != "number" {
			return invalid("configuration."+name, "must be a text")
		}
		switch n, err := strconv.ParseInt(text, 10, 64); rule.Type {
		case "number":
			if err != nil || rule.Min != nil && n < *rule.Min {
				return invalid("configuration."+name, "must be a whole number, from 1 on")
			}
		case "url":
			if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(text) > 2048 {
				return invalid("configuration."+name, "must be the address of a web page")
			}
		}
	}
	return nil
}

// days are the first and the last day on which something may be used; "" is open.
type days struct{ Start, End string }

// The forms of a day: the console takes both, and prints the second.
const (
	isoDay     = "2006-01-02"
	printedDay = "01/02/2006"
)

// dates reads a range of days.
func dates(raw json.RawMessage) (days, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return days{}, errors.New("must be an object with start and end")
	}
	var out days
	for _, x := range []struct {
		name string
		to   *string
	}{{"start", &out.Start}, {"end", &out.End}} {
		given := ""
		if v := fields[x.name]; len(v) > 0 && json.Unmarshal(v, &given) != nil {
			return days{}, fmt.Errorf("%s must be a text", x.name)
		}
		if given == "" {
			continue
		}
		t, err := time.Parse(isoDay, given)
		if err != nil {
			t, err = time.Parse(printedDay, given)
		}
		if err != nil {
			return days{}, fmt.Errorf("%s must be a day, as 2017-11-16 or 11/16/2017", x.name)
		}
		*x.to = t.Format(printedDay)
	}
	if out.Start != "" && out.End != "" {
		a, _ := time.Parse(printedDay, out.Start)
		if b, _ := time.Parse(printedDay, out.End); b.Before(a) {
			return days{}, errors.New("ends before it starts")
		}
	}
	return out, nil
}

// printed is a configuration as it is answered: as it was written, with days as the console prints them.
func printed(policy string, raw json.RawMessage) json.RawMessage {
	var fields map[string]json.RawMessage
	if len(raw) == 0 || string(raw) == "null" || json.Unmarshal(raw, &fields) != nil {
		return json.RawMessage("null")
	}
	r := fields["access_date_range"]
	d, err := dates(r)
	if policy != "com.apperian.access-control" || err != nil {
		return raw
	}
	for name, day := range map[string]string{"start": d.Start, "end": d.End} {
		if day == "" {
			continue
		}
		if r, err = facade.Replace(r, name, json.RawMessage(strconv.Quote(day))); err != nil {
			return raw
		}
	}
	out, err := facade.Replace(raw, "access_date_range", r)
	if err != nil {
		return raw
	}
	return out
}
