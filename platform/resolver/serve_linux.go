package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/link"
)

// Time-outs of a question to a server. Programs ask again by themselves after some seconds.
const (
	udpWait = 2 * time.Second
	tcpWait = 5 * time.Second
	maxUDP  = 4096 // bytes of an answer over UDP
	// maxServers bounds how many servers are asked one question, one after the other.
	maxServers = 3
	// essentialFor is how long the addresses of what must always be reachable are admitted: time is asked of one address for
	// hours.
	essentialFor = 24 * time.Hour
)

// serve answers a question that the fast path does not: it asks the server, and judges what comes back.
func (r *Resolver) serve(ctx context.Context, p []byte, from netip.AddrPort, tcp bool) []byte {
	var scratch [256]byte
	var q question
	rcode, answer := q.parse(p, &scratch)
	if !answer {
		return nil
	}
	s := r.now.Load()
	if s == nil {
		return r.local(p, &q, r.left()) // no rules yet: whoever asks will ask again
	}
	if rcode != rcodeOK {
		return q.reply(nil, p, rcode, 0, "")
	}
	if q.other {
		return r.pass(ctx, p, &q, s, from, tcp)
	}
	if isLocal(q.text()) {
		return r.local(p, &q, s.reach.Names)
	}
	if out := r.refuse(nil, p, &q, s); out != nil {
		return out
	}
	servers := r.servers(s, from, tcp)
	if len(servers) == 0 {
		return q.reply(nil, p, rcodeFail, edeNetwork, "this machine has no name server that can be asked past its own")
	}
	most := 65535
	if !tcp {
		most = min(q.size, maxUDP)
	}
	key := q.key(nil, servers[0])
	if q.plain { // an option, such as a client's subnet, may make the answer another
		if out := r.cache.get(nil, p, &q, key, most, time.Now()); out != nil {
			return out
		}
	}
	if !slices.Contains(r.usual(), servers[0]) {
		// A server of somebody's choice may be silent; it must not take all places.
		select {
		case r.foreign <- struct{}{}:
			defer func() { <-r.foreign }()
		default:
			r.count("dropped")
			return q.reply(nil, p, rcodeFail, 0, "")
		}
	}
	var got []byte
	var m dns.Msg
	var err error
	cut := false
	for _, server := range servers[:min(len(servers), maxServers)] {
		got, err = r.exchange(ctx, server, p, &q, tcp)
		cut = err == nil && got[2]&2 != 0 // truncated, perhaps in the middle of a record
		if err == nil && !cut {
			if err = r.unpack(&m, got); err == nil {
				err = unusable(&m)
			}
		}
		r.asked(server, err)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		r.count("failed")
		return q.reply(nil, p, rcodeFail, edeNetwork, clip(err.Error()))
	}
	if cut {
		if tcp {
			return q.reply(nil, p, rcodeFail, 0, "")
		}
		out := q.reply(nil, p, rcodeOK, 0, "") // without its records, which nobody has judged; the program asks again over TCP
		out[2] |= 2
		return out
	}
	name := string(q.name)
	by, essential := s.judge, s.rules.Essential(&fact.Destination{Name: name})
	if essential {
		by = anything{} // whatever the name of the policy server leads to can be reached, too
	}
	j := judge(&m, name, by, !s.reach.Only, func() bool { return !s.portal.IsZero() || r.mayBePrivate(s, name) })
	for i := range j.admit {
		if essential {
			j.admit[i].For = essentialFor
		}
	}
	if !s.portal.IsZero() && !s.rules.Named(&fact.Destination{Name: name}) { // it is allowed for the portal alone
		left := time.Until(s.portal)
		for i := range j.admit {
			j.admit[i].For = max(min(j.admit[i].For, left), time.Second)
		}
		j.life = min(j.life, left)
	}
	if j.refused != nil {
		if !r.told.enough(j.refused.Name, false, time.Now()) {
			r.refused(s, *j.refused, j.verdict, name)
		}
		return q.reply(nil, p, rcodeNoName, edeBlocked, s.words(&j.verdict))
	}
	if j.private {
		r.count("private")
	}
	out := got
	if !j.unchanged {
		m.Compress, m.AuthenticatedData = true, false // what is left is not what was validated
		if out, err = m.Pack(); err != nil {
			return q.reply(nil, p, rcodeFail, 0, "")
		}
	}
	current, err := r.admit(s, j.admit)
	if err != nil {
		r.Log.Warn("cannot admit what a name resolved to", "error", err)
		return q.reply(nil, p, rcodeFail, edeNetwork, "the firewall did not take the address")
	}
	if !current {
		return r.serve(ctx, p, from, tcp) // other rules came meanwhile
	}
	if q.plain {
		r.cache.put(key, out, j.life, time.Now())
	}
	if len(out) > most {
		m.Truncate(most)
		if out, err = m.Pack(); err != nil {
			return q.reply(nil, p, rcodeFail, 0, "")
		}
	}
	return out
}

