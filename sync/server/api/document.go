package api

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/enforce/policy"
)

// The following types describe the policy document for the OpenAPI page, from the table of settings that its decoder
// uses.

type modeText string

// Schema describes a compliance mode.
func (modeText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: "string", Enum: []any{"enforce", "warn", "monitor"},
		Description: "enforce: act and report; warn: tell the user and report; monitor: report"}
}

type sectionModes map[string]modeText

// Schema describes modes by section.
func (sectionModes) Schema(r huma.Registry) *huma.Schema {
	s := &huma.Schema{Type: "object", Properties: map[string]*huma.Schema{}, AdditionalProperties: false,
		Description: "modes of single sections"}
	for _, name := range policy.Sections() {
		s.Properties[name] = modeText("").Schema(r)
	}
	return closed(s)
}

// policyData is policy_data as it was written.
type policyData struct{ raw json.RawMessage }

// MarshalJSON writes it unchanged.
func (d policyData) MarshalJSON() ([]byte, error) {
	if d.raw == nil {
		return []byte("{}"), nil
	}
	return d.raw, nil
}

// UnmarshalJSON keeps it unchanged.
func (d *policyData) UnmarshalJSON(b []byte) error {
	d.raw = append(json.RawMessage(nil), b...)
	return nil
}

// Schema describes every section with its settings.
func (policyData) Schema(huma.Registry) *huma.Schema {
	whole := &huma.Schema{Type: "object", AdditionalProperties: false,
		Description: "what devices should do; an absent setting is unmanaged", Properties: map[string]*huma.Schema{}}
	for _, name := range policy.Sections() {
		section := policy.Shape{Type: "object", Doc: policy.SectionDoc(name), Fields: map[string]policy.Shape{}}
		for _, s := range policy.Section(name) {
			section.Fields[strings.TrimPrefix(string(s.Name), name+".")] = s.Shape
		}
		whole.Properties[name] = schemaOf(section)
	}
	return closed(whole)
}

// schemaOf is a shape as a JSON schema.
func schemaOf(x policy.Shape) *huma.Schema {
	s := &huma.Schema{Type: x.Type, Description: x.Doc}
	for _, word := range x.Enum {
		s.Enum = append(s.Enum, word)
	}
	switch x.Type {
	case "integer":
		least, most := float64(x.Min), float64(x.Max)
		s.Minimum, s.Maximum = &least, &most
	case "array":
		s.Items = closed(&huma.Schema{Type: "string", Description: x.Items})
		if x.Fields != nil {
			s.Items = schemaOf(policy.Shape{Type: "object", Fields: x.Fields})
			s.Items.Required = slices.Sorted(maps.Keys(x.Fields))
			s.Items = closed(s.Items)
		}
	case "object":
		s.AdditionalProperties, s.Properties = false, map[string]*huma.Schema{}
		for name, f := range x.Fields {
			s.Properties[name] = schemaOf(f)
		}
	}
	return closed(s)
}

// closed prepares a hand-made schema for validation.
func closed(s *huma.Schema) *huma.Schema {
	s.PrecomputeMessages()
	return s
}

// PolicyBody is a policy object as an administrator writes it. The answer to a GET can be sent back.
type PolicyBody struct{}

// Schema describes it.
func (PolicyBody) Schema(r huma.Registry) *huma.Schema { return writable(r, "name", "policy_data") }

// PolicyPatch is the same for an update: a given section replaces that section, the rest stays.
type PolicyPatch struct{}

// Schema describes it.
func (PolicyPatch) Schema(r huma.Registry) *huma.Schema { return writable(r) }

// fromTemplateBody is a policy object; a template supplies what is left out.
type fromTemplateBody struct {
	TemplateID     string          `json:"template_id" minLength:"1" maxLength:"64"`
	Customizations json.RawMessage `json:"customizations,omitempty"`
}

// TransformSchema adds the fields of the policy object that do not come from the template alone.
func (fromTemplateBody) TransformSchema(r huma.Registry, s *huma.Schema) *huma.Schema {
	data := policyData{}.Schema(r)
	data.Description = "laid over the template, setting by setting"
	s.Properties["customizations"] = data
	object := writable(r)
	for _, name := range []string{"name", "description", "organization_id", "compliance", "section_compliance"} {
		s.Properties[name] = object.Properties[name]
	}
	mode := *object.Properties["compliance"]
	mode.Description = "monitor where it is absent or null, whatever the template is made for"
	s.Properties["compliance"] = &mode
	s.Required = []string{"template_id", "name"}
	return closed(s)
}

// candidateBody is a document for what-if.
type candidateBody struct{}

// Schema describes it.
func (candidateBody) Schema(r huma.Registry) *huma.Schema { return writable(r, "policy_data") }

// TransformSchema describes the fields that are kept as written.
func (policyView) TransformSchema(r huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["compliance"] = modeText("").Schema(r)
	s.Properties["section_compliance"] = sectionModes{}.Schema(r)
	s.Properties["policy_data"] = policyData{}.Schema(r)
	return closed(s)
}

// writable is the schema of the policy object as a body: only some fields are required, and the server's own are
// ignored.
func writable(r huma.Registry, required ...string) *huma.Schema {
	s := *huma.SchemaFromType(r, reflect.TypeFor[policyView]())
	s.Required = required
	s.Properties = maps.Clone(s.Properties)
	for name, p := range s.Properties {
		own := *p
		own.ReadOnly = slices.Contains(servers, name)
		s.Properties[name] = &own
	}
	return closed(&s)
}

// servers are the fields of a policy object that the server writes.
var servers = []string{"id", "device_count", "created_at", "updated_at", "rollout", "source", "source_report"}
