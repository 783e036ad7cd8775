package policy

import (
	"strings"

	"github.com/warderd/warder/enforce"
)

// Merge joins documents setting by setting: the first document that sets a setting wins, together with its mode.
// Sources records where each setting came from. audit_only stays with the usb section that it was written for, because
// decoding has resolved it into that document's modes.
func Merge(docs ...*Document) *Document {
	out := &Document{Active: true, modes: map[enforce.Setting]enforce.Mode{}, Sources: map[enforce.Setting]string{},
		derived: &derived{all: map[string]any{}}}
	var ids, digests []string
	for _, d := range docs {
		ids = append(ids, d.ID)
		digests = append(digests, d.Digest)
	}
	for _, s := range settings {
		for _, d := range docs {
			if m := d.Mode(s.Name); m != enforce.Off {
				s.copy(out, d)
				out.modes[s.Name], out.Sources[s.Name] = m, d.ID
				out.order = append(out.order, s.Name)
				break
			}
		}
	}
	seen := map[enforce.Setting]bool{}
	for _, d := range docs {
		for _, u := range d.Unknown {
			if !seen[u.Setting] {
				seen[u.Setting] = true
				out.Unknown, out.Sources[u.Setting] = append(out.Unknown, u), d.ID
			}
		}
	}
	out.ID = strings.Join(ids, "+")
	out.Digest = digest([]byte(strings.Join(digests, "\n")))
	return out
}
