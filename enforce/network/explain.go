package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// ParseSubject reads what somebody asks about: a name, an address, or an address with a port.
func ParseSubject(s string) (Subject, error) {
	wrong := fmt.Errorf("%q must be a domain name, an address, or an address with a port", enforce.Plain(s))
	if strings.ContainsAny(s, "/%@?#") {
		return Subject{}, wrong
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return Subject{Address: ap.Addr().Unmap(), Port: ap.Port()}, nil
	}
	bare := s
	if in, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(in, "]") {
		bare = strings.TrimSuffix(in, "]")
	}
	if a, err := netip.ParseAddr(bare); err == nil {
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
		return Subject{}, wrong
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
	plain(&in)
	return r.ask(&in), nil
}

// ask explains one subject.
func (r *Rules) ask(s *Subject) section.Answer {
	v := r.Judge(s)
	a := section.Answer{Answer: section.Word(v), Subject: text(s), Group: text(s)}
	a.Reason, a.Nearest = r.Reason(v, s)
	rule, deny := v.Rule, !v.Allow
	if v.WouldDeny {
		rule, deny = v.Would, true
	}
	if rule.Line == lineMatch {
		if in, n := r.entryOf(s, deny); in != nil {
			a.Listed = &section.Listed{ListRef: policy.ListRef{ID: in.use.ID, SHA256: in.content.SHA256}, Entry: n.String()}
		}
	}
	return a
}

// Replay answers for the name or address of an event. Facts with any other field are another section's: a USB device has
// a name, too.
func (r *Rules) Replay(facts enforce.Facts) (section.Answer, bool) {
	var s Subject
	strict := json.NewDecoder(strings.NewReader(string(facts)))
	strict.DisallowUnknownFields()
	if strict.Decode(&s) != nil || (s.Name == "") == !s.Address.IsValid() {
		return section.Answer{}, false
	}
	if s.Name != "" {
		if as, err := ParseSubject(s.Name); err != nil || as.Name != s.Name {
			return section.Answer{}, false
		}
	}
	plain(&s)
	return r.ask(&s), true
}

// Present answers for nothing: what a machine will look up is not in a snapshot.
func (r *Rules) Present() []section.Answer { return nil }

// Reason renders a verdict: why, and the smallest change to the policy that would reverse it.
func (r *Rules) Reason(v enforce.Verdict, s *Subject) (reason, nearest string) {
	rule, deny, least := v.Rule, !v.Allow, enforce.Enforce
	prefix := ""
	if v.WouldDeny {
		rule, deny, least = v.Would, true, enforce.Monitor
		prefix = "would be refused in enforce mode ("
		if c := r.machine.Can(string(rule.Setting)); c.Level == fact.Unsupported {
			prefix += c.Limit
		} else {
			prefix += fmt.Sprintf("%s is in %s mode", rule.Setting, v.WouldMode)
		}
		prefix += "): "
	}
	return prefix + r.sentence(rule, s, deny), r.nearest(rule, s, deny, least)
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
	case linePortal:
		return "access to a sign-in page is open, until " + r.doc.Portal.UTC().Format("15:04 UTC")
	case lineException:
		return "an exception for it is in force"
	case lineClient:
		return "storage.cloud_sync_allowed is false, and it serves " + clientOf(s).Name
	case lineResolver:
		return "it is another way to look up names, past the policy"
	case lineMatch:
		list, verb := r.short(deny), "allows"
		if deny {
			verb = "blocks"
		}
		if in, n := r.entryOf(s, deny); in != nil {
			return fmt.Sprintf("list %q of %s %s %s", in.use.ID, in.use.Setting, verb, n)
		}
		if i := longest(list, s); i >= 0 {
			return fmt.Sprintf("%s[%d] %s %s", rule.Setting, i, verb, list[i])
		}
	case lineRest:
		if deny {
			return "no entry of " + r.both(settingAllowed, settingAllowedLists) + " covers it"
		}
		if r.modeBlocked > enforce.Off {
			return "no entry of " + r.both(settingBlocked, settingBlockedLists) + " covers it"
		}
	}
	return "nothing in the policy is about it"
}

// short is the list in the document that blocks or allows.
func (r *Rules) short(blocks bool) []policy.Name {
	if blocks {
		return r.doc.Network.BlockedDomains.V
	}
	return r.doc.Network.AllowedDomains.V
}

// entryOf is the entry of a long list that decides about a subject, and its list; nil if a short one does.
func (r *Rules) entryOf(s *Subject, deny bool) (*longList, policy.Name) {
	in, n, how := r.longest(s, !deny)
	list := r.short(deny)
	if i := longest(list, s); i >= 0 && specific(list[i], s) >= how {
		return nil, n
	}
	return in, n
}

// both names those of two settings that the policy has.
func (r *Rules) both(short, long enforce.Setting) string {
	switch {
	case r.doc.Mode(long) == enforce.Off:
		return string(short)
	case r.doc.Mode(short) == enforce.Off:
		return string(long)
	}
	return string(short) + " and " + string(long)
}

