package mocana

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	translator "github.com/warderd/warder/sync/dialect/mocana"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

const appKind = "app"

// kinds are the vendor's policies, by their codes: which type of profile each takes; "" takes none.
var kinds = map[string]string{
	"POLICY_CODE_MAP_NEXT": "", "POLICY_CODE_APP_STORE": "", "POLICY_CODE_FIPS_MAP_NEXT": "", "POLICY_CODE_SECURE_WEB_STACK": "secure_web_stack",
	"POLICY_CODE_APP_CUSTOMIZATION": "app_customization", "POLICY_CODE_CLIENT_CERTS": "client_certs", "POLICY_CODE_DAR": "dar",
	"POLICY_CODE_DATA_SHARING": "data_sharing", "POLICY_CODE_DEVICE_POSTURE": "device_posture", "POLICY_CODE_DIAGNOSTICS": "diagnostics",
	"POLICY_CODE_END_USER_LICENSE_AGREEMENT": "end_user_license_agreement", "POLICY_CODE_LOCAL_AUTH": "local_auth", "POLICY_CODE_MASTER": "master",
	"POLICY_CODE_MOCANA_BROWSER": browser, "POLICY_CODE_SECURE_CONNECTION": vpn, "POLICY_CODE_SIGNING": "signing",
	"POLICY_CODE_TRUSTED_SERVER_CERTS": "trusted_server_certs",
}

// optional is the type of profile that may be left out.
const optional = "secure_web_stack"

// codesOf are the policies that a form names, by their codes or their ids.
func codesOf(f url.Values) ([]string, error) {
	codes := slices.Concat(f["policyCodes[]"], f["policyCodes"])
	for _, x := range slices.Concat(f["policyIds[]"], f["policyIds"]) {
		code := ""
		for k := range kinds {
			if guid(k) == x {
				code = k
			}
		}
		if code == "" {
			return nil, invalid("policyIds[]", fmt.Sprintf("has %q, which is no policy", enforce.Plain(x)))
		}
		codes = append(codes, code)
	}
	for _, code := range codes {
		if _, is := kinds[code]; !is {
			return nil, invalid("policyCodes[]", fmt.Sprintf("has %q, which is no policy", enforce.Plain(code)))
		}
	}
	return codes, nil
}

// lists are the fields that name policies.
var lists = []string{"policyCodes[]", "policyCodes", "policyIds[]", "policyIds"}

// unknownField is a field of a form that says nothing to a call; "" if there is none.
func unknownField(f url.Values, known ...string) string {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if !slices.Contains(known, name) && !slices.Contains(lists, name) {
			return name
		}
	}
	return ""
}

// secured is one policy that an app is secured with, as the profile was then.
type secured struct {
	Code    string          `json:"code"`
	Type    string          `json:"type,omitempty"`
	Profile string          `json:"profile_id,omitempty"`
	Name    string          `json:"name,omitempty"`
	Data    string          `json:"data_id,omitempty"`
	Stamp   string          `json:"stamp,omitempty"`
	Content json.RawMessage `json:"content,omitempty"`
	Inline  bool            `json:"inline,omitempty"` // given with the call, and no profile
}

// profile is what it was secured with, as a profile is answered.
func (s *secured) profile(content json.RawMessage) (shown, error) {
	p := shown{Data: content, ID: s.Profile, Name: s.Name, Type: s.Type}
	if s.Type == browser {
		return p, nil
	}
	b, err := facade.Marshal(dataShown{string(content), s.Data, s.Stamp})
	p.Data = b
	return p, err
}

func (s *secured) answer(c *facade.Call) (facade.Answer, error) {
	content := s.Content
	if !c.Admin {
		var err error
		if content, err = hidden(content); err != nil {
			return facade.Answer{}, err
		}
	}
	p, err := s.profile(content)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, answered{"", p, good})
}

func openApp(d *store.VendorDocument) (list []secured, err error) {
	if d == nil {
		return nil, nil
	}
	var x struct {
		Policies []secured `json:"policies"`
	}
	if err := json.Unmarshal(d.Document, &x); err != nil {
		return nil, fmt.Errorf("app %s of mocana, as it is stored: %w", d.Name, err)
	}
	return x.Policies, nil
}

// known reports whether the operator has said which programs an app is, or it was secured when that was so.
func known(c *facade.Call, docs []*store.VendorDocument, id string) bool {
	return len(c.Apps[id]) > 0 || find(docs, id) != nil
}

// appShown is an app as it is answered.
type appShown struct {
	ID       string          `json:"app_id"`
	Policies []appliedPolicy `json:"app_policies"`
	URL      string          `json:"info_url"`
	Name     string          `json:"name"`
}

