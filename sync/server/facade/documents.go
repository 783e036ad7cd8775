package facade

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/server/store"
)

// mostBytes bounds all documents of a vendor together: they are read whole to change one.
const mostBytes = 8 << 20

// Form is what a client has sent as a form, in the body: an address, and what is in it, is what proxies write down.
func Form(c *Call) (url.Values, error) {
	form, err := url.ParseQuery(string(c.Body))
	if err != nil {
		return nil, &Problem{Status: http.StatusBadRequest, Code: "invalid_request", Message: "the form cannot be read"}
	}
	return form, nil
}

// Room refuses a document that would be too much beside those that are there.
func Room(have []*store.VendorDocument, d *store.VendorDocument, most int) error {
	n, size := 1, len(d.Document)+len(d.State)
	for _, o := range have {
		if o.Number != d.Number {
			n, size = n+1, size+len(o.Document)+len(o.State)
		}
	}
	if n > most || size > mostBytes {
		return &Problem{Status: http.StatusConflict, Code: "too_many",
			Message: fmt.Sprintf("there may be at most %d documents, of %d bytes together", most, mostBytes)}
	}
	return nil
}

// Find is a document by its number; nil if there is none.
func Find(docs []*store.VendorDocument, number int64) *store.VendorDocument {
	if i := slices.IndexFunc(docs, func(d *store.VendorDocument) bool { return d.Number == number }); i >= 0 {
		return docs[i]
	}
	return nil
}

// Over puts values into an object; nil takes a field out.
func Over(document json.RawMessage, values map[string]any) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(document, &fields); err != nil {
		return nil, err
	}
	for name, v := range values {
		if delete(fields, name); v != nil {
			b, err := Marshal(v)
			if err != nil {
				return nil, err
			}
			fields[name] = b
		}
	}
	return Marshal(fields)
}

// Marshal is json.Marshal that leaves "<", ">" and "&" as they are, as clients have written them.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Decode reads a body within the bounds of a translator's. Fields that come twice are refused, and so is one that is spelled like one of
// these but for its case, which a reader without regard to case would take for it.
func Decode(body []byte, to any) error {
	if _, err := dialect.Read(body); err != nil {
		return ErrMalformed
	}
	if misspelled(body, reflect.TypeOf(to)) != "" || json.Unmarshal(body, to) != nil {
		return ErrMalformed
	}
	return nil
}

// ErrMalformed is a body that is not what a call takes.
var ErrMalformed = errors.New("the body is not what this call takes, in JSON")

// Misspelled is the first field of a body that is spelled like one of a type's but for its case; "" if there is none.
func Misspelled(body []byte, to any) string { return misspelled(body, reflect.TypeOf(to)) }

// misspelled is a field that a reader without regard to case takes for one of a type's; "" if there is none.
func misspelled(raw json.RawMessage, t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice:
		var list []json.RawMessage
		if t.Elem().Kind() != reflect.Struct || json.Unmarshal(raw, &list) != nil {
			return ""
		}
		for i, e := range list {
			if s := misspelled(e, t.Elem()); s != "" {
				return fmt.Sprintf("[%d].%s", i, s)
			}
		}
	case reflect.Struct:
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return ""
		}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			for given, value := range fields {
				if given != name && strings.EqualFold(given, name) {
					return given
				}
				if given == name {
					if s := misspelled(value, t.Field(i).Type); s != "" {
						return strings.Replace(name+"."+s, ".[", "[", 1)
					}
				}
			}
		}
	}
	return ""
}

// Printable reports whether a text has no control characters; with lines it may have several.
func Printable(s string, lines bool) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && !(lines && strings.ContainsRune("\n\r\t", r)) })
}

// ShortID is the id of a text that never changes, in the vendors' form of 22 characters.
func ShortID(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// NewShortID is an id of that form that nobody has.
func NewShortID() string { return ShortID(rand.Text()) }

// Compact is JSON without blanks between its parts.
func Compact(raw json.RawMessage) (json.RawMessage, error) {
	var b bytes.Buffer
	err := json.Compact(&b, raw)
	return b.Bytes(), err
}

// Without takes a field out of an object, whose other fields stay in their order.
func Without(object json.RawMessage, name string) (json.RawMessage, error) {
	return Replace(object, name, nil)
}

// Replace puts another value into a field of an object, whose fields stay in their order; nil takes it out.
func Replace(object json.RawMessage, name string, value json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no object")
	}
	out := json.RawMessage("{}")
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		field, _ := t.(string)
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		if field == name {
			if v = value; v == nil {
				continue
			}
		}
		if out, err = After(out, field, v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// After puts a field at the end of an object, whose other fields stay in their order.
func After(object json.RawMessage, name string, value any) (json.RawMessage, error) {
	v, err := Marshal(value)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, object); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("}"))
	if !bytes.HasPrefix(out, []byte("{")) || len(out) == b.Len() {
		return nil, errors.New("it is no object")
	}
	if len(out) > 1 {
		out = append(out, ',')
	}
	key, err := Marshal(name)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(out, "%s:%s}", key, v), nil
}
