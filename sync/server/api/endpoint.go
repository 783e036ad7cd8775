package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/sync/protocol"
)

// access says who may call a route.
type access int

const (
	viewer access = iota // an administrator's token of either role
	admin
	device // signed by the device's key
	token  // an enrollment token, checked by the handler
	anyone // no token: the answer says nothing about anybody
)

// endpoint is a handler with the types of its bodies, from which it is documented and checked.
type endpoint struct {
	in, out reflect.Type
	free    bool   // the body is a policy document: its own decoder checks it
	stream  bool   // the handler reads the body itself: text that is too long to be held
	facade  string // the vendor whose call it is; "" for one of this API
	most    int64  // the largest body, where it is not the access's
	call    func(*API, *request) (any, error)
}

func get[O any](f func(*API, *request) (O, error)) endpoint {
	return endpoint{out: reflect.TypeFor[O](), call: func(a *API, q *request) (any, error) { return f(a, q) }}
}

// with is an endpoint with a JSON body.
func with[I, O any](f func(*API, *request, *I) (O, error)) endpoint {
	return endpoint{in: reflect.TypeFor[I](), out: reflect.TypeFor[O](), call: func(a *API, q *request) (any, error) {
		var in I
		if err := q.decode(a, &in); err != nil {
			return nil, err
		}
		return f(a, q, &in)
	}}
}

// document is an endpoint whose body is a policy: I documents it, the policy decoder reads it.
func document[I, O any](f func(*API, *request) (O, error)) endpoint {
	e := get(f)
	e.in, e.free = reflect.TypeFor[I](), true
	return e
}

// param is a query parameter.
type param struct {
	name, doc string
	kind      string // "integer" or "string"
	def, most int
	enum      []string
	format    string // "date-time"
}

// route is one line of the table.
type route struct {
	method, path string
	access       access
	summary      string
	endpoint
	status int // of success; 0 means 200
	query  []param
}

// registry has the schemas of all bodies; the OpenAPI document and the checks share it.
//
// Field names are case-sensitive: "Policy_ID" is another field than "policy_id".
var registry huma.Registry = &locked{Registry: huma.NewMapRegistry("#/components/schemas/", schemaName)}

// locked is a registry that two servers in one process may use at once: one makes its document while the other answers.
type locked struct {
	mu sync.Mutex
	huma.Registry
}

func (l *locked) Schema(t reflect.Type, ref bool, hint string) *huma.Schema {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Registry.Schema(t, ref, hint)
}

func (l *locked) SchemaFromRef(ref string) *huma.Schema {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Registry.SchemaFromRef(ref)
}

func (l *locked) MarshalJSON() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Marshal(l.Registry)
}

func init() {
	huma.ValidateStrictCasing = true
}

// schemaName makes a type's name in the document: without the package, and capitalised.
func schemaName(t reflect.Type, hint string) string {
	if t == reflect.TypeFor[protocol.PolicyState]() {
		return "Held" // as generated clients have known it since 0.2
	}
	name := huma.DefaultSchemaNamer(t, hint)
	return strings.ToUpper(name[:1]) + name[1:]
}
