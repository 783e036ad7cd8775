package mocana

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

const (
	profileKind = "profile"
	most        = 1000
)

// The kinds of profiles that have calls of their own.
const (
	browser = "browser"
	vpn     = "vpn"
)

// profile is one as it was written.
type profile struct {
	Type string          `json:"type"`
	Name string          `json:"name"`
	Desc string          `json:"desc"`
	Data json.RawMessage `json:"data"`
}

// profileState is what the façade keeps beside it.
type profileState struct {
	Data     string    `json:"data_id"` // another one with each change
	Stamp    time.Time `json:"stamp"`
	Archived bool      `json:"archived"` // deleted: it can be read, and no app be secured with it
	Default  bool      `json:"default"`  // of its type
	Past     []past    `json:"past,omitempty"`
}

// past is what a profile had, for those who ask by the id of its data.
type past struct {
	ID    string          `json:"id"`
	Stamp time.Time       `json:"stamp"`
	Data  json.RawMessage `json:"data"`
}

// mostPast bounds what is kept of a profile: the oldest goes first.
const mostPast = 5

// entry is a profile that has been read.
type entry struct {
	*store.VendorDocument
	p profile
	s profileState
}

func open(d *store.VendorDocument) (*entry, error) {
	e := &entry{VendorDocument: d}
	err := json.Unmarshal(d.Document, &e.p)
	if err == nil {
		err = json.Unmarshal(d.State, &e.s)
	}
	if err != nil {
		return nil, fmt.Errorf("profile %s of mocana, as it is stored: %w", d.Name, err)
	}
	return e, nil
}

func (e *entry) keep() (err error) {
	if e.Document, err = facade.Marshal(e.p); err != nil {
		return err
	}
	e.State, err = facade.Marshal(e.s)
	return err
}

// stamp is a time as the vendor prints it: without a zone. It is UTC here.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + ".0" }

// guid is the id of a text that never changes; newGUID one that nobody has.
func guid(text string) string {
	b := sha256.Sum256([]byte(text))
	b[6], b[8] = b[6]&0x0f|0x50, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func newGUID() string { return guid(rand.Text()) }

// dataShown is the data of a profile as it is answered: a text with an object in it, or, of a browser's, the object itself.
type dataShown struct {
	Data  string `json:"profile_data"`
	ID    string `json:"profile_data_id"`
	Stamp string `json:"profile_data_stamp"`
}

// shown is a profile as it is answered, in the order of the vendor's fields.
type shown struct {
	Data json.RawMessage `json:"data"`
	Desc string          `json:"profile_desc"`
	ID   string          `json:"profile_id"`
	Name string          `json:"profile_name"`
	Type string          `json:"profile_type"`
	URL  string          `json:"profile_url"`
}

func (e *entry) shown(c *facade.Call) (shown, error) {
	out := shown{Data: e.p.Data, Desc: e.p.Desc, ID: e.VendorDocument.Name, Name: e.p.Name, Type: e.p.Type, URL: "https://" + c.Host + base + "/profile/" + e.VendorDocument.Name}
	if !c.Admin {
		var err error
		if out.Data, err = hidden(out.Data); err != nil {
			return out, err
		}
	}
	if e.p.Type == browser {
		out.URL = "https://" + c.Host + base + "/profile/mocana-browser/" + e.VendorDocument.Name
		return out, nil
	}
	b, err := facade.Marshal(dataShown{string(out.Data), e.s.Data, stamp(e.s.Stamp)})
	out.Data = b
	return out, err
}

// hidden is the data of a profile without the passwords in it, for who may only read.
func hidden(data json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return data, err
	}
	for name := range fields {
		if n := strings.ToLower(name); strings.Contains(n, "psk") || strings.Contains(n, "password") {
			var err error
			if data, err = facade.Replace(data, name, json.RawMessage(`""`)); err != nil {
				return data, err
			}
		}
	}
	return data, nil
}

