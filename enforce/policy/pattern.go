package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/sensitive"
)

// SensitivePattern is a pattern of sensitive data, and which setting has it where.
type SensitivePattern struct {
	sensitive.Pattern
	Setting enforce.Setting
	Index   int
}

// Label is what the pattern is called, for people: its name, or its place.
func (p *SensitivePattern) Label() string {
	if p.Name != "" {
		return p.Name
	}
	return at(string(p.Setting), p.Index)
}

// Sensitive are all patterns of the section: the plain ones first.
func (d *DLP) Sensitive() (out []SensitivePattern) {
	for i, e := range d.Patterns.V {
		out = append(out, SensitivePattern{sensitive.Pattern{Regex: string(e)}, SettingPatterns, i})
	}
	for i, p := range d.Named.V {
		out = append(out, SensitivePattern{p, SettingNamed, i})
	}
	return out
}

// maxWide is how many classes and ranges of characters beyond ASCII all patterns of a setting have: each can take two milliseconds to
// be read, and half a million would fit into a document.
const maxWide = 2000

// affordable reports whether patterns can be read within some seconds.
func affordable(r reader) bool {
	n := 0
	var count func(any)
	count = func(v any) {
		switch x := v.(type) {
		case string:
			for _, s := range []string{`\p`, `\P`, `-\x`} {
				n += strings.Count(x, s)
			}
			for i := 1; i < len(x); i++ {
				if x[i-1] == '-' && x[i] >= utf8.RuneSelf {
					n++
				}
			}
		case []any:
			for _, y := range x {
				count(y)
			}
		case map[string]any:
			for _, y := range x {
				count(y)
			}
		}
	}
	if count(r.v); n > maxWide {
		r.errs.add(r.field, fmt.Sprintf("must have at most %d classes (\\p) and ranges of characters beyond ASCII, all patterns together", maxWide), n)
		return false
	}
	return true
}

// costing is a row of a setting that is read only if that is affordable. What an older server has accepted is read in any case.
func costing(s Setting) Setting {
	decode := s.decode
	s.decode = func(d *Document, r reader) {
		if !d.strict || affordable(r) {
			decode(d, r)
		}
	}
	return s
}

// maxPatternName is how many bytes a name has: it is in each event.
const maxPatternName = 64

// readPatterns reads dlp.patterns.
func readPatterns(r reader) (out Optional[[]sensitive.Pattern]) {
	in, ok := r.v.([]any)
	if !ok {
		r.fail("must be a list")
		return out
	}
	if len(in) > maxPatterns {
		r.fail(fmt.Sprintf("must have at most %d entries", maxPatterns))
		return out
	}
	out.V, out.Set = make([]sensitive.Pattern, 0, len(in)), true
	names := map[string]bool{}
	for i, v := range in {
		p := sensitive.Pattern{}
		e := reader{r.field + "[" + strconv.Itoa(i) + "]", v, r.errs}
		if !e.object(map[string]func(reader){
			"name": func(r reader) {
				p.Name = r.string()
				switch {
				case len(p.Name) > maxPatternName:
					r.fail(fmt.Sprintf("must have at most %d bytes", maxPatternName))
				case strings.ContainsFunc(p.Name, unicode.IsControl), strings.TrimSpace(p.Name) != p.Name:
					r.fail("must have no control characters, and no spaces at its ends")
				case names[p.Name]:
					r.fail("must be another than that of a pattern before it")
				}
				names[p.Name] = true
			},
			"regex": func(r reader) {
				p.Regex = r.string()
				if _, err := parsePattern(p.Regex); err != nil {
					r.fail(err.Error())
					return
				}
				if _, err := sensitive.Compile(sensitive.Pattern{Regex: p.Regex}); err != nil {
					r.fail(err.Error())
				}
			},
			"validator": func(r reader) {
				p.Validator = r.string()
				if !slices.Contains(sensitive.Validators(), p.Validator) {
					r.fail("must be one of " + strings.Join(sensitive.Validators(), ", "))
				}
			},
			"min_count": func(r reader) { p.MinCount = int(r.int(1, sensitive.MaxCount).V) },
			"window":    func(r reader) { p.Window = int(r.int(1, sensitive.MaxWindow).V) },
		}) {
			continue
		}
		m, _ := v.(map[string]any)
		for _, must := range []string{"name", "regex"} {
			if m[must] == nil {
				e.fail("must have " + must)
			}
		}
		out.V = append(out.V, p)
	}
	return out
}

// patternWarnings says what of the patterns does not do what it seems to.
func patternWarnings(d *Document, w *warner) {
	all := 0
	for _, p := range d.DLP.Sensitive() {
		field := at(string(p.Setting), p.Index)
		x, err := sensitive.Compile(p.Pattern)
		if err == nil {
			err = x.Beside(&all)
		}
		switch {
		case errors.Is(err, sensitive.ErrEmpty):
			w.add(string(p.Setting)+": empty", field, "%v: it is not looked for", err)
		case err != nil:
			w.add(string(p.Setting)+": large", field, "%v: it is not looked for", err)
		case impossible(x.Tree.Simplify()):
			w.add(string(p.Setting)+": nothing", field, "matches no text at all")
		case x.Repeat > 0:
			w.add(string(p.Setting)+": bound", field, "repeats something without a bound (*, + or {n,}): up to %d times is looked for, less inside another repetition", x.Repeat)
		}
		if p.Window > 0 && p.Least() == 1 {
			w.add(string(p.Setting)+": window", field, "has a window and no min_count: one match is within any window")
		}
	}
	if n := len(d.DLP.Patterns.V) + len(d.DLP.Named.V); n == 0 && (d.DLP.ScanTimeout.Set || d.DLP.QuarantineDays.Set) {
		for _, s := range []enforce.Setting{"dlp.scan_timeout", "dlp.quarantine_days"} {
			if slices.Contains(d.order, s) {
				w.add("no patterns", string(s), "has nothing to be about: there are no patterns of sensitive data")
			}
		}
	}
}
