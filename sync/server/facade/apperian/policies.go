package apperian

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	translator "github.com/warderd/warder/sync/dialect/apperian"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

// The kinds of documents: presets, of which none is in force anywhere, and what is applied to an app.
const (
	presetKind = "preset"
	appKind    = "application"

	mostPresets = 1000
	mostApplied = 100
)

// shownPolicy is a policy of the catalogue, in the order of the vendor's fields.
type shownPolicy struct {
	Name     string            `json:"display_name"`
	Created  string            `json:"created"`
	Optional bool              `json:"auth_optional"`
	About    string            `json:"display_description"`
	Dynamic  bool              `json:"is_dynamic"`
	IOS      bool              `json:"supports_ios"`
	Fields   json.RawMessage   `json:"configurable_fields"`
	Android  bool              `json:"supports_android"`
	Presets  []json.RawMessage `json:"configurations"`
	Key      string            `json:"id"`
	ID       string            `json:"policy_id"`
}

// since is when the catalogue was made.
var since = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

func shown(d *definition, presets []json.RawMessage) (shownPolicy, error) {
	p := shownPolicy{Name: d.name, Created: created(since), Optional: d.optional, About: d.about, Dynamic: true, IOS: true, Android: true, Fields: json.RawMessage("null"),
		Presets: presets, Key: d.key(), ID: d.id}
	if p.Presets == nil {
		p.Presets = []json.RawMessage{}
	}
	if len(d.fields) > 0 {
		p.Fields = json.RawMessage("{}")
		for _, name := range d.fields {
			var err error
			if p.Fields, err = facade.After(p.Fields, name, d.rules[name]); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// preset is one as it was written.
type preset struct {
	Policy        string          `json:"policy_id"`
	Name          *string         `json:"name"`
	Enabled       *bool           `json:"enabled_by_default"`
	Auth          *bool           `json:"auth_required"`
	Configuration json.RawMessage `json:"configuration"`
}

// shownPreset is one as it is answered. Which of its fields there are depends on the call, as there.
type shownPreset struct {
	Name          *string         `json:"name"`
	Auth          *bool           `json:"auth_required,omitempty"`
	Enabled       bool            `json:"enabled_by_default"`
	IsPreset      *bool           `json:"is_a_preset,omitempty"`
	Created       string          `json:"created_time,omitempty"`
	Configuration json.RawMessage `json:"configuration"`
	ID            string          `json:"id"`
	Policy        string          `json:"policy_id"`
}

// stored is a preset with its document.
type stored struct {
	*store.VendorDocument
	preset
}

func openPreset(d *store.VendorDocument) (*stored, error) {
	s := &stored{VendorDocument: d}
	if err := json.Unmarshal(d.Document, &s.preset); err != nil {
		return nil, fmt.Errorf("preset %d of apperian, as it is stored: %w", d.Number, err)
	}
	return s, nil
}

// shown has no fields but those that were sent, with those that each answer but that to its making has.
func (s *stored) shown(whole, isPreset bool) shownPreset {
	out := shownPreset{Name: s.preset.Name, Enabled: s.Enabled != nil && *s.Enabled, Configuration: printed(s.preset.Policy, s.Configuration), ID: s.VendorDocument.Name, Policy: s.preset.Policy}
	if whole {
		auth := s.Auth == nil || *s.Auth
		out.Auth, out.Created = &auth, created(s.CreatedAt)
	}
	if isPreset {
		yes := true
		out.IsPreset = &yes
	}
	return out
}

// presets are all presets, by their policies.
func presets(c *facade.Call) (map[string][]json.RawMessage, error) {
	docs, err := c.Fleet.Documents(presetKind)
	if err != nil {
		return nil, err
	}
	out := map[string][]json.RawMessage{}
	for _, d := range docs {
		s, err := openPreset(d)
		if err != nil {
			return nil, err
		}
		b, err := facade.Marshal(s.shown(true, true))
		if err != nil {
			return nil, err
		}
		out[s.preset.Policy] = append(out[s.preset.Policy], b)
	}
	return out, nil
}

// list answers GET policies.
func list(c *facade.Call) (facade.Answer, error) {
	of, err := presets(c)
	if err != nil {
		return facade.Answer{}, err
	}
	out := []shownPolicy{}
	for i := range catalogue {
		p, err := shown(&catalogue[i], of[catalogue[i].id])
		if err != nil {
			return facade.Answer{}, err
		}
		out = append(out, p)
	}
	return facade.JSON(http.StatusOK, map[string][]shownPolicy{"policies": out})
}

func unknownPolicy(id string) error {
	return facade.NotFound(fmt.Sprintf("there is no policy %q", enforce.Plain(id)))
}

// get answers GET policies/{policy}.
func get(c *facade.Call) (facade.Answer, error) {
	d := definitionOf(c.PathValue("policy"))
	if d == nil {
		return facade.Answer{}, unknownPolicy(c.PathValue("policy"))
	}
	of, err := presets(c)
	if err != nil {
		return facade.Answer{}, err
	}
	p, err := shown(d, of[d.id])
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, map[string]shownPolicy{"policy": p})
}

// readPreset reads a preset of a policy; what is not given stays as it was.
func readPreset(c *facade.Call, d *definition, was preset) (json.RawMessage, error) {
	var in preset
	if facade.Decode(c.Body, &in) != nil {
		return nil, malformed()
	}
	var given map[string]json.RawMessage
	if json.Unmarshal(c.Body, &given) != nil {
		return nil, malformed()
	}
	some := false
	for _, name := range []string{"name", "enabled_by_default", "auth_required", "configuration"} {
		_, is := given[name]
		some = some || is
	}
	if !some {
		return nil, invalid("configuration", "is required")
	}
	in.Policy = d.id
	if _, is := given["name"]; !is { // null takes it away
		in.Name = was.Name
	}
	if in.Enabled == nil {
		in.Enabled = was.Enabled
	}
	if in.Auth == nil {
		in.Auth = was.Auth
	}
	if in.Configuration == nil {
		in.Configuration = was.Configuration
	}
	if in.Name != nil && (utf8.RuneCountInString(*in.Name) > 255 || !facade.Printable(*in.Name, false)) {
		return nil, invalid("name", "must have at most 255 characters, and no control characters")
	}
	if err := d.check(in.Configuration); err != nil {
		return nil, err
	}
	return facade.Marshal(in)
}

// createByGet is createPreset as the documentation prints it: a GET with a body.
func createByGet(c *facade.Call) (facade.Answer, error) {
	switch {
	case len(c.Body) == 0, c.Method != http.MethodGet: // HEAD is one for a mux
		return facade.Answer{}, &facade.Problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "POST makes a preset; GET policies/{policy} lists them"}
	case !c.Admin:
		return facade.Answer{}, &facade.Problem{Status: http.StatusForbidden, Code: "forbidden", Message: "this needs the role admin; the token has viewer"}
	}
	return createPreset(c)
}

// createPreset answers POST policies/{policy}/configurations.
func createPreset(c *facade.Call) (facade.Answer, error) {
	d := definitionOf(c.PathValue("policy"))
	if d == nil {
		return facade.Answer{}, unknownPolicy(c.PathValue("policy"))
	}
	raw, err := readPreset(c, d, preset{})
	if err != nil {
		return facade.Answer{}, err
	}
	var made *store.VendorDocument
	err = c.Fleet.Change(presetKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		made = &store.VendorDocument{Name: facade.NewShortID(), Document: raw, State: json.RawMessage("{}"), Report: json.RawMessage("{}")}
		if err := facade.Room(have, made, mostPresets); err != nil {
			return nil, err
		}
		return &facade.Update{Documents: []*store.VendorDocument{made}, Detail: []string{"a preset of " + d.id}}, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	s, err := openPreset(made)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, map[string]shownPreset{"configuration": s.shown(false, false)})
}

// presetIn is the preset in a path: by its id, or, as the documentation prints it once for PUT, by that of a policy that has one alone.
func presetIn(docs []*store.VendorDocument, id string, put bool) (*stored, error) {
	var of []*stored
	d := definitionOf(id)
	if !put {
		d = nil
	}
	for _, x := range docs {
		s, err := openPreset(x)
		if err != nil {
			return nil, err
		}
		if x.Name == id {
			return s, nil
		}
		if d != nil && s.preset.Policy == d.id {
			of = append(of, s)
		}
	}
	if len(of) == 1 {
		return of[0], nil
	}
	if len(of) > 1 {
		return nil, facade.Bad(fmt.Sprintf("%s has %d presets: say which one by its id", d.id, len(of)))
	}
	return nil, facade.NotFound(fmt.Sprintf("there is no preset %q", enforce.Plain(id)))
}

func getPreset(c *facade.Call) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(presetKind)
	if err != nil {
		return facade.Answer{}, err
	}
	s, err := presetIn(docs, c.PathValue("below"), false)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, map[string]shownPreset{"configuration": s.shown(true, true)})
}