type appliedPolicy struct {
	Code    string `json:"policy_code"`
	Data    string `json:"policy_data"` // a text with an object: the id of the profile
	ID      string `json:"policy_id"`
	Profile string `json:"policy_profile_data,omitempty"` // the id of the profile's data
}

func shownApp(c *facade.Call, id string, list []secured) (appShown, error) {
	out := appShown{ID: id, Policies: []appliedPolicy{}, URL: "https://" + c.Host + base + "/app-market/" + id, Name: id}
	for _, s := range list {
		data := map[string]string{}
		if s.Profile != "" && !s.Inline {
			data[s.Type+"_profile_id"] = s.Profile
		}
		b, err := facade.Marshal(data)
		if err != nil {
			return out, err
		}
		out.Policies = append(out.Policies, appliedPolicy{s.Code, string(b), guid(s.Code), s.Data})
	}
	return out, nil
}

type appsAnswer struct {
	Apps    []appShown `json:"applications"`
	Message string     `json:"message"`
	Status  string     `json:"status"`
}

// apps lists those that the operator has named, and those that were secured.
func apps(c *facade.Call) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(appKind)
	if err != nil {
		return facade.Answer{}, err
	}
	ids := slices.Collect(maps.Keys(c.Apps))
	for _, d := range docs {
		if !slices.Contains(ids, d.Name) {
			ids = append(ids, d.Name)
		}
	}
	slices.Sort(ids)
	out := []appShown{}
	for _, id := range ids {
		list, err := openApp(find(docs, id))
		if err != nil {
			return facade.Answer{}, err
		}
		s, err := shownApp(c, id, list)
		if err != nil {
			return facade.Answer{}, err
		}
		out = append(out, s)
	}
	return facade.JSON(http.StatusOK, appsAnswer{out, "", good})
}

func app(c *facade.Call) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(appKind)
	if err != nil {
		return facade.Answer{}, err
	}
	id := c.PathValue("app")
	if !known(c, docs, id) {
		return facade.Answer{}, notFoundApp(id)
	}
	list, err := openApp(find(docs, id))
	if err != nil {
		return facade.Answer{}, err
	}
	s, err := shownApp(c, id, list)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, appsAnswer{[]appShown{s}, "", good})
}

func notFoundApp(id string) error {
	return facade.NotFound(fmt.Sprintf("there is no app %q: %v", enforce.Plain(id), errNoApp))
}

// secure answers POST app-market/policy: it adds policies to those that an app has. A policy without a profile takes the default of its
// type.
func secure(c *facade.Call) (facade.Answer, error) {
	f, err := form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	id := f.Get("appID")
	if id == "" {
		return facade.Answer{}, invalid("appID", "is required")
	}
	if len(c.Apps[id]) == 0 {
		return facade.Answer{}, notFoundApp(id)
	}
	all, err := profiles(c)
	if err != nil {
		return facade.Answer{}, err
	}
	codes, err := codesOf(f)
	if err != nil {
		return facade.Answer{}, err
	}
	if len(codes) == 0 {
		return facade.Answer{}, invalid("policyCodes[]", "or policyIds[] is required")
	}
	// What is not used would be dropped without a word.
	used := []string{"appID"}
	for _, code := range codes {
		used = append(used, kinds[code]+"_profile_id", kinds[code]+"_profile_data")
	}
	if name := unknownField(f, used...); name != "" {
		return facade.Answer{}, invalid(fmt.Sprintf("%.80q", name), "is of no policy that is named here")
	}
	add := []secured{}
	for _, code := range codes {
		kind := kinds[code]
		s := secured{Code: code, Type: kind}
		if kind != "" {
			wanted := f.Get(kind + "_profile_id")
			if wanted != "" && f.Get(kind+"_profile_data") != "" {
				return facade.Answer{}, invalid(kind+"_profile_id", "cannot be given with "+kind+"_profile_data")
			}
			i := slices.IndexFunc(all, func(e *entry) bool {
				return !e.s.Archived && e.p.Type == kind && (e.VendorDocument.Name == wanted || wanted == "" && e.s.Default)
			})
			switch {
			case f.Get(kind+"_profile_data") != "":
				if s.Content, err = object(kind+"_profile_data", f.Get(kind+"_profile_data")); err != nil {
					return facade.Answer{}, err
				}
				s.Name, s.Data, s.Stamp, s.Inline = id, newGUID(), stamp(c.Now), true
				s.Profile = s.Data
			case i < 0 && wanted == "" && kind == optional:
				s.Type = ""
			case i < 0:
				return facade.Answer{}, invalid(kind+"_profile_id", "is required: there is no such profile that is active, and no default of this type")
			default:
				e := all[i]
				s.Profile, s.Name, s.Data, s.Stamp, s.Content = e.VendorDocument.Name, e.p.Name, e.s.Data, stamp(e.s.Stamp), e.p.Data
			}
		}
		add = append(add, s)
	}
	var list []secured
	err = c.Fleet.Change(appKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		d := find(have, id)
		if list, err = openApp(d); err != nil {
			return nil, err
		}
		for _, s := range add {
			list = slices.DeleteFunc(list, func(o secured) bool { return o.Code == s.Code })
			list = append(list, s)
		}
		if d == nil {
			d = &store.VendorDocument{Name: id, State: json.RawMessage("{}")}
		}
		if d.Document, err = facade.Marshal(map[string][]secured{"policies": list}); err != nil {
			return nil, err
		}
		if err := facade.Room(have, d, most); err != nil {
			return nil, err
		}
		p, err := publication(c, id, d, list)
		if err != nil {
			return nil, err
		}
		return &facade.Update{Documents: []*store.VendorDocument{d}, Publish: []facade.Publication{*p}, Detail: []string{"secured: " + enforce.Plain(id)}}, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	s, err := shownApp(c, id, list)
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, appsAnswer{[]appShown{s}, "", good})
}

