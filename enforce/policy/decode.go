package policy

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"unicode"

	"github.com/warderd/warder/enforce"
)

// Options chooses how strict a decoder is.
type Options struct {
	// Strict refuses settings that this version does not know. The server is strict. A device accepts a newer document
	// and reports the settings that it does not know as unsupported.
	Strict bool
}

// Decode reads a whole policy object: {"id", "name", "compliance", "policy_data", …}. It returns all errors of the
// document at once, as Errors; the document is nil then.
func Decode(data []byte, o Options) (*Document, error) {
	var errs Errors
	tree, ok := parse(data, &errs)
	if !ok {
		return nil, sorted(errs)
	}
	top, ok := tree.(map[string]any)
	if !ok {
		errs.add("", "must be an object", tree)
		return nil, errs
	}
	d := &Document{Active: true, strict: o.Strict, modes: map[enforce.Setting]enforce.Mode{}, derived: &derived{all: map[string]any{}}}
	var raw struct {
		Data    json.RawMessage `json:"policy_data"`
		Mode    json.RawMessage `json:"compliance"`
		Section json.RawMessage `json:"section_compliance"`
	}
	// The same bytes were parsed above, so this cannot fail. It keeps the parts exactly as received.
	_ = json.Unmarshal(data, &raw)
	d.Raw = raw.Data
	d.envelope(top, o, &errs)
	modes := readModes(top, &errs)
	body, present := top["policy_data"]
	if !present {
		errs.add("policy_data", "must be present", nil)
	} else if sections, ok := body.(map[string]any); !ok {
		errs.add("policy_data", "must be an object", body)
	} else {
		d.sections(sections, modes, o, &errs)
	}
	if len(errs) > 0 {
		return nil, sorted(errs)
	}
	d.Digest = digest(raw.Data, raw.Mode, raw.Section)
	return d, nil
}

func sorted(errs Errors) Errors {
	sort.SliceStable(errs, func(i, j int) bool { return errs[i].Field < errs[j].Field })
	return errs
}

// envelopeNames are the policy object's own fields. The last ones are written by the server and ignored here, so that
// the answer to a GET can be sent back.
var envelopeNames = map[string]bool{
	"id": true, "organization_id": true, "name": true, "description": true, "version": true,
	"active": true, "compliance": true, "section_compliance": true, "policy_data": true,
	"device_count": true, "created_at": true, "updated_at": true, "rollout": true,
	"source": true, "source_report": true,
}

// envelope reads the policy object's own fields.
func (d *Document) envelope(top map[string]any, o Options, errs *Errors) {
	text := func(name string, to *string) {
		v, ok := top[name]
		if !ok {
			return
		}
		s, ok := v.(string)
		if !ok {
			errs.add(name, "must be a string", v)
		} else if len(s) > maxString {
			errs.add(name, fmt.Sprintf("must be at most %d bytes", maxString), s)
		} else if o.Strict && strings.ContainsFunc(s, func(
			r rune) bool {
			return control(r) && (name != "description" || r != '\n' && r != '\t')
		}) {
			errs.add(name, "must have no control characters", enforce.Plain(s))
		}
		*to = s
	}
	text("id", &d.ID)
	text("organization_id", &d.Organization)
	text("name", &d.Name)
	text("description", &d.Description)
	if v, ok := top["version"]; ok {
		n, ok := integer(v)
		if !ok || n < 0 || n > 1<<31 {
			errs.add("version", "must be a whole number of 0 or more", v)
		}
		d.Version = int(n)
	}
	if v, ok := top["active"]; ok {
		b, ok := v.(bool)
		if !ok {
			errs.add("active", "must be a boolean", v)
		}
		d.Active = b
	}
	if o.Strict {
		for name, v := range top {
			if !envelopeNames[name] {
				errs.add(name, "is not a field of a policy", v)
			}
		}
	}
}

// control reports whether a character controls a terminal or the direction of text instead of being shown: controls
// (C0, DEL, C1), and bidirectional formatting, which can make one name look like another.
func control(r rune) bool {
	return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029
}

// Control reports whether a text has such a character.
func Control(s string) bool { return strings.ContainsFunc(s, control) }

// readModes returns the mode of each section, and the policy's own under "".
func readModes(top map[string]any, errs *Errors) map[string]enforce.Mode {
	modes := map[string]enforce.Mode{"": enforce.Enforce}
	read := func(field string, v any) (enforce.Mode, bool) {
		s, _ := v.(string)
		m, ok := enforce.ParseMode(s)
		if !ok {
			errs.add(field, "must be one of enforce, warn, monitor", v)
		}
		return m, ok
	}
	if v, ok := top["compliance"]; ok {
		if m, ok := read("compliance", v); ok {
			modes[""] = m
		}
	}
	v, ok := top["section_compliance"]
	if !ok {
		return modes
	}
	sections, ok := v.(map[string]any)
	if !ok {
		errs.add("section_compliance", "must be an object", v)
		return modes
	}
	for name, v := range sections {
		field := join("section_compliance", name)
		if !sectionNames[name] {
			errs.add(field, "must be one of "+sectionList, v)
			continue
		}
		if m, ok := read(field, v); ok {
			modes[name] = m
		}
	}
	return modes
}

// sections reads every section's settings, and keeps unknown ones if the decoder is not strict.
func (d *Document) sections(sections map[string]any, modes map[string]enforce.Mode, o Options, errs *Errors) {
	mode := func(section string) enforce.Mode {
		if m, ok := modes[section]; ok {
			return m
		}
		return modes[""]
	}
	d.sectioned = map[string]bool{}
	for name := range modes {
		d.sectioned[name] = name != ""
	}
	for name, v := range sections {
		fields, ok := v.(map[string]any)
		if !ok {
			errs.add(name, "must be an object", v)
			continue
		}
		for field, v := range fields {
			s := enforce.Setting(join(name, field))
			def, known := byName[s]
			switch {
			case known:
				def.decode(d, reader{field: string(s), v: v, errs: errs})
				d.modes[s] = mode(name)
			case o.Strict && !sectionNames[name]:
				errs.add(name, "is not a section: "+sectionList, v)
			case o.Strict:
				errs.add(string(s), "is not a setting"+nearest(s), v)
			default:
				d.Unknown = append(d.Unknown, Unknown{s, mode(name)})
			}
		}
		if len(fields) == 0 && o.Strict && !sectionNames[name] {
			errs.add(name, "is not a section: "+sectionList, v)
		}
	}
	if d.USB.AuditOnly.Or(false) {
		d.sectioned["usb"] = true
		for s, m := range d.modes {
			if s.Section() == "usb" {
				d.modes[s] = min(m, enforce.Monitor)
			}
		}
	}
	for _, def := range settings {
		if _, ok := d.modes[def.Name]; ok {
			d.order = append(d.order, def.Name)
		}
	}
	sort.Slice(d.Unknown, func(i, j int) bool { return d.Unknown[i].Setting < d.Unknown[j].Setting })
}

// nearest returns the setting that a misspelt one was probably meant to be.
func nearest(s enforce.Setting) string {
	best, cost := "", 4
	for _, def := range settings {
		if c := distance(string(s), string(def.Name)); c < cost {
			best, cost = string(def.Name), c
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the edit distance of two names. It is bounded because names come from outside.
func distance(a, b string) int {
	if len(a) > 64 || strings.EqualFold(a, b) {
		if len(a) > 64 {
			return len(a)
		}
		return 0
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
