package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// ParseSubject reads what somebody asks about: a name, an address, or an address with a port.
func ParseSubject(s string) (Subject, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return Subject{Address: ap.Addr().Unmap(), Port: ap.Port()}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		return Subject{Address: a.Unmap()}, nil
	}
	host := s
	if h, port, ok := strings.Cut(s, ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return Subject{}, fmt.Errorf("port %q must be a number from 1 to 65535", port)
		}
		host = h
	}
	n, err := policy.ParseName(host)
	if err != nil || n.Host == "" || n.Scope != policy.Subtree {
		return Subject{}, fmt.Errorf("%q must be a domain name, an address, or an address with a port", s)
	}
	return Subject{Name: n.Host}, nil
}

// Explain answers for a name or an address, which need not have been looked up.
func (r *Rules) Explain(subject json.RawMessage, _ *fact.Machine) (section.Answer, error) {
	var in Subject
	if err := json.Unmarshal(subject, &in); err != nil {
		return section.Answer{}, fmt.Errorf("the subject cannot be read: %w", err)
	}
	if in.Name != "" {
		got, err := ParseSubject(in.Name)
		if err != nil {
			return section.Answer{}, err
		}
		if got.Name == "" {
			return section.Answer{}, fmt.Errorf("name: %q is an address", in.Name)
		}
		in = got
	} else if !in.Address.IsValid() {
		return section.Answer{}, fmt.Errorf("a name or an address is needed")
	}
	return r.ask(&in), nil
}

// ask explains one subject.
func (r *Rules) ask(s *Subject) section.Answer {
	v := r.Judge(s)
	a := section.Answer{Answer: section.Allow, Subject: s.String(), Group: s.String()}
	switch {
	case !v.Allow:
		a.Answer = section.Deny
	case v.WouldDeny:
		a.Answer = section.WouldDeny
	}
	a.Reason, a.Nearest = r.Reason(v, s)
	return a
}

// Replay answers for the name or address of an event.
func (r *Rules) Replay(facts enforce.Facts) (section.Answer, bool) {
	var s Subject
	if facts == "" || json.Unmarshal([]byte(facts), &s) != nil || s.Name == "" && !s.Address.IsValid() {
		return section.Answer{}, false
	}
	return r.ask(&s), true
}

// Present answers for nothing: what a machine will look up is not in a snapshot.
func (r *Rules) Present() []section.Answer { return nil }

// Reason renders a verdict: why, and the smallest change to the policy that would reverse it.
func (r *Rules) Reason(v enforce.Verdict, s *Subject) (reason, nearest string) {
	rule, deny := v.Rule, !v.Allow
	prefix := ""
	if v.WouldDeny {
		rule, deny = v.Would, true
		prefix = "would be refused in enforce mode ("
		if c := r.machine.Can(string(rule.Setting)); c.Level == fact.Unsupported {
			prefix += c.Limit
		} else {
			prefix += fmt.Sprintf("%s is in %s mode", rule.Setting, v.WouldMode)
		}
		prefix += "): "
	}
	return prefix + r.sentence(rule, s, deny), r.nearest(rule, s, deny)
}

// sentence says which rule decided, and by which entry.
func (r *Rules) sentence(rule enforce.Rule, s *Subject, deny bool) string {
	switch rule.Line {
	case lineEssential:
		for _, e := range r.essential {
			if covers(e.name, s) {
				return "it can always be reached: " + e.why
			}
		}
	case lineMatch:
		list, verb := r.doc.Network.AllowedDomains.V, "allows"
		if deny {
			list, verb = r.doc.Network.BlockedDomains.V, "blocks"
		}
		if i := longest(list, s); i >= 0 {
			return fmt.Sprintf("%s[%d] %s %s", rule.Setting, i, verb, list[i])
		}
	case lineRest:
		if deny {
			return "no entry of network.allowed_domains covers it"
		}
		if r.doc.Network.BlockedDomains.Set {
			return "no entry of network.blocked_domains covers it"
		}
	}
	return "nothing in the policy is about it"
}

// nearest is the smallest change to the policy that would reverse a rule's answer; "" if there is none.
func (r *Rules) nearest(rule enforce.Rule, s *Subject, deny bool) string {
	own := s.Name
	if own == "" {
		own = s.Address.String()
	}
	switch {
	case rule.Line == lineEssential:
		return ""
	case rule.Line == lineMatch && deny:
		list := r.doc.Network.BlockedDomains.V
		if i := longest(list, s); i >= 0 && (list[i].Host == s.Name && s.Name != "" || list[i].Net.IsSingleIP()) {
			text := fmt.Sprintf("remove %q from network.blocked_domains", list[i])
			if a := r.doc.Network.AllowedDomains; a.Set && longest(a.V, s) < 0 {
				text += fmt.Sprintf(", and add %q to network.allowed_domains", own)
			}
			return text
		}
		return fmt.Sprintf("add %q to network.allowed_domains: the longer entry wins%s", own, r.opens())
	case deny:
		return fmt.Sprintf("add %q to network.allowed_domains", own)
	}
	return fmt.Sprintf("add %q to network.blocked_domains", own)
}

// opens warns that a first entry of allowed_domains would refuse everything else.
func (r *Rules) opens() string {
	if r.doc.Network.AllowedDomains.Set {
		return ""
	}
	return " (as its only entry it would refuse everything else)"
}

// longest is the place of the longest entry of a list that covers a subject; -1 if none does.
func longest(list []policy.Name, s *Subject) int {
	best, at := -1, -1
	for i, n := range list {
		if !covers(n, s) {
			continue
		}
		how := n.Net.Bits()
		if n.Host != "" {
			how, _ = n.Matches(s.Name)
		}
		if how > best {
			best, at = how, i
		}
	}
	return at
}

// covers reports whether an entry is about a subject.
func covers(n policy.Name, s *Subject) bool {
	if n.Net.IsValid() {
		return s.Name == "" && n.Net.Contains(s.Address.Unmap())
	}
	if s.Name == "" {
		return false
	}
	_, ok := n.Matches(s.Name)
	return ok
}