// answered is the envelope around one profile, or several.
type answered struct {
	Message  string `json:"message"`
	Profiles any    `json:"profiles"`
	Status   string `json:"status"`
}

func (e *entry) answer(c *facade.Call) (facade.Answer, error) {
	s, err := e.shown(c)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, answered{"", s, good})
}

func notFound(what, id string) error {
	return facade.NotFound(fmt.Sprintf("there is no %s %q", what, enforce.Plain(id)))
}

func invalid(field, what string) error { return facade.Bad(field + " " + what) }

// find is a profile by its id; nil if there is none.
func find(docs []*store.VendorDocument, id string) *store.VendorDocument {
	if i := slices.IndexFunc(docs, func(d *store.VendorDocument) bool { return d.Name == id }); i >= 0 {
		return docs[i]
	}
	return nil
}

// active is a profile in a list that has not been deleted.
func active(docs []*store.VendorDocument, id string) (*entry, error) {
	d := find(docs, id)
	if d == nil {
		return nil, notFound("profile", id)
	}
	e, err := open(d)
	if err == nil && e.s.Archived {
		err = notFound("profile", id)
	}
	return e, err
}

// object reads what a client has sent as a JSON object. What stands in documentation for something else is none, and neither is one that is cut.
func object(field, text string) (json.RawMessage, error) {
	raw := json.RawMessage(strings.TrimSpace(text))
	if len(raw) == 0 {
		return nil, invalid(field, "is required")
	}
	if _, err := dialect.Read(raw); err != nil || raw[0] != '{' {
		return nil, invalid(field, "must be an object in JSON")
	}
	return facade.Compact(raw)
}

// room refuses a profile that would be too much, after what is only history has made room: the oldest profiles of the archive. Apps have their
// own copy of what they are secured with.
func room(have []*store.VendorDocument, e *entry) (gone []*store.VendorDocument, err error) {
	for {
		left := slices.DeleteFunc(slices.Clone(have), func(d *store.VendorDocument) bool { return slices.Contains(gone, d) })
		refused := facade.Room(left, e.VendorDocument, most)
		if refused == nil {
			return gone, nil
		}
		var oldest *entry
		for _, d := range left {
			o, err := open(d)
			if err != nil {
				return nil, err
			}
			if o.s.Archived && o.Number != e.Number && (oldest == nil || o.UpdatedAt.Before(oldest.UpdatedAt)) {
				oldest = o
			}
		}
		if oldest == nil {
			return nil, refused
		}
		oldest.Gone = true
		gone = append(gone, oldest.VendorDocument)
	}
}

// named checks the words of a profile, and that no other one of its type has its name.
func (e *entry) named(have []*store.VendorDocument) error {
	for _, x := range []struct {
		field, text string
		most        int
	}{{"name", e.p.Name, 255}, {"desc", e.p.Desc, 1000}, {"type", e.p.Type, 64}} {
		if utf8.RuneCountInString(x.text) > x.most || !facade.Printable(x.text, x.field == "desc") || x.field != "desc" && strings.TrimSpace(x.text) == "" {
			return invalid(x.field, fmt.Sprintf("must have at most %d characters, and no control characters", x.most))
		}
	}
	for _, d := range have {
		o, err := open(d)
		if err != nil {
			return err
		}
		if o.Number != e.Number && !o.s.Archived && o.p.Type == e.p.Type && o.p.Name == e.p.Name {
			return &facade.Problem{Status: http.StatusConflict, Code: "exists", Message: fmt.Sprintf("there is a profile %q of this type", enforce.Plain(e.p.Name))}
		}
	}
	return nil
}

// written gives a profile data of its own id, and keeps what it had.
func (e *entry) written(c *facade.Call, data json.RawMessage) {
	if e.p.Data != nil {
		e.s.Past = append(e.s.Past, past{e.s.Data, e.s.Stamp, e.p.Data})
		e.s.Past = e.s.Past[max(0, len(e.s.Past)-mostPast):]
	}
	e.p.Data, e.s.Data, e.s.Stamp = data, newGUID(), c.Now
}