func putPreset(c *facade.Call) (facade.Answer, error) {
	var s *stored
	err := c.Fleet.Change(presetKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		was, err := presetIn(have, c.PathValue("below"), true)
		if err != nil {
			return nil, err
		}
		d := definitionOf(was.preset.Policy)
		if d == nil {
			return nil, unknownPolicy(was.preset.Policy)
		}
		if was.Document, err = readPreset(c, d, was.preset); err != nil {
			return nil, err
		}
		if err := facade.Room(have, was.VendorDocument, mostPresets); err != nil {
			return nil, err
		}
		if s, err = openPreset(was.VendorDocument); err != nil {
			return nil, err
		}
		return &facade.Update{Documents: []*store.VendorDocument{was.VendorDocument}, Detail: []string{"a preset of " + d.id}}, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, map[string]shownPreset{"configuration": s.shown(true, false)})
}

func deletePreset(c *facade.Call) (facade.Answer, error) {
	err := c.Fleet.Change(presetKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		s, err := presetIn(have, c.PathValue("below"), false)
		if err != nil {
			return nil, err
		}
		s.Gone = true
		return &facade.Update{Documents: []*store.VendorDocument{s.VendorDocument}, Detail: []string{"a preset of " + s.preset.Policy}}, nil
	})
	return facade.Answer{Status: http.StatusNoContent}, err
}

