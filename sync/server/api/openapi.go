package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/sync/protocol"
)

// describe makes the OpenAPI 3.1 document and its page from the table of routes.
func (a *API) describe() error {
	doc := Describe(a.Version)
	var err error
	if a.openapi, err = doc.MarshalJSON(); err == nil {
		a.openapi30, err = older30(doc)
	}
	if err != nil {
		return fmt.Errorf("cannot make the OpenAPI document: %w", err)
	}
	a.page, err = readable(doc)
	return err
}

// Describe is the API as an OpenAPI 3.1 document.
func Describe(version string) *huma.OpenAPI {
	doc := &huma.OpenAPI{OpenAPI: "3.1.0", Info: &huma.Info{Title: "Warder policy server", Version: version,
		Description: "Policies, the devices that have them, and how these stand. Times are RFC 3339 in UTC. Errors have one shape, with " +
			"every error of a request. " +
			"Beside these there is the websocket on which the server nudges a device, GET /api/v1/devices/{id}/push.",
		Contact: &huma.Contact{Name: "The Warder project"},
		License: &huma.License{Name: "Apache 2.0", URL: "https://www.apache.org/licenses/LICENSE-2.0.html"}},
		Servers: []*huma.Server{{URL: "https://{host}", Description: "this server",
			Variables: map[string]*huma.ServerVariable{"host": {Default: "localhost:8443"}}}},
		Paths: map[string]*huma.PathItem{},
		Components: &huma.Components{Schemas: registry, SecuritySchemes: map[string]*huma.SecurityScheme{
			"administrator": {Type: "http", Scheme: "bearer", BearerFormat: "JWT",
				Description: "HS256, with role admin or viewer and an expiry; made by warder-server token create"},
			"device": {Type: "http", Scheme: "bearer", BearerFormat: "JWT",
				Description: "signed by the device's key for one request: method, path and SHA-256 of the body"},
			"enrollment": {Type: "http", Scheme: "bearer", Description: "an enrollment token"},
		}},
	}
	problem := &huma.Response{Description: "what is wrong", Content: content(reflect.TypeFor[protocol.Problem](), "Problem")}
	for i := range routes {
		r := &routes[i]
		if r.out == reflect.TypeFor[struct{}]() {
			continue // a socket, which OpenAPI cannot describe
		}
		if tag := tagOf(r); !slices.ContainsFunc(doc.Tags, func(t *huma.Tag) bool { return t.Name == tag }) {
			doc.Tags = append(doc.Tags, &huma.Tag{Name: tag, Description: tagDocs[tag]})
		}
		path := protocol.Base + r.path
		item := doc.Paths[path]
		if item == nil {
			item = &huma.PathItem{}
			doc.Paths[path] = item
		}
		op := &huma.Operation{OperationID: operationID(r), Summary: r.summary, Tags: []string{tagOf(r)},
			Responses: map[string]*huma.Response{}}
		if scheme := []string{viewer: "administrator", admin: "administrator", device: "device", token: "enrollment",
			anyone: ""}[r.access]; scheme != "" {
			op.Security = []map[string][]string{{scheme: {}}}
		} else {
			op.Security = []map[string][]string{{}}
		}
		switch r.access {
		case admin:
			op.Description = "Needs the role admin."
		case viewer:
			op.Description = "Needs the role viewer or admin."
		case device:
			op.Description = "For a device, signed by its key."
		case token:
			op.Description = "For a device that enrolls, with an enrollment token."
		case anyone:
			op.Description = "For anybody."
		}
		for _, name := range valuesOf(r.path) {
			op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true, Example: exampleOf(r, name),
				Schema: &huma.Schema{Type: "string"}})
		}
		for _, p := range r.query {
			op.Parameters = append(op.Parameters, &huma.Param{Name: p.name, In: "query", Description: p.doc, Schema: p.schema()})
		}
		if r.access == admin && r.method == http.MethodPost && !r.stream {
			op.Parameters = append(op.Parameters, &huma.Param{Name: "Idempotency-Key", In: "header",
				Description: "a repeated request with the same key gets the same answer and is not carried out again",
				Schema:      &huma.Schema{Type: "string"}})
		}
		if strings.HasPrefix(r.path, "/policies/{id}") && (r.method != http.MethodGet) {
			op.Parameters = append(op.Parameters, &huma.Param{Name: "If-Match", In: "header",
				Description: "the ETag that was read; 412 if there is a newer version", Schema: &huma.Schema{Type: "string"}})
		}
		if r.stream {
			op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"text/plain": {
				Schema: &huma.Schema{Type: "string"}, Example: "tracker.example\n*.ads.example\n"}}}
		}
		if r.in != nil {
			op.RequestBody = &huma.RequestBody{Required: true, Content: withExample(r, content(r.in, operationID(r)+"Body"))}
		}
		status := r.status
		if status == 0 {
			status = http.StatusOK
		}
		answer := &huma.Response{Description: http.StatusText(status)}
		switch r.out {
		case reflect.TypeFor[rawBody]():
			answer.Content = map[string]*huma.MediaType{"application/gzip": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
		case reflect.TypeFor[streamed]():
			kind := "text/plain"
			if r.access == device {
				kind = "application/zstd"
			}
			answer.Content = map[string]*huma.MediaType{kind: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
		default:
			answer.Content = content(r.out, operationID(r)+"Answer")
		}
		op.Responses[strconv.Itoa(status)] = answer
		if r.path == "/policies/validate" {
			op.Responses["400"] = &huma.Response{Description: "the policy or the request is not valid; every error is listed",
				Content: map[string]*huma.MediaType{"application/json": {
					Schema: &huma.Schema{AnyOf: []*huma.Schema{registry.Schema(r.out, true, ""),
						registry.Schema(reflect.TypeFor[protocol.Problem](), true, "Problem")}}}}}
		}
		op.Responses["4XX"], op.Responses["default"] = problem, problem
		switch r.method {
		case http.MethodGet:
			item.Get = op
		case http.MethodPost:
			item.Post = op
		case http.MethodPut:
			item.Put = op
		case http.MethodPatch:
			item.Patch = op
		case http.MethodDelete:
			item.Delete = op
		}
	}
	return doc
}