// publication composes one policy of what an app is secured with.
func publication(c *facade.Call, id string, d *store.VendorDocument, list []secured) (*facade.Publication, error) {
	source := "mocana:" + id
	var all []dialect.Translation
	carried := &facade.Carried{}
	for _, s := range list {
		if s.Type == "" {
			carried.Unsupported = append(carried.Unsupported, dialect.Unsupported{Name: s.Code, Reason: "it is about how an app is built"})
			continue
		}
		p, err := s.profile(s.Content)
		if err != nil {
			return nil, err
		}
		b, err := facade.Marshal(answered{"", p, good})
		if err != nil {
			return nil, err
		}
		t, err := translator.Translate(b, dialect.Options{Whole: c.Whole, Apps: map[string][]string{id: c.Apps[id]}, Source: "mocana:" + s.Profile})
		if err != nil {
			return nil, facade.Bad(s.Code + ": " + err.Error())
		}
		all = append(all, t)
		carried.Notes = append(carried.Notes, t.Notes...)
	}
	if len(all) == 0 {
		return &facade.Publication{Document: d, Carried: carried}, nil
	}
	composed, err := dialect.Compose(id, all...)
	if err != nil {
		return nil, facade.Bad(err.Error())
	}
	carried.Unsupported = append(carried.Unsupported, composed.Named...)
	carried.Partial = composed.Partial
	carried.Notes = append(carried.Notes, "Whom it is for is not among these calls: assign it here.")
	return &facade.Publication{Document: d, Translation: &dialect.Translation{Source: source, Document: composed.Document}, Carried: carried}, nil
}

// unsecure answers DELETE app-market/policy/{app}: all of its policies are taken off, or those whose codes are given.
func unsecure(c *facade.Call) (facade.Answer, error) {
	f, err := form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	for name, v := range c.Query {
		if f.Has(name) {
			return facade.Answer{}, invalid(fmt.Sprintf("%.80q", name), "comes twice")
		}
		f[name] = v
	}
	if name := unknownField(f); name != "" {
		return facade.Answer{}, invalid(fmt.Sprintf("%.80q", name), "is not what this call takes: policyCodes[] or policyIds[], or nothing for all")
	}
	id := c.PathValue("app")
	codes, err := codesOf(f)
	if err != nil {
		return facade.Answer{}, err
	}
	err = c.Fleet.Change(appKind, func(have []*store.VendorDocument) (*facade.Update, error) {
		d := find(have, id)
		if d == nil {
			if len(c.Apps[id]) == 0 {
				return nil, notFoundApp(id)
			}
			return &facade.Update{}, nil
		}
		list, err := openApp(d)
		if err != nil {
			return nil, err
		}
		left := []secured{}
		for _, s := range list {
			if len(codes) > 0 && !slices.Contains(codes, s.Code) {
				left = append(left, s)
			}
		}
		if len(c.Apps[id]) == 0 && slices.ContainsFunc(left, func(s secured) bool { return s.Type != "" }) {
			// What is left could not be held as it is.
			return nil, &facade.Problem{Status: http.StatusConflict, Code: "no_programs", Message: fmt.Sprintf("take all policies off %q, or: %v", enforce.Plain(id), errNoApp)}
		}
		if d.Document, err = facade.Marshal(map[string][]secured{"policies": left}); err != nil {
			return nil, err
		}
		p, err := publication(c, id, d, left)
		if err != nil {
			return nil, err
		}
		return &facade.Update{Documents: []*store.VendorDocument{d}, Publish: []facade.Publication{*p}, Detail: []string{"not secured any more: " + enforce.Plain(id)}}, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return facade.JSON(http.StatusOK, enveloped{"", good})
}