// admit lets the addresses of an answer be reached, if the rules by which it was judged are still in force.
func (r *Resolver) admit(s *standing, list []platform.Admission) (current bool, err error) {
	r.changing.RLock()
	defer r.changing.RUnlock()
	if r.now.Load() != s {
		return false, nil
	}
	if s.reach.Only && len(list) > 0 {
		r.remember(list)
		err = r.Admit(list)
	}
	return true, err
}

// unpack reads an answer. Long ones can expand a hundredfold, so few are read at a time.
func (r *Resolver) unpack(m *dns.Msg, got []byte) error {
	if len(got) > 4096 {
		r.large <- struct{}{}
		defer func() { <-r.large }()
	}
	return m.Unpack(got)
}

// anything allows everything.
type anything struct{}

func (anything) Judge(*fact.Destination) enforce.Verdict { return enforce.Verdict{Allow: true} }

func (anything) Reason(enforce.Verdict, *fact.Destination) (reason, nearest string) { return "", "" }

// clip shortens an error for an answer.
func clip(s string) string { return s[:min(len(s), 100)] }

// unusable says why an answer cannot be passed on.
func unusable(m *dns.Msg) error {
	if len(m.Answer) > 4096 {
		return fmt.Errorf("the answer has %d records", len(m.Answer))
	}
	return nil
}

// local answers what is never asked of a server: the proof that questions reach this resolver, and this machine's own
// name (RFC 6761). nil: ask.
func (r *Resolver) local(p []byte, q *question, lists string) []byte {
	name := string(q.name) + "."
	var m dns.Msg
	switch {
	case strings.HasSuffix(name, link.ProofDomain):
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET},
			Txt: []string{link.ProofText(name, lists)}}}
	case name == "localhost." || strings.HasSuffix(name, ".localhost."):
		switch q.qtype {
		case dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		case dns.TypeAAAA:
			m.Answer = []dns.RR{&dns.AAAA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET}, AAAA: net.IPv6loopback}}
		}
	default:
		return nil
	}
	m.Id, m.Response, m.RecursionAvailable = binary.BigEndian.Uint16(p), true, true
	m.RecursionDesired = q.flags&0x100 != 0
	m.Question = []dns.Question{{Name: name, Qtype: q.qtype, Qclass: q.class}}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	if len(out) >= q.end {
		copy(out[headerLen:q.end], p[headerLen:q.end]) // as it was written
	}
	return out
}

// pass passes on an update of a machine's name in its domain (RFC 2136), if it is meant for one of the machine's own
// servers and the domain is not refused. Any other operation is not supported: a server may answer it as if it were a
// question.
func (r *Resolver) pass(ctx context.Context, p []byte, q *question, s *standing, from netip.AddrPort, tcp bool) []byte {
	to, ok := r.meant(from, tcp)
	if !ok || q.flags>>11&0xf != dns.OpcodeUpdate || !slices.Contains(r.usual(), to) {
		return q.reply(nil, p, rcodeNot, 0, "")
	}
	if out := r.refuse(nil, p, q, s); out != nil {
		return out
	}
	got, err := r.exchange(ctx, to, p, q, tcp)
	r.asked(to, err)
	if err != nil {
		return q.reply(nil, p, rcodeFail, 0, "")
	}
	return got
}

// servers are whom a question is passed on to. That is the server that it was meant for, if it is one of the machine's own.
// With allowed_domains it is never another one: whoever chooses the server chooses the addresses that an allowed name has,
// and so what can be reached. A question that was sent to us goes to the machine's own.
func (r *Resolver) servers(s *standing, from netip.AddrPort, tcp bool) []netip.AddrPort {
	to, ok := r.meant(from, tcp)
	usual := r.usual()
	if !ok {
		return usual
	}
	if slices.Contains(usual, to) {
		return []netip.AddrPort{to}
	}
	if s.reach.Only || !s.judge.Judge(&fact.Destination{Address: to.Addr()}).Allow {
		return usual
	}
	return []netip.AddrPort{to}
}

// meant is the server that a question was sent to; false if it was sent to us. A link-local server is on the link that the
// question came from, or, if that has a global address, on the one that the machine's list names.
func (r *Resolver) meant(from netip.AddrPort, tcp bool) (netip.AddrPort, bool) {
	if from.Addr().IsLoopback() {
		return netip.AddrPort{}, false
	}
	proto := uint8(unix.IPPROTO_UDP)
	if tcp {
		proto = unix.IPPROTO_TCP
	}
	to, ok := r.Asked(proto, netip.AddrPortFrom(from.Addr().WithZone(""), from.Port()))
	if ok && to.Addr().Is6() && to.Addr().IsLinkLocalUnicast() {
		zone := from.Addr().Zone()
		for _, u := range r.usual() {
			if zone == "" && u.Addr().WithZone("") == to.Addr() {
				zone = u.Addr().Zone()
			}
		}
		to = netip.AddrPortFrom(to.Addr().WithZone(zone), to.Port())
	}
	return to, ok
}