// add makes a profile.
func add(c *facade.Call, p profile) (*entry, error) {
	var e *entry
	data := p.Data
	if p.Type == browser {
		var err error
		if data, err = icons(data); err != nil {
			return nil, err
		}
	}
	err := c.Fleet.Change(profileKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		e = &entry{VendorDocument: &store.VendorDocument{Name: newGUID(), Report: json.RawMessage("{}")}, p: profile{Type: strings.ToLower(p.Type), Name: p.Name, Desc: p.Desc}}
		e.written(c, data)
		if err := e.named(have); err != nil {
			return nil, err
		}
		if err := e.keep(); err != nil {
			return nil, err
		}
		gone, err := room(have, e)
		if err != nil {
			return nil, err
		}
		return &facade.Update{Documents: append(gone, e.VendorDocument), Detail: []string{"profile " + enforce.Plain(e.p.Name)}}, nil
	})
	return e, err
}

// change changes a profile that is active; what was not sent stays as it was.
func change(c *facade.Call, id string, p profile, described bool) (*entry, error) {
	var e *entry
	data := p.Data
	if data != nil && p.Type == browser {
		var err error
		if data, err = icons(data); err != nil {
			return nil, err
		}
	}
	err := c.Fleet.Change(profileKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		var err error
		if e, err = active(have, id); err != nil {
			return nil, err
		}
		if p.Type != "" && !strings.EqualFold(p.Type, e.p.Type) {
			return nil, invalid("type", "cannot be changed")
		}
		if e.p.Type == browser && p.Type != browser {
			return nil, invalid("type", "browser has a call of its own, profile/mocana-browser/{GUID}")
		}
		if p.Name != "" {
			e.p.Name = p.Name
		}
		if described {
			e.p.Desc = p.Desc
		}
		if data != nil {
			e.written(c, data)
		}
		if err := e.named(have); err != nil {
			return nil, err
		}
		if err := e.keep(); err != nil {
			return nil, err
		}
		gone, err := room(have, e)
		if err != nil {
			return nil, err
		}
		return &facade.Update{Documents: append(gone, e.VendorDocument), Detail: []string{"profile " + enforce.Plain(e.p.Name)}}, nil
	})
	return e, err
}

// words are those of a form that say what a profile is.
func words(f url.Values, data string) (p profile, err error) {
	pick := func(names ...string) string {
		for _, n := range names {
			if f.Has(n) {
				return f.Get(n)
			}
		}
		return ""
	}
	p = profile{Type: f.Get("type"), Name: pick("name", "profileName"), Desc: pick("desc", "profileDesc")}
	if f.Has(data) {
		p.Data, err = object(data, f.Get(data))
	}
	return p, err
}

// write makes the handler that makes a profile, or changes one. A browser's has calls of its own, and its data another name.
func write(kind, field string, fresh bool) func(*facade.Call) (facade.Answer, error) {
	return func(c *facade.Call) (facade.Answer, error) {
		f, err := form(c)
		if err != nil {
			return facade.Answer{}, err
		}
		p, err := words(f, field)
		switch {
		case err != nil:
		case fresh && p.Data == nil:
			err = invalid(field, "is required")
		case kind != "":
			p.Type = kind
		case strings.EqualFold(p.Type, browser):
			err = invalid("type", "browser has a call of its own, profile/mocana-browser/new")
		}
		if err != nil {
			return facade.Answer{}, err
		}
		var e *entry
		if fresh {
			e, err = add(c, p)
		} else {
			e, err = change(c, c.PathValue("id"), p, f.Has("desc") || f.Has("profileDesc"))
		}
		if err != nil {
			return facade.Answer{}, err
		}
		return e.answer(c)
	}
}

