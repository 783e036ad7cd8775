// Package dialect is what the translators of other vendors' documents share: a document is read into leaves, of which each ends as
// exactly one of translated, named, sentinel or envelope, so that nothing that was asked for is dropped; what is asked for becomes a policy
// document of ours; and several of these become one, because a device has one. It is pure: no network, no files, no clock.
package dialect

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// Unsupported is something that a document asks for and no policy of ours carries, or not all of it.
type Unsupported struct {
	Source string `json:"source,omitempty"` // the document, where several are one
	Name   string `json:"name"`             // the vendor's: "PASSCODE_POLICY.minLength"
	Reason string `json:"reason"`
}

// Options are what an operator says of a document.
type Options struct {
	// Source is what the translation is called. "" is the vendor and the document's id: who has two consoles of one vendor, or documents
	// without an id of their own, says something else.
	Source string
	// Whole says that what is asked of an app, or of a part of a device, may be done to the whole machine. Otherwise it is named.
	Whole bool
	// App is the vendor's id of the app that a document is about, where it does not say so itself.
	App string
	// Apps are the programs of a laptop that a vendor's app is: paths, by the vendor's id. An app that is not in it is not there.
	Apps map[string][]string
}

// Program reports whether a text can be the path of a laptop's program: a whole one, without "." and ".." in it.
func Program(file string) bool {
	return strings.HasPrefix(file, "/") && path.Clean(file) == file && file != "/"
}

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
	Apps        []string `json:"apps,omitempty"`
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
	// Partial says of settings what of them a laptop cannot do, or does beyond what was asked, by the vendor's names.
	Partial   map[enforce.Setting][]Unsupported
	Notes     []string // of the whole document, for people
	Stamp     string   // another one if anything else is asked for, in another mode, of others, or if it is not in force any more
	Selection Selection
	Leaves    []Leaf
}

// Builder makes a translation.
type Builder struct {
	vendor string
	doc    *Doc
	o      Options
	t      Translation
	name   string
	mode   enforce.Mode
	data   map[string]map[string]any
	has    map[entry]bool // what is in lists already
}

// entry is one of a list, of a setting or of what is said of one.
type entry struct {
	of   enforce.Setting
	text string
}

// fresh reports whether an entry is not there yet, and has it be there.
func (b *Builder) fresh(s enforce.Setting, text string) bool {
	e := entry{s, text}
	before := b.has[e]
	b.has[e] = true
	return !before
}

// Build begins the translation of a document. It is in monitor mode until another one is asked for.
func Build(vendor string, doc *Doc, o Options) *Builder {
	return &Builder{vendor: vendor, doc: doc, o: o, mode: enforce.Monitor, data: map[string]map[string]any{}, has: map[entry]bool{},
		t: Translation{Source: vendor, Kept: map[enforce.Setting]any{}, Partial: map[enforce.Setting][]Unsupported{}}}
}

// Options are what the operator has said.
func (b *Builder) Options() Options { return b.o }