// The states of an app.
const (
	noPolicies = 0
	signed     = 1
)

var statusNames = map[int]string{noPolicies: "NO POLICIES", signed: "POLICIES AND SIGNED"}

// processed is what the console processes of an entry; what else it has is ignored, as there.
type processed struct {
	Policy        string          `json:"policy_id"`
	Configuration json.RawMessage `json:"configuration,omitempty"`
	Auth          *bool           `json:"auth_required,omitempty"`
	Enabled       *bool           `json:"enabled_by_default,omitempty"` // for the console's form
}

// configuration is one that is applied.
type configuration struct {
	processed
	ID string `json:"id"`
}

// shownApplied is one as the list answers it.
type shownApplied struct {
	Policy        string          `json:"policy_id"`
	Configuration json.RawMessage `json:"configuration"`
	ID            string          `json:"id"`
	Auth          bool            `json:"auth_required"`
}

// shownApply is one as applying answers it: what was not given is not there.
type shownApply struct {
	Configuration json.RawMessage `json:"configuration,omitempty"`
	ID            string          `json:"id"`
	Policy        string          `json:"policy_id"`
	Auth          *bool           `json:"auth_required,omitempty"`
}

type apperian struct {
	applying sync.Map // apps, while something is applied to them
}

// appOf is the app in a path, if the operator has said which programs it is, or something was applied to it when that was so.
func appOf(c *facade.Call) (string, error) {
	app := c.PathValue("application")
	if c.Method != http.MethodPost && len(c.Apps[app]) == 0 {
		docs, err := c.Fleet.Documents(appKind)
		if err != nil || of(docs, app) != nil {
			return app, err
		}
	}
	if len(c.Apps[app]) == 0 {
		return "", facade.NotFound(fmt.Sprintf("there is no application %q: serve --facade apperian=ADDRESS,app:ID=PATH says which programs of a laptop one is", enforce.Plain(app)))
	}
	return app, nil
}

// of is the document of an app; nil if nothing was ever applied to it.
func of(docs []*store.VendorDocument, app string) *store.VendorDocument {
	if i := slices.IndexFunc(docs, func(d *store.VendorDocument) bool { return d.Name == app }); i >= 0 {
		return docs[i]
	}
	return nil
}

func openApp(d *store.VendorDocument) (out []configuration, err error) {
	if d == nil {
		return nil, nil
	}
	var x struct {
		List []configuration `json:"configurations"`
	}
	if err := json.Unmarshal(d.Document, &x); err != nil {
		return nil, fmt.Errorf("application %d of apperian, as it is stored: %w", d.Number, err)
	}
	return x.List, nil
}

