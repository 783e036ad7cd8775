// Package dialect is what the translators of other vendors' documents share: a document is read into leaves, of which each ends as
// exactly one of translated, named, sentinel or envelope, so that nothing that was asked for is dropped; what is asked for becomes a policy
// document of ours; and several of these become one, because a device has one. It is pure: no network, no files, no clock.
package dialect

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// Unsupported is something that a document asks for and no policy of ours carries.
type Unsupported struct {
	Name   string `json:"name"` // the vendor's: "PASSCODE_POLICY.minLength"
	Reason string `json:"reason"`
}

// Entry is a line of a vendor's catalogue: what becomes of something that its documents can ask for.
type Entry struct {
	Name    string          // the vendor's
	Setting enforce.Setting // "": none has it
	Result  string          // one of Results
	Why     string
}

// Results of an entry.
const (
	ResultTranslated = "translated"
	ResultPartial    = "partial"  // translated, and a laptop cannot do all of it, or does beyond it
	ResultLater      = "later"    // named: no section has it yet
	ResultNone       = "no match" // named: a laptop has nothing like it
	ResultNever      = "never"    // named: no policy may bring it about
)

// Selection is whom a document is for, in the vendor's words. A list that is empty is about everybody.
type Selection struct {
	// Unknown says that not all of it was understood: such a document is for nobody, as long as nobody has said for whom.
	Unknown     bool     `json:"unknown,omitempty"`
	DeviceTypes []string `json:"device_types,omitempty"`
	Ownership   string   `json:"ownership,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	Groups      []string `json:"groups,omitempty"`
	Users       []string `json:"users,omitempty"`
	Devices     []string `json:"devices,omitempty"`
	Priority    int64    `json:"priority,omitempty"` // 1 comes first
}

// Translation is what a vendor's document asks for.
type Translation struct {
	Source   string // what the document is called: "wso2:1"
	Document []byte // a policy of ours; every setting that it has was asked for
	Released bool   // the vendor says that it is in force nowhere: inactive, trashed
	Named    []Unsupported
	// Kept are values of settings that no section carries yet. They are in Named, too.
	Kept map[enforce.Setting]any
	// Partial says of settings what of them a laptop cannot do, or does beyond what was asked.
	Partial   map[enforce.Setting]string
	Stamp     string // another one if anything else is asked for, in another mode, of others, or if it is not in force any more
	Selection Selection
	Leaves    []Leaf
}

// Builder makes a translation.
type Builder struct {
	vendor string
	doc    *Doc
	t      Translation
	name   string
	mode   enforce.Mode
	data   map[string]map[string]any
}

// Build begins the translation of a document. It is in monitor mode until another one is asked for.
func Build(vendor string, doc *Doc) *Builder {
	return &Builder{vendor: vendor, doc: doc, mode: enforce.Monitor, data: map[string]map[string]any{},
		t: Translation{Source: vendor, Kept: map[enforce.Setting]any{}, Partial: map[enforce.Setting]string{}}}
}

// Translation is what has been made so far, to be completed.
func (b *Builder) Translation() *Translation { return &b.t }

// Call gives the policy a name for people.
func (b *Builder) Call(name string) { b.name = cut(enforce.Plain(name)) }

// maxText bounds what is quoted of a document, in bytes.
const maxText = 200

func cut(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// Text is a word of a document's, to be quoted.
func Text(n Node) string { return cut(enforce.Plain(n.Word())) }

// Mode is the mode of all that is asked for. The place that says so counts as translated.
func (b *Builder) Mode(at Node, m enforce.Mode) {
	b.mode = m
	at.becomes(Translated, "compliance")
}

// Set says that a place asks for a value of a setting. Of two restrictions the stricter one counts; of anything else the first, and the
// other is named.
func (b *Builder) Set(at Node, s enforce.Setting, value any) {
	section, name, _ := strings.Cut(string(s), ".")
	if b.data[section] == nil {
		b.data[section] = map[string]any{}
	}
	before, twice := b.data[section][name]
	switch v, flag := value.(bool); {
	case !twice:
	case flag && strings.HasSuffix(name, "_allowed"):
		value = v && before == true
	case flag && strings.HasSuffix(name, "_required"):
		value = v || before == true
	case fmt.Sprint(before) != fmt.Sprint(value):
		b.Name(at, at.Path(), fmt.Sprintf("%s is asked for twice, as %v and as %v: the first counts", s, policy.Short(before), policy.Short(value)))
		return
	}
	b.data[section][name] = value
	at.becomes(Translated, s)
}

// Less says what of a setting a laptop cannot do as it was asked for.
func (b *Builder) Less(s enforce.Setting, why string) { b.t.Partial[s] = why }

// Keep says that a place asks for a value of a setting that no section carries yet.
func (b *Builder) Keep(at Node, name string, s enforce.Setting, value any) {
	reason := fmt.Sprintf("no section for it yet (%s)", s)
	switch before, twice := b.t.Kept[s]; {
	case !twice:
		b.t.Kept[s] = value
	case before == true && value == false && strings.HasSuffix(string(s), "_allowed"), before == false && value == true && strings.HasSuffix(string(s), "_required"):
		b.t.Kept[s] = value // the stricter one
	case fmt.Sprint(before) != fmt.Sprint(value):
		reason += ", and it is asked for twice, differently"
	}
	b.Name(at, name, reason)
}

// Name says that what a place asks for cannot be carried.
func (b *Builder) Name(at Node, name, reason string) {
	at.becomes(Named, "")
	b.t.Named = append(b.t.Named, Unsupported{short(enforce.Plain(name)), reason})
}

// None says that a laptop has nothing like what a place asks for.
func (b *Builder) None(at Node, name string) { b.Name(at, name, b.noCounterpart(name)) }

func (b *Builder) noCounterpart(name string) string {
	return fmt.Sprintf("no counterpart for %s:%s", b.vendor, short(enforce.Plain(name)))
}

// Number reads a whole number within bounds; what is not one is named, and ok is false.
func (b *Builder) Number(at Node, name string, low, high int64) (n int64, ok bool) {
	if n, ok = at.Number(); ok && n >= low && n <= high {
		return n, true
	}
	b.Name(at, name, fmt.Sprintf("must be a whole number from %d to %d: %v", low, high, policy.Short(at.value())))
	return 0, false
}

// Flag reads true or false; what is neither is named, and ok is false.
func (b *Builder) Flag(at Node, name string) (v, ok bool) {
	if v, ok = at.Flag(); !ok {
		b.Name(at, name, fmt.Sprintf("must be true or false: %v", policy.Short(at.value())))
	}
	return v, ok
}

// Finish names what nobody has spoken of, and makes the policy.
func (b *Builder) Finish() (Translation, error) {
	b.doc.root.each(func(l *Leaf) {
		if l.Fate == Unread {
			l.Fate = Named
			b.t.Named = append(b.t.Named, Unsupported{l.Path, b.noCounterpart(l.Path)})
		}
	})
	if len(b.doc.twice) > 0 {
		return Translation{}, fmt.Errorf("a mistake of Warder's: of %q two things were said", b.doc.twice[0])
	}
	b.t.Leaves = b.doc.Leaves()
	data := map[string]any{}
	for section, values := range b.data {
		data[section] = values
	}
	doc, err := json.Marshal(map[string]any{"id": b.t.Source, "name": b.name, "compliance": b.mode.String(), "policy_data": data})
	if err != nil {
		return Translation{}, err
	}
	if _, err := policy.Decode(doc, policy.Options{Strict: true}); err != nil {
		return Translation{}, fmt.Errorf("what it asks for makes no policy: %w", err)
	}
	b.t.Document = doc
	all, err := json.Marshal([]any{doc, b.t.Released, b.t.Selection, b.t.Kept, b.t.Stamp})
	if err != nil {
		return Translation{}, err
	}
	sum := sha256.Sum256(all)
	b.t.Stamp = hex.EncodeToString(sum[:])
	return b.t, nil
}

// Composed is one policy of several.
type Composed struct {
	Document []byte
	Sources  map[enforce.Setting]string // whose each setting is
	Named    []Unsupported
}

// Compose makes one policy of those that reach a device, the first one first: who sets a setting first has it. A device has one mode for
// each section, so where two differ in it, the section has the milder one, and that is named: nobody is refused anything that one of them
// only watches. Released ones have no part in it.
func Compose(name string, list ...Translation) (Composed, error) {
	var docs []*policy.Document
	for _, t := range list {
		if t.Released {
			continue
		}
		d, err := policy.Decode(t.Document, policy.Options{Strict: true})
		if err != nil {
			return Composed{}, fmt.Errorf("%s: %w", t.Source, err)
		}
		if slices.ContainsFunc(docs, func(x *policy.Document) bool { return x.ID == d.ID }) {
			return Composed{}, fmt.Errorf("%s is there twice", d.ID)
		}
		docs = append(docs, d)
	}
	merged := policy.Merge(docs...)
	out := Composed{Sources: merged.Sources}
	modes, data := map[string]enforce.Mode{}, map[string]map[string]json.RawMessage{}
	for _, s := range merged.Settings() {
		if m, is := modes[s.Section()]; !is || merged.Mode(s) < m {
			modes[s.Section()] = merged.Mode(s)
		}
	}
	for _, s := range merged.Settings() {
		section, field, _ := strings.Cut(string(s), ".")
		if m, mode := modes[section], merged.Mode(s); mode > m {
			out.Named = append(out.Named, Unsupported{string(s), fmt.Sprintf("it is in %s mode, as the rest of section %s, although %s asks for %s: a section has one mode, the milder",
				m, section, enforce.Plain(out.Sources[s]), mode)})
		}
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
	for section, m := range modes {
		sections[section] = m.String()
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
