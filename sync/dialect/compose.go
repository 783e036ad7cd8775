package dialect

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// together are settings that mean something else beside one another: a document has all of them or none.
var together = []enforce.Setting{"dlp.clipboard_sharing", "dlp.clipboard_direction", "dlp.zones"}

// without is a document without some of its settings.
func without(doc []byte, settings []enforce.Setting) ([]byte, error) {
	var top map[string]json.RawMessage
	var data map[string]map[string]json.RawMessage
	if err := json.Unmarshal(doc, &top); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(top["policy_data"], &data); err != nil {
		return nil, err
	}
	for _, s := range settings {
		section, field, _ := strings.Cut(string(s), ".")
		delete(data[section], field)
	}
	var err error
	if top["policy_data"], err = json.Marshal(data); err != nil {
		return nil, err
	}
	return json.Marshal(top)
}

// Composed is one policy of several.
type Composed struct {
	Document []byte
	Sources  map[enforce.Setting]string // whose each setting is
	// Named, Partial and Kept are those of the documents that are in force. Kept is the first one's, as with settings.
	Named   []Unsupported
	Partial map[enforce.Setting][]Unsupported
	Kept    map[enforce.Setting]any
}

// Compose makes one policy of those that reach a device, the first one first: who sets a setting first has it. A device has one mode for
// each section, so where two differ in it, the section has the milder one, and that is named: nobody is refused anything that one of them
// only watches. Released ones have no part in it.
func Compose(name string, list ...Translation) (Composed, error) {
	out := Composed{Partial: map[enforce.Setting][]Unsupported{}, Kept: map[enforce.Setting]any{}}
	var docs []*policy.Document
	type wish struct {
		source  string
		setting enforce.Setting
		mode    enforce.Mode
	}
	var wishes []wish // also those that do not come to be: who only watches has a say in the mode
	clipboard := ""
	for _, t := range list {
		if t.Released {
			continue
		}
		d, err := policy.Decode(t.Document, policy.Options{Strict: true})
		if err != nil {
			return Composed{}, fmt.Errorf("%s: %w", t.Source, err)
		}
		for _, s := range d.Settings() {
			wishes = append(wishes, wish{d.ID, s, d.Mode(s)})
		}
		switch mine := slices.DeleteFunc(slices.Clone(together), func(s enforce.Setting) bool { return d.Mode(s) == enforce.Off }); {
		case len(mine) == 0:
		case clipboard == "":
			clipboard = t.Source
		default:
			for _, s := range mine {
				out.Named = append(out.Named, Unsupported{t.Source, string(s), "what of the clipboard is kept apart is asked for by " + enforce.Plain(clipboard) + ", which comes first"})
			}
			doc, err := without(t.Document, mine)
			if err != nil {
				return Composed{}, err
			}
			if d, err = policy.Decode(doc, policy.Options{Strict: true}); err != nil {
				return Composed{}, fmt.Errorf("%s: %w", t.Source, err)
			}
		}
		if slices.ContainsFunc(docs, func(x *policy.Document) bool { return x.ID == d.ID }) {
			return Composed{}, fmt.Errorf("%s is there twice", d.ID)
		}
		docs = append(docs, d)
		out.Named = append(out.Named, from(t.Source, t.Named)...)
		out.keep(t)
	}
	merged := policy.Merge(docs...)
	out.Sources = merged.Sources
	for _, t := range list {
		for s, why := range t.Partial {
			if out.Sources[s] == t.Source && !t.Released {
				out.Partial[s] = from(t.Source, why)
			}
		}
	}
	for _, d := range docs {
		for _, s := range d.Settings() {
			section, field, _ := strings.Cut(string(s), ".")
			first, err := written(docs, out.Sources[s], section, field)
			if err != nil {
				return Composed{}, err
			}
			if v, err := written(docs, d.ID, section, field); err != nil {
				return Composed{}, err
			} else if !same(first, v) {
				out.Named = append(out.Named, Unsupported{d.ID, string(s), fmt.Sprintf("it is asked for as %s, and %s, which comes first, asks for %s", enforce.Plain(cut(string(v))),
					enforce.Plain(out.Sources[s]), enforce.Plain(cut(string(first))))})
			}
		}
	}
	modes, data := map[string]enforce.Mode{}, map[string]map[string]json.RawMessage{}
	for _, w := range wishes {
		if m, is := modes[w.setting.Section()]; !is || w.mode < m {
			modes[w.setting.Section()] = w.mode
		}
	}
	for _, w := range wishes {
		if m := modes[w.setting.Section()]; w.mode > m {
			out.Named = append(out.Named, Unsupported{w.source, string(w.setting), fmt.Sprintf("it is asked for in %s mode, and is in %s mode: a section has one, the milder of all that ask for something of it", w.mode, m)})
		}
	}
	for _, s := range merged.Settings() {
		section, field, _ := strings.Cut(string(s), ".")
		if data[section] == nil {
			data[section] = map[string]json.RawMessage{}
		}
		v, err := written(docs, out.Sources[s], section, field)
		if err != nil {
			return Composed{}, err
		}
		data[section][field] = v
	}
	sections := map[string]string{}
	for section := range data {
		sections[section] = modes[section].String()
	}
	var err error
	if out.Document, err = json.Marshal(map[string]any{"name": name, "compliance": enforce.Enforce.String(), "section_compliance": sections, "policy_data": data}); err != nil {
		return Composed{}, err
	}
	if _, err := policy.Decode(out.Document, policy.Options{Strict: true}); err != nil { // two that are right can be wrong together
		return Composed{}, fmt.Errorf("together they make no policy: %w", err)
	}
	return out, nil
}

