package dialect

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// How says what becomes of a value.
type How uint8

// What becomes of a value.
const (
	Allows   How = iota // true allows, false forbids: both were asked for
	Forbids             // true forbids; false is a box that nobody has ticked
	Requires            // true requires, false does not
	Coded               // one of a few numbers or words, that mean true, false, or nothing
	Number              // a whole number
	Word                // one of a few
	Names               // a list of texts
	Text                // a text
	Link                // the address of a web page
	Secret              // something that may have a password in it: nothing of it is kept or quoted
	Nothing             // a laptop has nothing like it
	Never               // nothing that a policy may bring about
)

// Row is a line of a vendor's catalogue: what a value of its documents asks for.
type Row struct {
	Name    string          // the vendor's, of a feature, a payload or a kind of profile
	Field   string          // of it; "" is all of it
	As      string          // what it is called for people, if not "NAME.FIELD"
	Setting enforce.Setting // "": none has it
	How     How
	Partial string            // what of it a laptop cannot do, or does beyond it
	Whole   string            // what is done beyond it, to the whole machine: only if the operator has said so
	Part    bool              // Whole is about what the document is for, and holds for what it allows, too
	Needs   string            // what else the operator has to say, for the catalogue
	Why     string            // why no setting has it, if there is more to say
	Words   map[string]string // what the vendor's words mean
	Codes   map[string]bool   // what they mean, of a flag; what is not in it is not configured
	Zero    bool              // 0 is the vendor's word for "not configured"
	// Low and High are the vendor's bounds, where these are narrower than the setting's. Per is how many of the vendor's units are one
	// of ours; what is not a whole number of ours is rounded to the stricter side, and that is said.
	Low, High, Per int64
	unquoted       bool
	Items          []string // where the text of an entry is, if that is an object: the first of these that is there
}

// Full is what it is called for people.
func (r *Row) Full() string {
	switch {
	case r.As != "":
		return r.As
	case r.Field == "":
		return r.Name
	}
	return r.Name + "." + r.Field
}

// neverWhy is why some things are never done.
const neverWhy = "a policy does not wipe, lock, restart, release or update a device"

// Result is what becomes of it: a word, and more about it.
func (r *Row) Result() (word, why string) {
	_, later, _ := find(r.Setting)
	switch {
	case r.How == Never:
		return "never", cmp.Or(r.Why, neverWhy)
	case r.How == Nothing:
		return "no match", r.Why
	case later:
		return "later", r.Partial
	case r.Whole+r.Needs != "":
		return "opt-in", strings.Join(slices.DeleteFunc([]string{r.Needs, r.Whole, r.Partial}, func(s string) bool { return s == "" }), "; ")
	case r.Partial != "":
		return "partial", r.Partial
	}
	return "translated", ""
}

// Of lists the rows of a name, and Row is the one of a field.
func Of(rows []Row, name string) (out []Row) {
	for _, r := range rows {
		if r.Name == name {
			out = append(out, r)
		}
	}
	return out
}

// Field is the row of a field, of those of a name.
func Field(rows []Row, field string) (Row, bool) {
	if i := slices.IndexFunc(rows, func(r Row) bool { return r.Field == field }); i >= 0 {
		return rows[i], true
	}
	return Row{}, false
}

// Fields says what becomes of each field of an object. What is in no row is named, unless it is not configured.
func (b *Builder) Fields(rows []Row, name string, in Node) {
	b.FieldsBut(rows, name, in, func(string, Row, Node) bool { return false })
}

// FieldsBut is Fields for what done has not said something of itself. The row is an empty one where no row is about a field.
func (b *Builder) FieldsBut(rows []Row, name string, in Node, done func(field string, r Row, at Node) bool) {
	for field, at := range in.Fields() {
		r, known := Field(rows, field)
		switch {
		case done(field, r, at):
		case known:
			b.Value(r, at)
		default:
			b.Unknown(name, field, at)
		}
	}
	if in.Empty() {
		in.Sentinel()
	}
}