// Identify says what the document's id is.
func (b *Builder) Identify(id string) {
	if b.t.Source = b.o.Source; b.t.Source == "" {
		b.t.Source = b.vendor + ":" + short(cmp.Or(id, "?"))
	}
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

// Mode is the mode of all that is asked for. The place that says so counts as translated.
func (b *Builder) Mode(at Node, m enforce.Mode) {
	b.mode = m
	at.becomes(Translated, "compliance")
}

// Set says that places ask for a value of a setting. Of two values the stricter one counts; where neither is, the first, and the other is
// named.
func (b *Builder) Set(s enforce.Setting, value any, name string, at ...Node) {
	section, field, _ := strings.Cut(string(s), ".")
	if b.data[section] == nil {
		b.data[section] = map[string]any{}
	}
	if before, twice := b.data[section][field]; twice {
		v, ok := stricter(s, before, value)
		switch {
		case ok:
			value = v
		case !same(before, value):
			b.Name(name, fmt.Sprintf("%s is asked for twice, as %v and as %v: the first counts", s, policy.Short(before), policy.Short(value)), at...)
			return
		}
	}
	b.data[section][field] = value
	for _, n := range at {
		n.becomes(Translated, s)
	}
}

// Add says that places ask for more entries of a list that a setting is.
func (b *Builder) Add(s enforce.Setting, entries []string, at ...Node) {
	section, field, _ := strings.Cut(string(s), ".")
	if b.data[section] == nil {
		b.data[section] = map[string]any{}
	}
	list, _ := b.data[section][field].([]string)
	for _, e := range entries {
		if b.fresh(s, e) {
			list = append(list, e)
		}
	}
	b.data[section][field] = list
	for _, n := range at {
		n.becomes(Translated, s)
	}
}

// Less says what of a setting a laptop cannot do, or does beyond what was asked for.
func (b *Builder) Less(s enforce.Setting, name, why string) {
	if u := (Unsupported{Name: called(name, nil), Reason: why}); b.fresh(s, u.Name+"\x00"+why) {
		b.t.Partial[s] = append(b.t.Partial[s], u)
	}
}

// Keep says that places ask for a value of a setting that no section carries yet.
func (b *Builder) Keep(s enforce.Setting, value any, name string, at ...Node) {
	reason := fmt.Sprintf("no section for it yet (%s)", s)
	if before, twice := b.t.Kept[s]; twice {
		v, ok := stricter(s, before, value)
		switch {
		case ok:
			value = v
		case !same(before, value):
			value = before
			reason += fmt.Sprintf(", and it is asked for twice, differently: %v counts, which came first", policy.Short(fmt.Sprint(before)))
		}
	}
	b.t.Kept[s] = value
	b.Name(name, reason, at...)
}

// remark adds to what was said last of what cannot be carried.
func (b *Builder) remark(more string) {
	if n := len(b.t.Named); more != "" && n > 0 {
		b.t.Named[n-1].Reason += ": " + more
	}
}

// KeepEntry says that places ask for an entry of a list that no section carries yet.
func (b *Builder) KeepEntry(s enforce.Setting, entry any, name string, at ...Node) {
	list, _ := b.t.Kept[s].([]any)
	b.t.Kept[s] = append(list, entry)
	b.Name(name, fmt.Sprintf("no section for it yet (%s)", s), at...)
}

// The settings of programs go together: a list without its mode says nothing.
const (
	appsMode enforce.Setting = "apps.mode"
	appsList enforce.Setting = "apps.list"
)

// Beside keeps an entry of such a list whose place has become something else already.
func (b *Builder) Beside(s enforce.Setting, entry any) {
	list, _ := b.t.Kept[s].([]any)
	b.t.Kept[s] = append(list, entry)
}

// KeepApps says that places ask for a list of programs that are not to run ("block"), or that alone may ("allow").
func (b *Builder) KeepApps(mode string, programs []string, name string, at ...Node) {
	if before, is := b.t.Kept[appsMode]; is && before != mode {
		b.Name(name, fmt.Sprintf("a list with the mode %v is asked for, too: the first counts", before), at...)
		return
	}
	list, _ := b.t.Kept[appsList].([]string)
	if mode == "allow" && len(list) > 0 {
		b.Name(name, "a list of what alone may run is asked for twice: together they allow more than each", at...)
		return
	}
	for _, p := range programs {
		if b.fresh(appsList, p) {
			list = append(list, p)
		}
	}
	b.t.Kept[appsMode], b.t.Kept[appsList] = mode, list
	b.Name(name, fmt.Sprintf("no section for it yet (%s)", appsList), at...)
}

// Programs are the app that a document is about, where it does not say so itself, and its programs, if somebody has said which they are.
func (b *Builder) Programs() (app string, programs []string) {
	app = b.o.App
	if app == "" && len(b.o.Apps) == 1 {
		for app = range b.o.Apps {
		}
	}
	return app, b.o.Apps[app]
}

// same reports whether two values are the same.
func same(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(x) == string(y)
}

// Note says something of the whole document.
func (b *Builder) Note(text string) { b.t.Notes = append(b.t.Notes, enforce.Plain(text)) }

// called is a vendor's name for people: it cannot be taken for two words of ours, or for none.
func called(name string, at []Node) string {
	name = enforce.Plain(name)
	if name == "" && len(at) > 0 {
		name = at[0].path
	}
	if strings.ContainsAny(name, " \t") || name == "" {
		name = strconv.Quote(name)
	}
	return short(name)
}

// Name says that what places ask for cannot be carried.
func (b *Builder) Name(name, reason string, at ...Node) {
	for _, n := range at {
		n.becomes(Named, "")
	}
	b.t.Named = append(b.t.Named, Unsupported{Name: called(name, at), Reason: enforce.Plain(reason)})
}

// None says that a laptop has nothing like what a place asks for.
func (b *Builder) None(name string, at ...Node) { b.Name(name, b.noCounterpart(name), at...) }

func (b *Builder) noCounterpart(name string) string {
	return fmt.Sprintf("no counterpart for %s:%s", b.vendor, short(enforce.Plain(name)))
}

// Finish names what nobody has spoken of, and makes the policy.
func (b *Builder) Finish() (Translation, error) {
	if err := b.doc.tooMany(); err != nil {
		return Translation{}, err
	}
	b.doc.root.each(func(l *Leaf) {
		if l.Fate == Unread {
			l.Fate = Named
			b.t.Named = append(b.t.Named, Unsupported{Name: called(l.Path, nil), Reason: b.noCounterpart(l.Path)})
		}
	})
	if len(b.doc.twice) > 0 {
		return Translation{}, fmt.Errorf("a mistake of Warder's: of %q two things were said", b.doc.twice[0])
	}
	b.t.Leaves = b.doc.Leaves()
	for _, l := range []*[]string{&b.t.Selection.DeviceTypes, &b.t.Selection.Roles, &b.t.Selection.Groups, &b.t.Selection.Users, &b.t.Selection.Devices, &b.t.Selection.Apps} {
		slices.Sort(*l)
	}
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

// Nothing reports whether a document asks for nothing at all.
func (t *Translation) Nothing() bool {
	return !slices.ContainsFunc(t.Leaves, func(l Leaf) bool { return l.Fate == Named || l.Fate == Translated && l.Setting != "compliance" })
}
