package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
)

// The bounds of a document. They are far above any policy written by hand, and far below what would slow a laptop down.
const (
	MaxBytes    = 1 << 20
	maxDepth    = 16
	maxList     = 100_000
	maxNames    = 4096 // in one object; no real object has more than a few dozen
	maxString   = 4096
	maxErrors   = 200
	maxReceived = 200
)

// Error is one thing wrong with a document, in the shape of POST /policies/validate.
type Error struct {
	Field    string `json:"field"`
	Message  string `json:"message"`
	Received any    `json:"received"`
}

// Error names the field, what is wrong, and the value received.
func (e Error) Error() string {
	got, _ := json.Marshal(e.Received)
	return fmt.Sprintf("%s %s (received %s)", enforce.Plain(e.Field), e.Message, got)
}

// Errors is every error of a document, ordered by field.
type Errors []Error

// Error joins the first errors and counts the others.
func (e Errors) Error() string {
	parts := make([]string, 0, min(len(e), 5))
	for i, x := range e {
		if i == 5 {
			parts = append(parts, fmt.Sprintf("and %d more", len(e)-5))
			break
		}
		parts = append(parts, x.Error())
	}
	return strings.Join(parts, "; ")
}

// add adds an error about a field; received is shortened.
func (e *Errors) add(field, message string, received any) {
	if len(*e) < maxErrors {
		*e = append(*e, Error{field, message, shorten(received)})
	}
}

// Short bounds what is echoed to a sender.
func Short(v any) any { return shorten(v) }

// shorten bounds what is echoed to a sender, and makes it printable.
func shorten(v any) any {
	switch x := v.(type) {
	case string:
		if len(x) > maxReceived {
			cut := maxReceived
			for cut > 0 && !utf8.RuneStart(x[cut]) {
				cut--
			}
			return x[:cut] + "…"
		}
	case json.Number:
		if len(x) > maxReceived {
			return string(x[:maxReceived]) + "…"
		}
	case []any:
		return fmt.Sprintf("a list of %d", len(x))
	case map[string]any:
		names := make([]string, 0, len(x))
		for k := range x {
			names = append(names, k)
		}
		sort.Strings(names)
		return shorten("an object with " + strings.Join(names, ", "))
	}
	return v
}

// Parse reads one JSON value from outside, with the bounds of a document, for bodies that are not documents. It reports
// every error at once and refuses what encoding/json accepts by mistake.
func Parse(data []byte) (any, Errors) { return ParseAtMost(data, MaxBytes) }

// ParseAtMost is Parse with another bound on the size.
func ParseAtMost(data []byte, most int) (any, Errors) {
	var errs Errors
	v, _ := parseAtMost(data, most, &errs)
	return v, sorted(errs)
}

// parse reads one JSON value with bounds on size, depth and lists. It refuses what encoding/json accepts: duplicate
// names, trailing data, text that is not UTF-8.
func parse(data []byte, errs *Errors) (any, bool) { return parseAtMost(data, MaxBytes, errs) }

// parseAtMost is ParseAtMost that collects errors in a list.
func parseAtMost(data []byte, most int, errs *Errors) (any, bool) {
	if len(data) > most {
		errs.add("", fmt.Sprintf("must be at most %d bytes", most), len(data))
		return nil, false
	}
	if !utf8.Valid(data) {
		errs.add("", "must be UTF-8", nil)
		return nil, false
	}
	before := len(*errs)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := value(dec, "", 0, errs)
	if err != nil {
		errs.add("", "must be JSON: "+err.Error(), shorten(string(data)))
		return nil, false
	}
	if _, err := dec.Token(); err != io.EOF {
		errs.add("", "must be one JSON value with nothing after it", nil)
		return nil, false
	}
	return v, len(*errs) == before
}

// value reads one JSON value below a field.
func value(dec *json.Decoder, field string, depth int, errs *Errors) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s is nested deeper than %d", field, maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		return object(dec, field, depth, errs)
	case json.Delim('['):
		return list(dec, field, depth, errs)
	}
	return tok, nil
}

// object reads the rest of an object, whose names have to be unique.
func object(dec *json.Decoder, field string, depth int, errs *Errors) (any, error) {
	out := map[string]any{}
	for dec.More() {
		if len(out) >= maxNames {
			return nil, fmt.Errorf("%s has more than %d names", cmp.Or(field, "the object"), maxNames)
		}
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := tok.(string)
		at := join(field, name)
		v, err := value(dec, at, depth+1, errs)
		if err != nil {
			return nil, err
		}
		if _, twice := out[name]; twice {
			errs.add(at, "must stand only once", v)
		}
		out[name] = v
	}
	_, err := dec.Token()
	return out, err
}

// list reads the rest of a list of bounded length.
func list(dec *json.Decoder, field string, depth int, errs *Errors) (any, error) {
	out := []any{}
	for dec.More() {
		if len(out) >= maxList {
			return nil, fmt.Errorf("%s has more than %d entries", field, maxList)
		}
		v, err := value(dec, field, depth+1, errs)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := dec.Token()
	return out, err
}

// join appends a name to a field's path.
func join(field, name string) string {
	if len(name) > maxReceived {
		name = name[:maxReceived] + "…"
	}
	if field == "" {
		return name
	}
	return field + "." + name
}