// Unknown names a field that no row is about, unless it is not configured.
func (b *Builder) Unknown(name, field string, at Node) {
	if at.Unset() {
		at.Sentinel()
		return
	}
	b.None(name+"."+field, at)
}

// Value says what becomes of a value.
func (b *Builder) Value(r Row, at Node) {
	name := r.Full()
	switch {
	case r.How == Never:
		b.Name(name, cmp.Or(r.Why, neverWhy), at)
		return
	case at.Unset() || at.Empty() || r.Zero && at.Word() == "0":
		at.Sentinel()
		return
	case r.How == Nothing && r.Why != "":
		b.Name(name, r.Why, at)
		return
	case r.How == Nothing:
		b.None(name, at)
		return
	case r.How == Secret:
		b.Name(name, fmt.Sprintf("no section for it yet (%s)", r.Setting), at)
		return
	}
	b.take(r, at, at)
}

// ValueOf says what becomes of a value that was written in another way in the document, at the places that stand for it.
func (b *Builder) ValueOf(r Row, word string, at ...Node) {
	v := Node{doc: b.doc, e: &elem{v: word}}
	if v.Unset() || r.Zero && word == "0" {
		b.Name(r.Full(), "it is not configured", at...)
		return
	}
	r.unquoted = true
	b.take(r, v, at...)
}

// More is the beginning of why something is not done that an operator has to ask for.
const More = "it would do more than is asked for: "

// take reads a value, and says what becomes of the places that it is at.
func (b *Builder) take(r Row, value Node, at ...Node) {
	name := r.Full()
	v, wrong := r.read(value)
	row, later, known := find(r.Setting)
	limits := []string{r.Whole, r.Partial}
	if v == true && row.Order == policy.FalseStricter || v == false && row.Order == policy.TrueStricter {
		limits = nil // it is allowed, or not required: there is nothing that a laptop does
		if !r.Part {
			r.Whole = ""
		} else {
			limits = []string{r.Whole}
		}
	}
	if n, ok := value.Number(); ok && r.Per > 1 && v != nil && n%r.Per != 0 {
		limits = append(limits, fmt.Sprintf("%d is no whole number of what Warder counts in: it is taken as %v", n, v))
	}
	switch {
	case wrong != "":
		if wrong != NoAddress && !r.unquoted { // what may have a password in it
			wrong += fmt.Sprintf(": %v", policy.Short(value.value()))
		}
		b.Name(name, wrong, at...)
	case v == nil:
		for _, n := range at {
			n.Sentinel()
		}
	case !known:
		b.None(name, at...) // a mistake of ours, which a test finds
	case later:
		b.Keep(r.Setting, v, name, at...)
		for _, why := range limits {
			b.remark(why)
		}
	case r.Whole != "" && !b.o.Whole:
		b.Name(name, More+r.Whole, at...)
	default:
		b.Set(r.Setting, v, name, at...)
		for _, why := range limits {
			if why != "" {
				b.Less(r.Setting, name, why)
			}
		}
	}
}

// read is the value that a setting takes; nil says that it is not configured, and wrong what it has to be.
func (r *Row) read(at Node) (v any, wrong string) {
	switch r.How {
	case Number:
		low, high := r.bounds()
		n, ok := at.Number()
		if !ok || n < low || n > high {
			return nil, fmt.Sprintf("must be a whole number from %d to %d", low, high)
		}
		if r.Per > 1 {
			row, _, _ := find(r.Setting)
			if up := r.Per - 1; row.Order == policy.MoreStricter || n < r.Per {
				n += up
			}
			n /= r.Per
		}
		return n, ""
	case Word:
		for theirs, ours := range r.Words {
			if strings.EqualFold(theirs, at.Word()) {
				return ours, ""
			}
		}
		return nil, "is not known"
	case Names:
		if out, ok := r.List(at); ok {
			return out, ""
		}
		return nil, "must be a list of names"
	case Coded:
		for code, is := range r.Codes {
			if strings.EqualFold(code, at.Word()) {
				return is, ""
			}
		}
		return nil, "is not known"
	case Text:
		if t := TextOf(at); t != "" {
			return t, ""
		}
		return nil, "must be a text"
	case Link:
		if t, ok := Address(at); ok {
			return t, ""
		}
		return nil, NoAddress
	}
	is, ok := at.Flag()
	switch {
	case !ok:
		return nil, "must be true or false"
	case r.How == Forbids && !is:
		return nil, ""
	case r.How == Forbids:
		return false, ""
	}
	return is, ""
}