// nearest is the smallest change to the policy's lists that would reverse the answer, "" if there is none: each candidate
// is tried. Those who may not see everything are only told how to be let in.
func (r *Rules) nearest(rule enforce.Rule, s *Subject, deny bool, least enforce.Mode) string {
	if rule.Line == lineClient {
		return fmt.Sprintf("grant an exception for %q, for a time, or set storage.cloud_sync_allowed to true", policy.ClientSubject+clientOf(s).ID)
	}
	if rule.Line == lineEssential || rule.Line == lineException || rule.Line == linePortal || r.public && !deny {
		return ""
	}
	own := policy.Name{Host: s.Name}
	if s.Name == "" {
		own = policy.Name{Net: netip.PrefixFrom(s.Address, s.Address.BitLen())}
	}
	exact := own
	exact.Scope = policy.Exact
	n := &r.doc.Network
	allowed, blocked := n.AllowedDomains, n.BlockedDomains
	adding := func(o policy.Optional[[]policy.Name], e policy.Name) policy.Optional[[]policy.Name] {
		return policy.Optional[[]policy.Name]{V: append(slices.Clone(o.V), e), Set: true}
	}
	if !deny {
		for _, e := range []policy.Name{own, exact} {
			if !r.lets(s, least, allowed, adding(blocked, e)) {
				return fmt.Sprintf("add %q to network.blocked_domains", e)
			}
		}
		return ""
	}
	if i := longest(blocked.V, s); i >= 0 && (blocked.V[i] == own || blocked.V[i] == exact) {
		less := policy.Optional[[]policy.Name]{V: slices.Delete(slices.Clone(blocked.V), i, i+1), Set: true}
		if r.lets(s, least, allowed, less) {
			return fmt.Sprintf("remove %q from network.blocked_domains", blocked.V[i])
		}
		if r.lets(s, least, adding(allowed, own), less) {
			return fmt.Sprintf("remove %q from network.blocked_domains, and add %q to network.allowed_domains%s", blocked.V[i],
				own, r.opens())
		}
	}
	if in, n, _ := r.longest(s, false); in != nil && (n == own || n == exact) && longest(blocked.V, s) < 0 &&
		!r.lets(s, least, adding(allowed, exact), blocked) {
		return r.takenOut(in, n, s, least)
	}
	for _, e := range []policy.Name{own, exact} {
		if r.lets(s, least, adding(allowed, e), blocked) {
			return fmt.Sprintf("add %q to network.allowed_domains%s", e, r.opens())
		}
	}
	return ""
}

// takenOut proposes to take a name out of the one long list that blocks it: what is left of the lists must not block it.
func (r *Rules) takenOut(in *longList, n policy.Name, s *Subject, least enforce.Mode) string {
	for i := range r.lists.long {
		if l := &r.lists.long[i]; !l.allow {
			if e, ok := l.entry(s.Name); ok && (l != in && e.Host == n.Host) {
				return ""
			}
		}
	}
	flag := flagOf[n.Scope]
	if from, _, _ := in.list.names.match(s.Name, blocks&^flag); from == 0 {
		return "" // it stands there twice, once with all names below it
	}
	out := fmt.Sprintf("take %q out of list %q", n, in.use.ID)
	above := -1
	if _, up, below := strings.Cut(s.Name, "."); below {
		_, _, above = r.longest(&Subject{Name: "\x00." + up}, false) // a name that stands in no list, beside it
	}
	counts := r.modeOf(settingAllowed) >= least // what is allowed
	by, only := -1, false
	if counts {
		_, _, by = r.longest(s, true)
		if i := longest(r.doc.Network.AllowedDomains.V, s); i >= 0 {
			by = max(by, specific(r.doc.Network.AllowedDomains.V[i], s))
		}
		only = r.doc.Network.AllowedDomains.Set || r.doc.Network.AllowedLists.Set
	}
	switch {
	case by < 0 && !only && above < 0 || by > above+1:
		return out
	case !counts:
		return ""
	}
	return out + fmt.Sprintf(", and add %q to network.allowed_domains%s", n.Host, r.opens())
}

// lets reports whether a subject would pass with other lists: what decide says, without compiling them.
func (r *Rules) lets(s *Subject, least enforce.Mode, allowed, blocked policy.Optional[[]policy.Name]) bool {
	in := func(o policy.Optional[[]policy.Name], short, long enforce.Setting) (how int, is bool) {
		how = -1
		if r.doc.Mode(long) != enforce.Off && mode(r.doc, r.machine, long) >= least {
			_, _, how = r.longest(s, long == settingAllowedLists)
			is = true
		}
		if !o.Set || r.modeOf(short) < least {
			return how, is
		}
		if i := longest(o.V, s); i >= 0 {
			how = max(how, specific(o.V[i], s))
		}
		return how, true
	}
	a, only := in(allowed, settingAllowed, settingAllowedLists)
	b, _ := in(blocked, settingBlocked, settingBlockedLists)
	return a > b || a < 0 && b < 0 && !only
}

// modeOf is the mode of a list; of one that is absent, the mode that it would have beside the policy's other settings.
func (r *Rules) modeOf(s enforce.Setting) enforce.Mode {
	if r.doc.Mode(s) != enforce.Off {
		return mode(r.doc, r.machine, s)
	}
	would := enforce.Off
	for _, other := range r.doc.Settings() {
		if m := r.doc.Mode(other); other.Section() == "network" || would == enforce.Off {
			would = m
		}
	}
	if would == enforce.Off {
		would = enforce.Enforce
	}
	if r.machine.Can(string(s)).Level == fact.Unsupported {
		return min(would, enforce.Monitor)
	}
	return would
}

// opens warns that a first entry of allowed_domains would refuse everything else.
func (r *Rules) opens() string {
	if r.doc.Network.AllowedDomains.Set || r.doc.Network.AllowedLists.Set {
		return ""
	}
	return " (as its only entry it would refuse everything else)"
}

// specific is how specifically an entry covers a subject: the greater, the more.
func specific(n policy.Name, s *Subject) int {
	if n.Host == "" {
		return n.Net.Bits()
	}
	how, _ := n.Matches(s.Name)
	return how
}

// longest is the place of the longest entry of a list that covers a subject; -1 if none does.
func longest(list []policy.Name, s *Subject) int {
	best, at := -1, -1
	for i, n := range list {
		if !covers(n, s) {
			continue
		}
		if how := specific(n, s); how > best {
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
