package usb

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Carries returns the line that lets a disk be used although storage.external_storage_allowed is false: an exception for its USB
// device, or a whitelist entry that pins its serial. ok is false if there is none.
func (r *Rules) Carries(p *fact.Plugged, serial string) (rule enforce.Rule, ok bool) {
	u := &fact.USB{Vendor: p.Vendor, Product: p.Product, Serial: serial}
	if n := r.excepted(u); n > 0 {
		return enforce.Rule{Setting: settingException, Line: lineException, Entry: n}, true
	}
	if n, pinned := r.whitelisted(u); pinned {
		return enforce.Rule{Setting: settingWhitelist, Line: lineWhitelist, Entry: n}, true
	}
	return enforce.Rule{}, false
}

// Entry is the whitelist entry of such a line, as it stands in the policy.
func (r *Rules) Entry(rule enforce.Rule) string { return r.entry(rule) }