// List are the texts of a list. ok is false if it is none, or if an entry has no text.
func (r *Row) List(at Node) (out []string, ok bool) {
	for _, e := range at.Items() {
		out = append(out, TextOf(e, r.Items...))
	}
	return out, at.List() && !slices.Contains(out, "")
}

// bounds are those of a number, in the vendor's unit.
func (r *Row) bounds() (low, high int64) {
	if r.High > 0 {
		return r.Low, r.High
	}
	row, _, _ := find(r.Setting)
	per := max(r.Per, 1)
	return row.Shape.Min * per, row.Shape.Max * per
}

// NoAddress is what is said of what is no address of a web page. It is not quoted: it may have a password in it.
const NoAddress = "must be the address of a web page (http or https), without a name or password in it"

// Address is the address of a web page.
func Address(n Node) (string, bool) {
	u, err := url.Parse(n.Word())
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", false
	}
	return enforce.Plain(u.String()), true
}

// Quote is a text as it is shown to people.
func Quote(n Node) string { return cut(enforce.Plain(n.Word())) }

// TextOf is a text, or the first of the fields of an object that is one.
func TextOf(n Node, fields ...string) string {
	t := enforce.Plain(n.Word())
	for _, f := range fields {
		if t == "" {
			t = TextOf(n.Get(f))
		}
	}
	return t
}

// Check says what of a catalogue is wrong.
func Check(rows []Row) error {
	seen := map[string]bool{}
	for _, r := range rows {
		row, _, known := find(r.Setting)
		name, kind := r.Full(), row.Shape.Type
		low, high := r.bounds()
		per := max(r.Per, 1)
		switch {
		case seen[name]:
			return fmt.Errorf("%s is there twice", name)
		case r.How == Nothing || r.How == Never:
			if r.Setting != "" {
				return fmt.Errorf("%s: no setting has it, and %s is said to", name, r.Setting)
			}
		case !known:
			return fmt.Errorf("%s: there is no setting %q", name, r.Setting)
		case r.How == Allows || r.How == Forbids || r.How == Requires || r.How == Coded:
			if kind != "boolean" || r.How == Coded && len(r.Codes) == 0 {
				return fmt.Errorf("%s: %s is no flag, or no word means anything", name, r.Setting)
			}
		case r.How == Number:
			if kind != "integer" || low > high || low < row.Shape.Min || (high+per-1)/per > row.Shape.Max {
				return fmt.Errorf("%s: %s is not from %d to %d", name, r.Setting, low, high)
			}
		case r.How == Names:
			if kind != "array" {
				return fmt.Errorf("%s: %s is no list", name, r.Setting)
			}
		case r.How == Text, r.How == Link:
			if kind != "string" {
				return fmt.Errorf("%s: %s is no text", name, r.Setting)
			}
		case r.How == Secret:
			if _, now := policy.Find(r.Setting); now {
				return fmt.Errorf("%s: %s has come", name, r.Setting)
			}
		case r.How == Word && len(r.Words) == 0:
			return fmt.Errorf("%s: no word means anything", name)
		case r.How == Word:
			for _, w := range r.Words {
				if !slices.Contains(row.Shape.Enum, w) {
					return fmt.Errorf("%s: %s cannot be %q", name, r.Setting, w)
				}
			}
		}
		seen[name] = true
	}
	return nil
}