// appAnswer is what GET applications/{application}/policies answers, and what the translator reads.
type appAnswer struct {
	Status struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"status"`
	Previous       []json.RawMessage `json:"previous_version_configurations"`
	Configurations []shownApplied    `json:"configurations"`
}

func answerOf(list []configuration) appAnswer {
	a := appAnswer{Previous: []json.RawMessage{}, Configurations: []shownApplied{}}
	for _, x := range list {
		a.Configurations = append(a.Configurations, shownApplied{x.Policy, printed(x.Policy, x.Configuration), x.ID, x.Auth == nil || *x.Auth})
		a.Status.Code = signed // there is nothing to be signed on a laptop
	}
	a.Status.Description = statusNames[a.Status.Code]
	return a
}

func applied(c *facade.Call) (facade.Answer, error) {
	app, err := appOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	docs, err := c.Fleet.Documents(appKind)
	if err != nil {
		return facade.Answer{}, err
	}
	list, err := openApp(of(docs, app))
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, answerOf(list))
}

// alone lets one call at a time change what is applied to an app; another one is told to wait, as there.
func (f *apperian) alone(app string, change func() error) error {
	if _, busy := f.applying.LoadOrStore(app, true); busy {
		return &facade.Problem{Status: http.StatusConflict, Code: "applying", Message: "policies are being applied to the application: wait until it is done"}
	}
	defer f.applying.Delete(app)
	return change()
}

// apply answers POST applications/{application}/policies: 202 the first time, when there is nothing that could be replaced, and 200 then.
func (f *apperian) apply(c *facade.Call) (facade.Answer, error) {
	app, err := appOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	var in struct {
		List *[]processed `json:"configurations"`
	}
	if facade.Decode(c.Body, &in) != nil {
		return facade.Answer{}, malformed()
	}
	if in.List == nil {
		return facade.Answer{}, invalid("configurations", "is required")
	}
	var list []configuration
	for _, x := range *in.List {
		list = append(list, configuration{processed: x})
	}
	if len(list) == 0 { // which does nothing, as there
		return facade.JSON(http.StatusOK, map[string][]shownApply{"configurations": {}})
	}
	if len(list) > mostApplied {
		return facade.Answer{}, invalid("configurations", fmt.Sprintf("may have at most %d entries", mostApplied))
	}
	for i := range list {
		x := &list[i]
		d := definitionOf(x.Policy)
		if d == nil {
			return facade.Answer{}, invalid(fmt.Sprintf("configurations[%d].policy_id", i), fmt.Sprintf("%q is no policy", enforce.Plain(x.Policy)))
		}
		x.Policy, x.ID = d.id, facade.NewShortID()
		if slices.ContainsFunc(list[:i], func(o configuration) bool { return o.Policy == x.Policy }) {
			return facade.Answer{}, invalid(fmt.Sprintf("configurations[%d].policy_id", i), "is applied twice")
		}
		if err := d.check(x.Configuration); err != nil {
			return facade.Answer{}, facade.Bad(fmt.Sprintf("configurations[%d].%s", i, err))
		}
		if yes := true; x.Auth == nil && !d.optional {
			x.Auth = &yes
		}
		if string(x.Configuration) == "null" {
			x.Configuration = nil
		}
	}
	status := http.StatusOK
	err = f.alone(app, func() error {
		return c.Fleet.Change(appKind, func(have []*store.VendorDocument) (*facade.Update, error) {
			d := of(have, app)
			status = http.StatusOK
			before, err := openApp(d)
			if err != nil {
				return nil, err
			}
			if len(before) == 0 {
				status = http.StatusAccepted
			}
			if d == nil {
				d = &store.VendorDocument{Name: app, State: json.RawMessage("{}")}
			}
			if d.Document, err = facade.Marshal(map[string][]configuration{"configurations": list}); err != nil {
				return nil, err
			}
			if err := facade.Room(have, d, mostPresets); err != nil {
				return nil, err
			}
			p, err := publication(c, app, d, list)
			if err != nil {
				return nil, err
			}
			return &facade.Update{Documents: []*store.VendorDocument{d}, Publish: []facade.Publication{*p}, Detail: []string{"applied to " + enforce.Plain(app)}}, nil
		})
	})
	if err != nil {
		return facade.Answer{}, err
	}
	out := []shownApply{}
	for _, x := range list {
		s := shownApply{ID: x.ID, Policy: x.Policy, Auth: x.Auth}
		if x.Configuration != nil {
			s.Configuration = printed(x.Policy, x.Configuration)
		}
		out = append(out, s)
	}
	return facade.JSON(status, map[string][]shownApply{"configurations": out})
}

// publication brings what is applied to an app into force.
func publication(c *facade.Call, app string, d *store.VendorDocument, list []configuration) (*facade.Publication, error) {
	b, err := facade.Marshal(answerOf(list))
	if err != nil {
		return nil, err
	}
	t, err := translator.Translate(b, dialect.Options{Whole: c.Whole, App: app, Apps: map[string][]string{app: c.Apps[app]}})
	if err != nil {
		return nil, facade.Bad(err.Error())
	}
	p := &facade.Publication{Document: d, Translation: &t, Carried: facade.CarriedOf(&t)}
	p.Carried.Notes = append(p.Carried.Notes, "Whom it is for is not among these calls: assign it here.")
	return p, nil
}

// remove answers DELETE applications/{application}/policies.
func (f *apperian) remove(c *facade.Call) (facade.Answer, error) {
	app, err := appOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	err = f.alone(app, func() error {
		return c.Fleet.Change(appKind, func(have []*store.VendorDocument) (*facade.Update, error) {
			d := of(have, app)
			if d == nil {
				return &facade.Update{}, nil
			}
			d.Document = json.RawMessage(`{"configurations":[]}`)
			return &facade.Update{Documents: []*store.VendorDocument{d}, Publish: []facade.Publication{{Document: d}}, Detail: []string{"removed from " + enforce.Plain(app)}}, nil
		})
	})
	return facade.Answer{Status: http.StatusNoContent}, err
}
