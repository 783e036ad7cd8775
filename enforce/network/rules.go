package network

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// The lines of the decision order; the first that answers wins. They are the Line of a Rule.
const (
	lineEssential int32 = iota + 1 // the machine could not be managed without it
	lineMatch                      // the longest entry of both lists that covers it
	lineRest                       // allowed_domains is there, and covers it not; or nothing is managed
	lineException                  // asked after what is essential: a time-boxed exception for this name
	lineResolver                   // asked when no entry covers it: another way to look up names
	linePortal                     // instead of lineRest: the way to a captive portal is open
	lineClient                     // asked after exceptions: a name that serves a sync client which the policy refuses
)

const (
	settingAllowed enforce.Setting = "network.allowed_domains"
	settingBlocked enforce.Setting = "network.blocked_domains"
	// The long lists are judged together with the short ones.
	settingAllowedLists enforce.Setting = "network.allowed_lists"
	settingBlockedLists enforce.Setting = "network.blocked_lists"
	settingVPN          enforce.Setting = "network.vpn"
	// settingClients is another section's: the names of the clients that it refuses are refused with them.
	settingClients enforce.Setting = "storage.cloud_sync_allowed"
	// settingException is not a setting of the document: it is granted beside it.
	settingException enforce.Setting = "network.exception"
)

// Rules is one policy compiled for one machine. It is read-only after Compile.
type Rules struct {
	lists                    *lists
	modeAllowed, modeBlocked enforce.Mode
	modeClients              enforce.Mode
	clients                  *table  // names of sync clients that are refused; nil: none is
	onlyLong                 [2]bool // of those allowed and blocked there are long lists alone
	essential                []essential
	must                     *table        // their names
	aboveMust                func() *table // those above them; made when first asked for
	excepted                 *table        // names with an exception; nil: none
	kill                     string        // the kill switch's mode in enforce mode; "" without one
	exceptedNets             nets
	doc                      *policy.Document
	machine                  *fact.Machine
	public                   bool // for those who may not see what is below enforce
}

// lists are both lists, made once for a document.
type lists struct {
	names layers
	above func() *layers // the names above those that are allowed; made when first asked for
	long  []longList
	nets  nets
	sum   [2]string // of the entries allowed and blocked
}

// Compile prepares a policy for judging.
func Compile(d *policy.Document, m *fact.Machine) *Rules {
	if m == nil {
		m = &fact.Machine{}
	}
	r := &Rules{doc: d, machine: m, essential: essentials(d, m),
		modeAllowed: max(mode(d, m, settingAllowed), mode(d, m, settingAllowedLists)),
		modeBlocked: max(mode(d, m, settingBlocked), mode(d, m, settingBlockedLists))}
	r.modeClients, r.clients = clientsOf(d, m)
	r.kill = switchOf(d, m)
	r.onlyLong = [2]bool{d.Mode(settingAllowed) == enforce.Off, d.Mode(settingBlocked) == enforce.Off}
	r.must = tableOf(r.essential)
	r.aboveMust = sync.OnceValue(func() *table { return aboveOf(hosts(r.essential)) })
	r.except(d.Exceptions["network"])
	r.lists = d.Derived("network.lists", func() any {
		n := &d.Network
		l := &lists{}
		b := &builder{}
		for _, e := range n.AllowedDomains.V {
			b.add(e, true)
			l.nets.add(e, netAllow)
		}
		for _, e := range n.BlockedDomains.V {
			b.add(e, false)
			l.nets.add(e, netBlock)
		}
		l.names.on(b.table(), 0, false)
		l.long = longLists(d)
		for _, x := range l.long {
			if x.list != nil {
				l.names.on(x.list.names, x.shift(), true)
			}
		}
		l.above = sync.OnceValue(func() *layers {
			var out layers
			out.on(aboveOf(n.AllowedDomains.V), 0, false)
			for _, x := range l.long {
				if x.allow && x.list != nil {
					out.on(x.list.above, 0, true)
				}
			}
			return &out
		})
		l.sum = [2]string{sum(n.AllowedDomains.V, l.long, true), sum(n.BlockedDomains.V, l.long, false)}
		return l
	}).(*lists)
	return r
}

