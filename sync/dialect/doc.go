package dialect

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// Fate is what becomes of a leaf.
type Fate uint8

// What becomes of a leaf.
const (
	Unread     Fate = iota // nobody has said; Finish names it
	Translated             // a setting has it
	Named                  // it cannot be carried, and is in Translation.Named
	Sentinel               // the vendor's word for "not configured"
	Envelope               // id, date, stamp, selection, a name for people
)

func (f Fate) String() string {
	return []string{"unread", "translated", "named", "sentinel", "envelope"}[f]
}

// Leaf is a value of a document that has no others in it: a text, a number, true, false, null, or an object or list that is empty.
type Leaf struct {
	Path    string // "profile.profileFeaturesList[0].content»enabled"; after » comes what was JSON in a text
	Fate    Fate
	Setting enforce.Setting // that has it, if it is translated

	v any
}

// Doc is a vendor's document.
type Doc struct {
	root   *elem
	leaves int      // above maxLeaves: there were too many, and the document is none
	twice  []string // leaves of which two fates were said, which is a mistake of the translator's
}

// elem is a place in a document. It has fields, items or a leaf.
type elem struct {
	path   string
	v      any
	fields map[string]*elem
	names  []string // of fields, sorted
	items  []*elem
	inside *elem // what is in a text
	leaf   *Leaf
}

// inside is between the path of a text and of what is in it.
const inside = "»"

// Bounds of a document: names in it are as long as somebody likes, and each leaf is kept with its path.
const (
	maxPath   = 200 // bytes
	maxLeaves = 20_000
)

// Read reads a document of a vendor's, with the bounds of a policy document. An error names the field.
func Read(data []byte) (*Doc, error) {
	v, errs := policy.Parse(data)
	if len(errs) > 0 { // what was received is not quoted: it may be a password
		return nil, errors.New(strings.TrimSpace(enforce.Plain(strings.TrimSpace(short(errs[0].Field) + " " + errs[0].Message))))
	}
	d := &Doc{}
	d.root = d.grow("", v)
	return d, d.tooMany()
}

// tooMany is the error of a document with too many values. Texts that are JSON are read on the way, so that it can come late.
func (d *Doc) tooMany() error {
	if d.leaves > maxLeaves {
		return fmt.Errorf("it has more than %d values", maxLeaves)
	}
	return nil
}

// grow makes the tree of a value.
func (d *Doc) grow(path string, v any) *elem {
	if d.leaves > maxLeaves {
		return &elem{}
	}
	e := &elem{path: path, v: v}
	switch x := v.(type) {
	case map[string]any:
		e.fields, e.names = map[string]*elem{}, slices.Sorted(maps.Keys(x))
		for _, name := range e.names {
			e.fields[name] = d.grow(step(path, name), x[name])
		}
	case []any:
		for i, y := range x {
			e.items = append(e.items, d.grow(short(fmt.Sprintf("%s[%d]", path, i)), y))
		}
	}
	if len(e.fields)+len(e.items) == 0 {
		d.leaves++
		e.leaf = &Leaf{Path: path, v: v}
	}
	return e
}

func step(path, name string) string {
	if name = enforce.Plain(name); name == "" {
		name = `""`
	}
	if path != "" && !strings.HasSuffix(path, inside) {
		path += "."
	}
	return short(path + name)
}

func short(path string) string {
	if len(path) > maxPath {
		return path[:maxPath/2] + "…" + path[len(path)-maxPath/3:]
	}
	return path
}

// each goes through the leaves of a place.
func (e *elem) each(do func(*Leaf)) {
	switch {
	case e.inside != nil:
		e.inside.each(do)
	case e.leaf != nil:
		do(e.leaf)
	}
	for _, name := range e.names {
		e.fields[name].each(do)
	}
	for _, x := range e.items {
		x.each(do)
	}
}

// Leaves lists all leaves.
func (d *Doc) Leaves() (out []Leaf) {
	d.root.each(func(l *Leaf) { out = append(out, *l) })
	return out
}

// Root is the whole document.
func (d *Doc) Root() Node { return Node{d, d.root, ""} }

// Node is a place in a document, which may not have it.
type Node struct {
	doc  *Doc
	e    *elem
	path string
}

// Is reports whether the document has it, if only as null.
func (n Node) Is() bool { return n.e != nil }

// Path is where it is, for people.
func (n Node) Path() string { return n.path }

func (n Node) value() any {
	if n.e == nil {
		return nil
	}
	return n.e.v
}

// Get is a field of an object.
func (n Node) Get(name string) Node {
	out := Node{doc: n.doc, path: step(n.path, name)}
	if n.e != nil {
		out.e = n.e.fields[name]
	}
	return out
}