// tagDocs describe the groups of routes.
var tagDocs = map[string]string{
	"Policies": "what devices should do", "Templates": "policies to begin with", "Rollouts": "a policy's next version, in stages",
	"Assignments": "policies for groups of devices", "Lists": "lists of names that are too long for a policy",
	"Devices": "laptops and their compliance", "Enrollments": "tokens with which devices enroll",
	"Compliance": "the fleet's compliance",
	"Events":     "what happened on devices",
	"Audit":      "what administrators changed", "Tokens": "administrators' tokens", "Latency": "how long changes take",
	"Device side": "what devices call",
}

// older30 is the document for generators that only know OpenAPI 3.0.
func older30(doc *huma.OpenAPI) ([]byte, error) {
	b, err := doc.Downgrade()
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		return nil, err
	}
	return json.Marshal(plainRefs(tree))
}

// plainRefs reduces a document to what 3.0 allows: nothing beside a reference, and no contentMediaType.
func plainRefs(v any) any {
	switch x := v.(type) {
	case []any:
		for i := range x {
			x[i] = plainRefs(x[i])
		}
	case map[string]any:
		if _, text := x["contentMediaType"].(string); text {
			delete(x, "contentMediaType")
		}
		for k := range x {
			x[k] = plainRefs(x[k])
		}
		if ref, is := x["$ref"].(string); is && len(x) > 1 {
			delete(x, "$ref")
			x["allOf"] = []any{map[string]any{"$ref": ref}}
		}
	}
	return v
}

func content(t reflect.Type, hint string) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: registry.Schema(t, true, hint)}}
}