// sum stands for the entries of one kind, and for those versions of the long lists that are here.
func sum(list []policy.Name, long []longList, allow bool) string {
	h := sha256.New()
	for _, e := range list {
		_, _ = io.WriteString(h, e.String())
		_, _ = h.Write([]byte{'\n'})
	}
	for _, l := range long {
		if l.allow == allow {
			_, _ = io.WriteString(h, "@"+l.content.SHA256+"\n")
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:8]
}

// aboveOf are the names above those of a list.
func aboveOf(list []policy.Name) *table {
	seen := map[string]bool{}
	b := &builder{}
	for _, e := range list {
		for name := e.Host; ; {
			_, up, ok := strings.Cut(name, ".")
			if !ok || seen[up] {
				break
			}
			seen[up] = true
			b.add(policy.Name{Host: up, Scope: policy.Exact}, true)
			name = up
		}
	}
	return b.table()
}

// Above reports whether a name stands above one that is allowed (the root stands above all), and no entry blocks it.
func (r *Rules) Above(s *Subject) bool {
	if s.Name == "" {
		return true
	}
	if _, block, _ := r.matches(s, false, r.modeBlocked == enforce.Enforce); block {
		return false
	}
	if from, _, _, _ := r.lists.above().match(s.Name, allows); from >= 0 {
		return true
	}
	if strings.Count(s.Name, ".") < 2 && slices.ContainsFunc(r.lists.long, func(l longList) bool { return l.allow && l.list != nil }) {
		return true
	}
	from, _, _ := r.aboveMust().match(s.Name, allows)
	return from >= 0
}

// except adds the exceptions of this machine.
func (r *Rules) except(list []string) {
	b := &builder{}
	for _, s := range list {
		if n, err := policy.ParseName(s); err == nil && s != withoutVPN {
			b.add(n, true)
			r.exceptedNets.add(n, netAllow)
		}
	}
	if len(list) > 0 {
		r.excepted = b.table()
	}
}

// isExcepted reports whether an exception lets a subject pass.
func (r *Rules) isExcepted(s *Subject) bool {
	if r.excepted == nil {
		return false // no exception at all
	}
	if s.Name == "" {
		_, _, found := r.exceptedNets.match(s.Address.Unmap(), netAllow)
		return found
	}
	from, _, _ := r.excepted.match(s.Name, allows)
	return from >= 0
}

// mode is the mode of a setting, at most monitor while nothing on this machine supports it.
func mode(d *policy.Document, m *fact.Machine, s enforce.Setting) enforce.Mode {
	if m.Can(string(s)).Level == fact.Unsupported {
		return min(d.Mode(s), enforce.Monitor)
	}
	return d.Mode(s)
}

// CanDeny reports whether anything can be refused in enforce mode.
func (r *Rules) CanDeny() bool { return r.Judged() || r.kill != "" }

// Judged reports whether any name is refused in enforce mode.
func (r *Rules) Judged() bool { return r.listed() || r.modeClients == enforce.Enforce }

// listed reports whether the lists refuse anything in enforce mode.
func (r *Rules) listed() bool {
	return r.modeAllowed == enforce.Enforce || r.modeBlocked == enforce.Enforce && (len(r.lists.names.list) > 0 || len(r.lists.nets.of) > 0)
}

// Public returns these rules without anything below enforce: what everybody may see.
func (r *Rules) Public() section.Rules {
	c := *r
	c.public = true
	for _, m := range []*enforce.Mode{&c.modeAllowed, &c.modeBlocked, &c.modeClients} {
		if *m < enforce.Enforce {
			*m = enforce.Off
		}
	}
	if mode(r.doc, r.machine, settingVPN) < enforce.Enforce {
		c.essential = slices.DeleteFunc(slices.Clone(r.essential), func(e essential) bool { return e.vpn })
		c.must = tableOf(c.essential)
	}
	return &c
}

// hosts are the names of a list.
func hosts(list []essential) (out []policy.Name) {
	for _, e := range list {
		out = append(out, e.name)
	}
	return out
}

// tableOf is a table of names that are allowed.
func tableOf(list []essential) *table {
	b := &builder{}
	for _, e := range list {
		b.add(e.name, true)
	}
	return b.table()
}

// Subject is what is judged.
type Subject = fact.Destination

// text is the subject for people.
func text(s *Subject) string {
	switch {
	case s.Name != "":
		return enforce.Plain(s.Name)
	case s.Port != 0:
		return netip.AddrPortFrom(s.Address, s.Port).String()
	}
	return s.Address.String()
}

// plain is the subject as it is judged: a link's zone says nothing about an address, nor does its form as IPv6.
func plain(s *Subject) { s.Address = s.Address.WithZone("").Unmap() }

// Names judges what is looked up.
func (r *Rules) Names() enforce.Judge[fact.Destination] { return r }

// Named reports whether a name may be reached because the policy names it, or because it must be reachable, and not only
// because nothing is against it.
func (r *Rules) Named(s *Subject) bool {
	if r.isEssential(s) || r.isExcepted(s) {
		return true
	}
	found, block, _ := r.matches(s, true, true)
	return found && !block
}

// Essential reports whether a name can be reached whatever the lists say, with all that its answer leads to.
func (r *Rules) Essential(s *Subject) bool { return r.isEssential(s) }

// Portal is until when the way to a captive portal is open; zero if it is not.
func (r *Rules) Portal() time.Time { return r.doc.Portal }

// Looked reports whether names have to be looked at: a list is managed in some mode.
func (r *Rules) Looked() bool {
	return r.modeAllowed > enforce.Off || r.modeBlocked > enforce.Off || r.modeClients > enforce.Off
}

// Judge judges a name or an address. Of an address it says what the lists say: whether an allowed name has resolved to
// it, the resolver knows.
func (r *Rules) Judge(s *Subject) enforce.Verdict {
	allow, rule := r.decide(s, enforce.Enforce)
	all, would := allow, rule
	if below(r.modeAllowed) || below(r.modeBlocked) || below(r.modeClients) {
		all, would = r.decide(s, enforce.Monitor)
	}
	v := enforce.Verdict{Allow: allow, Rule: rule, Would: would, WouldDeny: allow && !all}
	switch would.Setting {
	case settingAllowed, settingAllowedLists:
		v.WouldMode = r.modeAllowed
	case settingBlocked, settingBlockedLists:
		v.WouldMode = r.modeBlocked
	case settingClients:
		v.WouldMode = r.modeClients
	}
	return v
}

// below reports whether a setting is judged without being enforced.
func below(m enforce.Mode) bool { return m > enforce.Off && m < enforce.Enforce }

// decide walks the lines whose setting is at least in the given mode.
func (r *Rules) decide(s *Subject, least enforce.Mode) (allow bool, rule enforce.Rule) {
	allowed, blocked := r.modeAllowed >= least, r.modeBlocked >= least
	if r.isEssential(s) {
		return true, enforce.Rule{Line: lineEssential}
	}
	if r.isExcepted(s) {
		return true, enforce.Rule{Setting: settingException, Line: lineException}
	}
	if r.modeClients >= least && r.serves(s) {
		return false, enforce.Rule{Setting: settingClients, Line: lineClient}
	}
	if !allowed && !blocked {
		return true, enforce.Rule{Line: lineRest}
	}
	found, block, long := r.matches(s, allowed, blocked)
	switch {
	case found && block:
		return false, enforce.Rule{Setting: either(long, settingBlocked, settingBlockedLists), Line: lineMatch}
	case found:
		return true, enforce.Rule{Setting: either(long, settingAllowed, settingAllowedLists), Line: lineMatch}
	case r.listed() && isOtherResolver(s):
		rule = enforce.Rule{Setting: either(r.onlyLong[1], settingBlocked, settingBlockedLists), Line: lineResolver}
		if r.modeAllowed == enforce.Enforce {
			rule.Setting = either(r.onlyLong[0], settingAllowed, settingAllowedLists)
		}
		return false, rule
	case allowed && !s.Link && s.Name != "" && !r.doc.Portal.IsZero():
		return true, enforce.Rule{Setting: either(r.onlyLong[0], settingAllowed, settingAllowedLists), Line: linePortal}
	case allowed && !s.Link:
		return false, enforce.Rule{Setting: either(r.onlyLong[0], settingAllowed, settingAllowedLists), Line: lineRest}
	}
	return true, enforce.Rule{Line: lineRest}
}

// either is the setting that a rule is of.
func either(isLong bool, short, long enforce.Setting) enforce.Setting {
	if isLong {
		return long
	}
	return short
}

// isOtherResolver reports whether a name is another way to look up names.
func isOtherResolver(s *Subject) bool {
	if s.Name == "" {
		return false
	}
	from, _, _ := otherNames().match(s.Name, blocks)
	return from >= 0
}

// matches asks the lists; long: it is a long one that answers.
func (r *Rules) matches(s *Subject, allowed, blocked bool) (found, block, long bool) {
	var of uint64
	var ofNets uint8
	if allowed {
		of, ofNets = allows, netAllow
	}
	if blocked {
		of, ofNets = of|blocks, ofNets|netBlock
	}
	if s.Name == "" {
		_, block, found = r.lists.nets.match(s.Address.Unmap(), ofNets)
		return found, block, false
	}
	from, block, _, long := r.lists.names.match(s.Name, of)
	return from >= 0, block, long
}

// isEssential reports whether a subject can be reached whatever the lists say.
func (r *Rules) isEssential(s *Subject) bool {
	if s.Name != "" {
		from, _, _ := r.must.match(s.Name, allows)
		return from >= 0
	}
	for i := range r.essential {
		if n := r.essential[i].name.Net; n.IsValid() && n.Contains(s.Address.Unmap()) {
			return true
		}
	}
	return false
}