// Fields are the fields of an object, by name.
func (n Node) Fields() iter.Seq2[string, Node] {
	return func(yield func(string, Node) bool) {
		if n.e == nil {
			return
		}
		for _, name := range n.e.names {
			if !yield(name, n.Get(name)) {
				return
			}
		}
	}
}

// Items are the entries of a list.
func (n Node) Items() (out []Node) {
	if n.e == nil {
		return nil
	}
	for _, x := range n.e.items {
		out = append(out, Node{n.doc, x, x.path})
	}
	return out
}

// Inside is what a text has in it, if that is an object or a list of JSON; a value that is one already is itself. ok is false for anything
// else.
func (n Node) Inside() (in Node, ok bool) {
	switch x := n.value().(type) {
	case map[string]any, []any:
		return n, true
	case string:
		if n.e.inside == nil {
			v, errs := policy.Parse([]byte(x))
			if len(errs) > 0 {
				return n, false
			}
			switch v.(type) {
			case map[string]any, []any:
			default:
				return n, false
			}
			n.e.inside = n.doc.grow(short(n.e.path+inside), v)
		}
		return Node{n.doc, n.e.inside, n.e.inside.path}, true
	}
	return n, false
}

// Canonical is the value as JSON, the same for the same value however it is written; of a text that is JSON, that.
func (n Node) Canonical() string {
	v := n.value()
	if in, ok := n.Inside(); ok {
		v = in.value()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// Word is a text, or a number as one: vendors write ids both ways.
func (n Node) Word() string {
	switch x := n.value().(type) {
	case string:
		return strings.TrimSpace(x)
	case json.Number:
		return x.String()
	}
	return ""
}

// Flag is true or false, also as a text, or as 1 and 0.
func (n Node) Flag() (v, ok bool) {
	if b, is := n.value().(bool); is {
		return b, true
	}
	switch strings.ToLower(n.Word()) {
	case "true", "1":
		return true, true
	case "false", "0":
		return false, true
	}
	return false, false
}

// Object reports whether it is an object, if one with nothing in it.
func (n Node) Object() bool {
	_, is := n.value().(map[string]any)
	return is
}

// Number is a whole number, also as a text, or written as 5.0.
func (n Node) Number() (int64, bool) {
	word, zeros, _ := strings.Cut(n.Word(), ".")
	i, err := strconv.ParseInt(word, 10, 64)
	return i, err == nil && strings.Trim(zeros, "0") == ""
}

// Unset reports whether it is one of the words that consoles have for "not configured": null, nothing, "", "--" and -1.
func (n Node) Unset() bool { return unset(n.value()) }

func unset(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case string, json.Number:
		return slices.Contains([]string{"", "--", "-1"}, strings.TrimSpace(fmt.Sprint(x)))
	}
	return false
}

// Empty reports whether it is an object or a list with nothing in it, also as a text.
func (n Node) Empty() bool {
	in, ok := n.Inside()
	return ok && emptied(in.value())
}

// List reports whether it is a list, if one with nothing in it.
func (n Node) List() bool {
	_, is := n.value().([]any)
	return is
}

// becomes says what becomes of all leaves of a place of which nobody has said so yet.
func (n Node) becomes(f Fate, s enforce.Setting) {
	if n.e == nil {
		return
	}
	n.e.each(func(l *Leaf) { n.one(l, f, s) })
}

func (n Node) one(l *Leaf, f Fate, s enforce.Setting) {
	if l.Fate != Unread {
		n.doc.twice = append(n.doc.twice, l.Path)
		return
	}
	l.Fate, l.Setting = f, s
}

// Envelope says that a value is the vendor's own: an id, a date, who it is for. What has others in it stays unread, and is named in the end.
func (n Node) Envelope() {
	if n.e != nil && n.e.leaf != nil && n.e.inside == nil {
		n.one(n.e.leaf, Envelope, "")
	}
}

// EnvelopeAll says so of all that is in a place.
func (n Node) EnvelopeAll() { n.becomes(Envelope, "") }

// Sentinel says that a place is the vendor's word for "not configured": nothing, or a box that nobody has ticked. What has anything else in
// it stays unread, and is named in the end.
func (n Node) Sentinel() {
	if n.e == nil {
		return
	}
	n.e.each(func(l *Leaf) {
		if word := strings.ToLower(strings.TrimSpace(fmt.Sprint(l.v))); unset(l.v) || emptied(l.v) || word == "false" || word == "0" {
			n.one(l, Sentinel, "")
		}
	})
}

// emptied reports whether a value is an object or list with nothing in it.
func emptied(v any) bool {
	switch x := v.(type) {
	case map[string]any:
		return len(x) == 0
	case []any:
		return len(x) == 0
	}
	return false
}
