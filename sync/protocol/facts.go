package protocol

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce/fact"
)

// Facts are what a device reports about itself, when it changes: the parts of its snapshot that decisions use, so that
// the server can answer what-if with the same code, and its state.
type Facts struct {
	Host Host
	// Parts of the snapshot, each under its own name beside the fields below.
	Parts   map[fact.Part]json.RawMessage
	Capable map[string]fact.Capability
	Unread  map[string]string // what could not be read, and why
	// Latency has histograms in microseconds, as HdrHistogram V2 compressed, in base64. They are not part of the
	// digest: they are sent when something else has changed.
	Latency map[string]string
	Health  []string // problems in words
	Codes   []string // the same as health warnings' codes
	Hold    string
}

// wireFacts are the fields beside the parts.
type wireFacts struct {
	Host    Host                       `json:"host"`
	Capable map[string]fact.Capability `json:"capable,omitempty"`
	Unread  map[string]string          `json:"unread,omitempty"`
	Latency map[string]string          `json:"latency_hdr,omitempty"`
	Health  []string                   `json:"health,omitempty"`
	Codes   []string                   `json:"health_codes,omitempty"`
	Hold    string                     `json:"hold,omitempty"`
}

// FactsOf splits a snapshot into its parts.
func FactsOf(m *fact.Machine) Facts {
	f := Facts{Capable: maps.Clone(m.Capable)}
	// Servers up to 0.3 read capabilities by section.
	for _, s := range slices.Sorted(maps.Keys(m.Capable)) {
		section, _, dotted := strings.Cut(s, ".")
		if _, has := f.Capable[section]; dotted && !has {
			f.Capable[section] = m.Capable[s]
		}
	}
	f.Parts, f.Unread = m.Encode()
	return f
}

// MarshalJSON writes the parts beside the other fields.
func (f Facts) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(wireFacts{f.Host, f.Capable, f.Unread, f.Latency, f.Health, f.Codes, f.Hold})
	if err != nil {
		return nil, err
	}
	var out map[string]json.RawMessage
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, err
	}
	for p, raw := range f.Parts {
		out[string(p)] = raw
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads them. Parts that this version does not know are left out.
func (f *Facts) UnmarshalJSON(b []byte) error {
	var w wireFacts
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	var all map[fact.Part]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	known := map[fact.Part]bool{}
	for _, p := range fact.Parts() {
		known[p] = true
	}
	maps.DeleteFunc(all, func(p fact.Part, raw json.RawMessage) bool { return !known[p] || string(raw) == "null" })
	*f = Facts{w.Host, all, w.Capable, w.Unread, w.Latency, w.Health, w.Codes, w.Hold}
	return nil
}

// Machine is what a device reported, in the form for decisions.
func (f *Facts) Machine() (fact.Machine, error) { return f.MachineBy(json.Unmarshal) }

// MachineBy is Machine with another reader of JSON.
func (f *Facts) MachineBy(read fact.Reader) (fact.Machine, error) {
	m := fact.Machine{Capable: f.Capable}
	// Agents up to 0.3 reported capabilities by section, and enforced this one storage setting by USB.
	const external = "storage.external_storage_allowed"
	if c, has := f.Capable["usb"]; has && !slices.ContainsFunc(slices.Collect(maps.Keys(f.Capable)),
		func(s string) bool { return strings.Contains(s, ".") }) {
		m.Capable = maps.Clone(f.Capable)
		if c.Level == fact.Enforced {
			c = fact.Capability{Level: fact.Partial, Limit: "USB only"}
		}
		m.Capable[external] = c
	}
	return m, m.Decode(f.Parts, f.Unread, read)
}