// allowedURLs is a list of what alone may be opened.
const allowedURLs enforce.Setting = "browser.allowed_urls"

// keep adds the values that no section has yet. Lists become one, but not lists of programs that are for something else, and not those of
// what alone is allowed: two of them together would allow more than each.
func (c *Composed) keep(t Translation) {
	mode, has := c.Kept[appsMode]
	other := has && t.Kept[appsMode] != nil && t.Kept[appsMode] != mode
	for _, s := range slices.Sorted(maps.Keys(t.Kept)) {
		v := t.Kept[s]
		before, has := c.Kept[s]
		switch {
		case !has:
			c.Kept[s] = v
		case (s == appsList || s == appsMode) && other, same(before, v):
			if other && s == appsList {
				c.Named = append(c.Named, Unsupported{t.Source, string(s), fmt.Sprintf("a list with the mode %v comes first", mode)})
			}
		case s == allowedURLs, s == appsList && mode == "allow":
			c.Named = append(c.Named, Unsupported{t.Source, string(s), "a list of what alone is allowed comes first: together they would allow more than each"})
		default:
			switch list := before.(type) {
			case []any:
				more, _ := v.([]any)
				c.Kept[s] = slices.Concat(list, more)
			case []string:
				more, _ := v.([]string)
				all := map[string]bool{}
				out := []string{}
				for _, e := range slices.Concat(list, more) {
					if !all[e] {
						out = append(out, e)
					}
					all[e] = true
				}
				c.Kept[s] = out
			default:
				c.Named = append(c.Named, Unsupported{t.Source, string(s), "another value comes first"})
			}
		}
	}
}

// from says whose the entries of a list are.
func from(source string, list []Unsupported) []Unsupported {
	list = slices.Clone(list)
	for i := range list {
		list[i].Source = source
	}
	return list
}

// written is how a document writes a setting.
func written(docs []*policy.Document, id, section, field string) (json.RawMessage, error) {
	i := slices.IndexFunc(docs, func(d *policy.Document) bool { return d.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("%s is no document", id)
	}
	var data map[string]map[string]json.RawMessage
	if err := json.Unmarshal(docs[i].Raw, &data); err != nil {
		return nil, err
	}
	return data[section][field], nil
}
