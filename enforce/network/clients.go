package network

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// refusesClients reports whether a policy refuses sync clients (storage.cloud_sync_allowed), in some mode.
func refusesClients(d *policy.Document) bool {
	s := d.Storage.CloudSyncAllowed
	return s.Set && !s.V && d.Mode(settingClients) > enforce.Off
}

// clientsOf are the names that serve sync clients which the policy refuses and which have no exception, and the mode in which they are
// refused: no more than what names can be on this machine.
func clientsOf(d *policy.Document, m *fact.Machine) (enforce.Mode, *table) {
	if !refusesClients(d) {
		return enforce.Off, nil
	}
	b := &builder{}
	for i := range fact.Clients {
		c := &fact.Clients[i]
		if excepted(d, c) {
			continue
		}
		for _, s := range c.Domains {
			if n, err := policy.ParseName(s); err == nil { // a test parses all of them
				b.add(n, false)
			}
		}
	}
	t := b.table()
	if t.names == 0 {
		return enforce.Off, nil
	}
	if !m.Can(string(settingBlocked)).Acts() || d.NetworkFree {
		return min(d.Mode(settingClients), enforce.Monitor), t
	}
	return d.Mode(settingClients), t
}

// excepted reports whether an exception lets a client run.
func excepted(d *policy.Document, c *fact.App) bool {
	for _, s := range d.Exceptions["storage"] {
		if s == policy.ClientSubject+c.ID {
			return true
		}
	}
	return false
}

// serves reports whether a name serves a sync client that is refused.
func (r *Rules) serves(s *Subject) bool {
	if r.clients == nil || s.Name == "" {
		return false
	}
	from, _, _ := r.clients.match(s.Name, blocks)
	return from >= 0
}

// clientOf is the client that a name serves.
func clientOf(s *Subject) *fact.App {
	for i := range fact.Clients {
		for _, d := range fact.Clients[i].Domains {
			if n, err := policy.ParseName(d); err == nil && covers(n, s) {
				return &fact.Clients[i]
			}
		}
	}
	return &fact.App{Name: "a sync client"}
}