// schema is a query parameter's schema.
func (p param) schema() *huma.Schema {
	s := &huma.Schema{Type: p.kind, Format: p.format}
	if p.kind == "integer" {
		low, high := 1.0, float64(p.most)
		s.Minimum, s.Maximum, s.Default = &low, &high, p.def
	}
	for _, e := range p.enum {
		s.Enum = append(s.Enum, e)
	}
	return s
}

// operationID names a route: "PUT /policies/{id}" is put-policies-id.
func operationID(r *route) string {
	return strings.ToLower(r.method) + strings.NewReplacer("/", "-", "{", "", "}", "").Replace(r.path)
}

// tagOf is the group of a route, by its path.
func tagOf(r *route) string {
	if r.access == device || r.access == token || r.access == anyone {
		return "Device side"
	}
	first := strings.SplitN(r.path[1:], "/", 2)[0]
	return strings.ToUpper(first[:1]) + first[1:]
}

//go:embed docs.html.tmpl
var docsTemplate string

// readable makes one page of the document, without scripts or external resources.
func readable(doc *huma.OpenAPI) ([]byte, error) {
	type operation struct {
		Method, Path string
		*huma.Operation
		Body, Answer  string
		Command, Curl string // an example
	}
	type group struct {
		Name string
		List []operation
	}
	var groups []group
	for i := range routes {
		r := &routes[i]
		o := operation{Method: r.method, Path: protocol.Base + r.path,
			Operation: &huma.Operation{Summary: r.summary, Description: "A websocket, for a device, signed by its key."}}
		if item := doc.Paths[protocol.Base+r.path]; item != nil {
			if op := map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch,
				"DELETE": item.Delete}[r.method]; op != nil {
				o.Operation = op
			}
		}
		o.Command, o.Curl = callOf(r)
		if r.in != nil {
			o.Body = outline(registry.Schema(r.in, true, ""), "", 0)
		}
		if r.out != reflect.TypeFor[struct{}]() && r.out != reflect.TypeFor[rawBody]() && r.out != reflect.TypeFor[streamed]() {
			o.Answer = outline(registry.Schema(r.out, true, ""), "", 0)
		}
		n := slices.IndexFunc(groups, func(g group) bool { return g.Name == tagOf(r) })
		if n < 0 {
			groups, n = append(groups, group{Name: tagOf(r)}), len(groups)
		}
		groups[n].List = append(groups[n].List, o)
	}
	t, err := template.New("docs").Parse(docsTemplate)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{"Info": doc.Info, "Groups": groups})
	return b.Bytes(), err
}

// outline writes a schema for people, one line per field.
func outline(s *huma.Schema, indent string, depth int) string {
	if s.Ref != "" {
		s = registry.SchemaFromRef(s.Ref)
	}
	if depth > 5 {
		return "…"
	}
	switch {
	case s.Type == "array" && s.Items != nil:
		return "[" + outline(s.Items, indent, depth+1) + "]"
	case s.Type == "object" && len(s.Properties) > 0:
		var b strings.Builder
		b.WriteString("{\n")
		names := make([]string, 0, len(s.Properties))
		for n := range s.Properties {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			p := s.Properties[n]
			mark := ""
			if !slices.Contains(s.Required, n) {
				mark = "?"
			}
			b.WriteString(indent + "  " + n + mark + ": " + outline(p, indent+"  ", depth+1))
			if d := p.Description; d != "" {
				b.WriteString("   # " + d)
			}
			b.WriteString("\n")
		}
		return b.String() + indent + "}"
	case len(s.Enum) > 0:
		parts := make([]string, 0, len(s.Enum))
		for _, e := range s.Enum {
			x, _ := json.Marshal(e)
			parts = append(parts, string(x))
		}
		return strings.Join(parts, " | ")
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	case s.Type == "":
		return "any"
	}
	return s.Type
}
