package policy

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// reader is one value of the document with the name of its field, for typed access.
type reader struct {
	field string
	v     any
	errs  *Errors
}

func (r reader) fail(message string) { r.errs.add(r.field, message, r.v) }

// bool reads true or false.
func (r reader) bool() (b Optional[bool]) {
	v, ok := r.v.(bool)
	if !ok {
		r.fail("must be a boolean")
	}
	return Optional[bool]{v, ok}
}

// integer accepts JSON numbers without a fraction.
func integer(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	return i, err == nil
}

// int reads a whole number within bounds, both included.
func (r reader) int(low, high int64) (n Optional[int64]) {
	v, ok := integer(r.v)
	if !ok || v < low || v > high {
		r.fail(fmt.Sprintf("must be a whole number from %d to %d", low, high))
		return n
	}
	return Optional[int64]{v, true}
}

// oneOf reads one of the given words.
func (r reader) oneOf(words ...string) (s Optional[string]) {
	v, ok := r.v.(string)
	for _, w := range words {
		if ok && v == w {
			return Optional[string]{v, true}
		}
	}
	r.fail(fmt.Sprintf("must be one of %q", words))
	return s
}

// string reads a text of at least one byte.
func (r reader) string() string {
	s, ok := r.v.(string)
	if !ok {
		r.fail("must be a string")
	} else if s == "" || len(s) > maxString {
		r.fail(fmt.Sprintf("must have 1 to %d bytes", maxString))
	}
	return s
}

// list reads a list of strings; parse says what is wrong with an entry.
func listOf[T any](r reader, most int, parse func(string) (T, error)) (out Optional[[]T]) {
	in, ok := r.v.([]any)
	if !ok {
		r.fail("must be a list")
		return out
	}
	if len(in) > most {
		r.fail(fmt.Sprintf("must have at most %d entries", most))
		return out
	}
	out.V, out.Set = make([]T, 0, len(in)), true
	for i, v := range in {
		e := reader{r.field + "[" + strconv.Itoa(i) + "]", v, r.errs}
		s, ok := v.(string)
		if !ok {
			e.fail("must be a string")
			continue
		}
		if len(s) > maxString {
			e.fail(fmt.Sprintf("must be at most %d bytes", maxString))
			continue
		}
		x, err := parse(s)
		if err != nil {
			e.fail(err.Error())
			continue
		}
		out.V = append(out.V, x)
	}
	return out
}

// object reads an object and refuses unknown fields.
func (r reader) object(fields map[string]func(reader)) bool {
	in, ok := r.v.(map[string]any)
	if !ok {
		r.fail("must be an object")
		return false
	}
	for name, v := range in {
		at := reader{join(r.field, name), v, r.errs}
		if read, ok := fields[name]; ok {
			read(at)
		} else {
			at.fail("is not a field here")
		}
	}
	return true
}