// icons gives what a browser shows the ids that the console makes: clients cannot choose them, and keep those that are there.
func icons(data json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, invalid("browser_profile_data", "must be an object in JSON")
	}
	var sites []json.RawMessage
	if raw, is := fields["sites"]; is {
		if json.Unmarshal(raw, &sites) != nil {
			return nil, invalid("browser_profile_data", "sites must be a list")
		}
		for i, s := range sites {
			for _, name := range []string{"icon_id", "id"} {
				var site map[string]json.RawMessage
				if json.Unmarshal(s, &site) != nil || site == nil {
					return nil, invalid("browser_profile_data", "sites must be objects")
				}
				if _, is := site[name]; is {
					continue
				}
				id := ""
				if name == "id" {
					id = newGUID()
				}
				var err error
				if s, err = facade.After(s, name, id); err != nil {
					return nil, err
				}
			}
			sites[i] = s
		}
		list, err := facade.Marshal(sites)
		if err != nil {
			return nil, err
		}
		if data, err = facade.Replace(data, "sites", list); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// tunnel answers POST app-policy/vpn-profile: a new profile, or one that is changed, of which everything is given again. The answer has no
// status, as there.
func tunnel(c *facade.Call) (facade.Answer, error) {
	f, err := form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	data := json.RawMessage("{}")
	names := []string{}
	for name, list := range f {
		if len(list) > 1 {
			return facade.Answer{}, invalid(name, "comes twice")
		}
		if !slices.Contains([]string{"profileId", "profileName", "profileDesc"}, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if data, err = facade.After(data, name, f.Get(name)); err != nil {
			return facade.Answer{}, err
		}
	}
	for _, name := range []string{"profileName", "vpnServerAddr", "vpnAuthMethod"} {
		if strings.TrimSpace(f.Get(name)) == "" {
			return facade.Answer{}, invalid(name, "is required")
		}
	}
	if data, err = object("the form", string(data)); err != nil {
		return facade.Answer{}, err
	}
	p := profile{Type: vpn, Name: f.Get("profileName"), Desc: f.Get("profileDesc"), Data: data}
	var e *entry
	if id := f.Get("profileId"); id != "" {
		e, err = change(c, id, p, true)
	} else {
		e, err = add(c, p)
	}
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, struct {
		Policy  map[string]string `json:"app_policy"`
		Message string            `json:"message"`
	}{map[string]string{"profile_id": e.VendorDocument.Name}, ""})
}

// profiles are all of them.
func profiles(c *facade.Call) (out []*entry, err error) {
	docs, err := c.Fleet.Documents(profileKind)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		e, err := open(d)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func get(c *facade.Call) (facade.Answer, error) { return read(c, func(e *entry) bool { return true }) }

func getBrowser(c *facade.Call) (facade.Answer, error) {
	return read(c, func(e *entry) bool { return e.p.Type == browser })
}

// read answers a profile that is active.
func read(c *facade.Call, is func(*entry) bool) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(profileKind)
	if err != nil {
		return facade.Answer{}, err
	}
	e, err := active(docs, c.PathValue("id"))
	if err == nil && !is(e) {
		err = notFound("profile", c.PathValue("id"))
	}
	if err != nil {
		return facade.Answer{}, err
	}
	return e.answer(c)
}

// catalog lists the profiles that are active, of a type or of all.
func catalog(c *facade.Call) (facade.Answer, error) {
	all, err := profiles(c)
	if err != nil {
		return facade.Answer{}, err
	}
	out := []shown{}
	for _, e := range all {
		if t := c.PathValue("type"); e.s.Archived || t != "" && !strings.EqualFold(t, e.p.Type) {
			continue
		}
		s, err := e.shown(c)
		if err != nil {
			return facade.Answer{}, err
		}
		out = append(out, s)
	}
	return facade.JSON(http.StatusOK, answered{"", out, good})
}

// profileData answers what a profile has or had, by the id of the data: also of one that was deleted.
func profileData(c *facade.Call) (facade.Answer, error) {
	all, err := profiles(c)
	if err != nil {
		return facade.Answer{}, err
	}
	id := c.PathValue("id")
	for _, e := range all {
		was := e.s.Past
		for _, p := range append([]past{{e.s.Data, e.s.Stamp, e.p.Data}}, was...) {
			if p.ID != id {
				continue
			}
			then := *e
			then.p.Data, then.s.Data, then.s.Stamp = p.Data, p.ID, p.Stamp
			return then.answer(c)
		}
	}
	// What an app is secured with is there, whatever has become of the profile.
	docs, err := c.Fleet.Documents(appKind)
	if err != nil {
		return facade.Answer{}, err
	}
	for _, d := range docs {
		list, err := openApp(d)
		if err != nil {
			return facade.Answer{}, err
		}
		for _, s := range list {
			if s.Data == id && s.Type != "" {
				return s.answer(c)
			}
		}
	}
	return facade.Answer{}, notFound("profile data", id)
}

// archive deletes a profile: it is kept for the apps that are secured with it, and no other app can be.
func archive(c *facade.Call) (facade.Answer, error) {
	err := c.Fleet.Change(profileKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		e, err := active(have, c.PathValue("id"))
		if err != nil {
			return nil, err
		}
		e.s.Archived, e.s.Default = true, false
		if err := e.keep(); err != nil {
			return nil, err
		}
		return &facade.Update{Documents: []*store.VendorDocument{e.VendorDocument}, Detail: []string{"archived: " + enforce.Plain(e.p.Name)}}, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, enveloped{"", good})
}

// typeOf is the type in the name of a setting: {type}-default-profile.
func typeOf(c *facade.Call) (string, error) {
	t, ok := strings.CutSuffix(c.PathValue("default"), "-default-profile")
	if !ok || t == "" {
		return "", facade.NotFound(fmt.Sprintf("no such resource: %.200q", c.URL.Path))
	}
	return strings.ReplaceAll(strings.ToLower(t), "-", "_"), nil // the vendor writes both
}

// setting is a default as it is answered.
type setting struct {
	Code string `json:"code"`
	Data string `json:"string_data"`
}

func settings(t, id string) (facade.Answer, error) {
	return facade.JSON(http.StatusOK, struct {
		Message  string    `json:"message"`
		Settings []setting `json:"settings"`
		Status   string    `json:"status"`
	}{"", []setting{{"OPT_CODE_" + strings.ToUpper(t) + "_DEFAULT_PROFILE", id}}, good})
}

func getDefault(c *facade.Call) (facade.Answer, error) {
	t, err := typeOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	all, err := profiles(c)
	if err != nil {
		return facade.Answer{}, err
	}
	for _, e := range all {
		if e.s.Default && e.p.Type == t {
			return settings(t, e.VendorDocument.Name)
		}
	}
	return settings(t, "")
}

// setDefault says with which profile of a type an app is secured, if none is named then. It secures nothing by itself.
func setDefault(c *facade.Call) (facade.Answer, error) {
	t, err := typeOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	f, err := form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	id := f.Get("profile_id")
	if id == "" {
		id = f.Get("profileId")
	}
	if id == "" {
		return facade.Answer{}, invalid("profile_id", "is required")
	}
	err = c.Fleet.Change(profileKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		chosen, err := active(have, id)
		if err != nil {
			return nil, err
		}
		if chosen.p.Type != t {
			return nil, invalid("profile_id", "is a profile of type "+enforce.Plain(chosen.p.Type))
		}
		u := &facade.Update{Detail: []string{"default of " + t + ": " + enforce.Plain(chosen.p.Name)}}
		for _, d := range have {
			e, err := open(d)
			if err != nil {
				return nil, err
			}
			if e.p.Type != t {
				continue
			}
			e.s.Default = e.VendorDocument.Name == id
			if err := e.keep(); err != nil {
				return nil, err
			}
			u.Documents = append(u.Documents, d)
		}
		return u, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return settings(t, id)
}

// errNoApp is why an app is not there.
var errNoApp = errors.New("serve --facade mocana=ADDRESS,app:ID=PATH says which programs of a laptop an app is")
