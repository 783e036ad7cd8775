package api

import (
	"encoding/json"

	"github.com/danielgtaylor/huma/v2"
)

// What follows describes the policy document for the OpenAPI page. The decoder in enforce/policy is
// what decides; a test holds the two lists of settings against each other.

type modeText string

// Schema describes a compliance mode.
func (modeText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: "string", Enum: []any{"enforce", "warn", "monitor"}, Description: "enforce: act and report; warn: tell the user and report; monitor: report"}
}

type sectionModes map[string]modeText

// Schema describes modes by section.
func (sectionModes) Schema(r huma.Registry) *huma.Schema {
	s := &huma.Schema{Type: "object", Properties: map[string]*huma.Schema{}, AdditionalProperties: false, Description: "modes of single sections"}
	for _, name := range []string{"dlp", "network", "usb", "storage"} {
		s.Properties[name] = modeText("").Schema(r)
	}
	return closed(s)
}

// policyData is policy_data as it was written.
type policyData struct{ raw json.RawMessage }

// MarshalJSON writes it as it is.
func (d policyData) MarshalJSON() ([]byte, error) {
	if d.raw == nil {
		return []byte("{}"), nil
	}
	return d.raw, nil
}

// UnmarshalJSON keeps it as it came.
func (d *policyData) UnmarshalJSON(b []byte) error {
	d.raw = append(json.RawMessage(nil), b...)
	return nil
}

// Schema describes the four sections.
func (policyData) Schema(huma.Registry) *huma.Schema {
	flag := func(doc string) *huma.Schema { return &huma.Schema{Type: "boolean", Description: doc} }
	texts := func(doc string) *huma.Schema {
		return &huma.Schema{Type: "array", Items: &huma.Schema{Type: "string"}, Description: doc}
	}
	one, most := 0.0, float64(1<<40)
	section := func(doc string, p map[string]*huma.Schema) *huma.Schema {
		return closed(&huma.Schema{Type: "object", Properties: p, AdditionalProperties: false, Description: doc})
	}
	zone := section("who belongs to it", map[string]*huma.Schema{"users": texts("user names"), "slices": texts("systemd slices and scopes"), "executables": texts("signed programs, by path")})
	return closed(&huma.Schema{Type: "object", AdditionalProperties: false, Description: "what devices are to hold; an absent setting is unmanaged", Properties: map[string]*huma.Schema{
		"dlp": section("data loss prevention", map[string]*huma.Schema{
			"clipboard_sharing":       flag("allow the clipboard between work and personal"),
			"clipboard_direction":     {Type: "string", Enum: []any{"none", "work_to_personal", "personal_to_work", "both"}},
			"screenshot_allowed":      flag("allow screenshots"),
			"print_allowed":           flag("allow printing"),
			"sensitive_data_patterns": texts("RE2 expressions"),
			"zones":                   section("who is work and who is personal", map[string]*huma.Schema{"work": zone, "personal": zone}),
		}),
		"network": section("network and VPN", map[string]*huma.Schema{
			"vpn_required":    flag("all traffic needs the VPN"),
			"vpn_always_on":   flag("nothing passes while the VPN is down"),
			"allowed_domains": texts("name, *.name, =name, address or CIDR"),
			"blocked_domains": texts("name, *.name, =name, address or CIDR"),
			"split_tunnel":    flag("routes beside the tunnel are allowed"),
			"vpn": section("the tunnel that counts", map[string]*huma.Schema{"interface": {Type: "string"}, "peer": {Type: "string"}, "gateway": {Type: "string"},
				"endpoints": texts("host or address, with :port or without"), "bootstrap_domains": texts("reachable before the VPN is up")}),
		}),
		"usb": section("USB device control", map[string]*huma.Schema{
			"allowed":         flag("allow any USB device"),
			"whitelist":       texts("vendor:product, vendor:* or vendor:product:SERIAL"),
			"allowed_classes": texts("hid, audio, mass_storage, … or two hex digits"),
			"audit_only":      flag("log and do not block"),
		}),
		"storage": section("storage", map[string]*huma.Schema{
			"encryption_required":      flag("disks must be encrypted"),
			"external_storage_allowed": flag("allow sticks, cards and phones"),
			"cloud_sync_allowed":       flag("allow cloud storage clients"),
			"max_file_size_mb":         {Type: "integer", Minimum: &one, Maximum: &most, Description: "largest file on external storage, MiB"},
		}),
	}})
}

// closed prepares a schema made by hand for validation.
func closed(s *huma.Schema) *huma.Schema {
	s.PrecomputeMessages()
	return s
}

// PolicyBody is a policy object as an administrator writes it. What GET answers can be sent back.
type PolicyBody struct {
	ID           string       `json:"id,omitempty" readOnly:"true"`
	Organization string       `json:"organization_id,omitempty"`
	Name         string       `json:"name"`
	Description  string       `json:"description,omitempty"`
	Compliance   modeText     `json:"compliance,omitempty"`
	Sections     sectionModes `json:"section_compliance,omitempty"`
	Data         policyData   `json:"policy_data"`
	Version      int          `json:"version,omitempty" doc:"the version that was read: another one since is 409"`
	Active       bool         `json:"active,omitempty"`
	Devices      int          `json:"device_count,omitempty" readOnly:"true"`
	CreatedAt    string       `json:"created_at,omitempty" readOnly:"true"`
	UpdatedAt    string       `json:"updated_at,omitempty" readOnly:"true"`
}

// PolicyPatch is the same for an update: a section given replaces that section, the rest stays.
type PolicyPatch struct {
	PolicyBody
	Name string     `json:"name,omitempty"`
	Data policyData `json:"policy_data,omitempty"`
}

// candidateBody is a document to ask about.
type candidateBody struct {
	PolicyBody
	Name string `json:"name,omitempty"`
}