// usual are the servers in the machine's configuration, read anew after a few seconds.
func (r *Resolver) usual() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.looked) > lookAgain {
		r.known, r.looked = link.Servers(), time.Now()
		r.known = r.known[:min(len(r.known), maxServers*4)]
	}
	return slices.Clone(r.known)
}

// lookAgain is how long the machine's lists of servers and domains are believed.
const lookAgain = 5 * time.Second

// own are the domains of this machine's links, read anew after a few seconds.
func (r *Resolver) own() []string {
	r.asking.Lock() // others wait for the answer that is under way
	defer r.asking.Unlock()
	if time.Since(r.heard) > lookAgain {
		r.domains, r.heard = append(link.Domains(), resolvedDomains()...), time.Now()
	}
	return slices.Clone(r.domains)
}

// isLocal reports whether a name is never asked of a server: one of the firewall's proofs, or this machine's own.
func isLocal(name string) bool {
	return strings.HasSuffix(name, proofs) || name == "localhost" || strings.HasSuffix(name, ".localhost")
}

var proofs = strings.TrimSuffix(link.ProofDomain, ".")

// mayBePrivate reports whether a name may have private addresses: it is local by its form, below a domain of one of the
// machine's links, or the policy names it.
func (r *Resolver) mayBePrivate(s *standing, name string) bool {
	return !strings.Contains(name, ".") || below(name, localNames) || s.rules.Named(&fact.Destination{Name: name}) || below(name, r.own())
}

// exchange asks one server, past our own rules, with a number and a port of its own for each question. What does not
// answer this very question is not listened to.
func (r *Resolver) exchange(ctx context.Context, server netip.AddrPort, p []byte, q *question, tcp bool) ([]byte, error) {
	id, ask := dns.Id(), slices.Clone(p)
	binary.BigEndian.PutUint16(ask, id)
	if q.plain && q.size > maxUDP {
		binary.BigEndian.PutUint16(ask[q.end+3:], maxUDP)
	}
	mine := func(got []byte) bool {
		if len(got) == headerLen && binary.BigEndian.Uint16(got) == id && got[2]&0x80 != 0 && got[3]&0xf != 0 {
			return true // an error, from a server that does not repeat the question with it
		}
		return len(got) >= q.end && binary.BigEndian.Uint16(got) == id && got[2]&0x80 != 0 && got[4] == 0 && got[5] == 1 &&
			strings.EqualFold(string(got[headerLen:q.end]), string(p[headerLen:q.end]))
	}
	back := func(got []byte) []byte {
		if len(got) < q.end {
			return q.reply(nil, p, uint16(got[3]&0xf), 0, "")
		}
		copy(got, p[:2])
		copy(got[headerLen:q.end], p[headerLen:q.end])
		return got
	}
	if tcp {
		c, err := link.Asks(tcpWait).DialContext(ctx, "tcp", server.String())
		if err != nil {
			return nil, err
		}
		defer c.Close()
		defer r.forget(unix.IPPROTO_TCP, c)
		defer context.AfterFunc(ctx, func() { _ = c.Close() })()
		_ = c.SetDeadline(time.Now().Add(tcpWait))
		if err := writeTCP(c, ask); err != nil {
			return nil, err
		}
		got, err := readTCP(c)
		if err != nil {
			return nil, err
		}
		if mine(got) {
			return back(got), nil
		}
		return nil, errors.New("the server has answered another question")
	}
	c, err := link.Asks(udpWait).DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer r.forget(unix.IPPROTO_UDP, c)
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_ = c.SetDeadline(time.Now().Add(udpWait))
	if _, err := c.Write(ask); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDP)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if mine(buf[:n]) {
			return back(slices.Clone(buf[:n])), nil
		}
	}
}

// forget makes the kernel forget a connection with a server while its port is still ours. Whether a packet is redirected is
// decided once for a connection: a program that got the port next would pass as we do, for as long as the kernel remembers.
func (r *Resolver) forget(proto uint8, c net.Conn) {
	own, err := netip.ParseAddrPort(c.LocalAddr().String())
	far, errFar := netip.ParseAddrPort(c.RemoteAddr().String())
	if err == nil && errFar == nil && !far.Addr().IsLoopback() {
		r.Forget(proto, own, far)
	}
}

// readTCP reads one message with its length before it (RFC 1035, section 4.2.2).
func readTCP(c net.Conn) ([]byte, error) {
	var l [2]byte
	if _, err := io.ReadFull(c, l[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(l[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

func writeTCP(c net.Conn, b []byte) error {
	if len(b) > 65535 {
		return errors.New("the message is longer than 64 KiB")
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
