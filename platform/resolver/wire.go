package resolver

import (
	"encoding/binary"
	"unsafe"

	"github.com/warderd/warder/enforce/fact"
)

// Sizes and numbers of RFC 1035, RFC 6891 and RFC 8914.
const (
	headerLen   = 12
	typeOPT     = 41
	rcodeOK     = 0
	rcodeFormat = 1
	rcodeFail   = 2
	rcodeNoName = 3
	rcodeNot    = 4
	edeBlocked  = 15
	edeNetwork  = 23
	optionEDE   = 15
	// maxExtra bounds the records beside a question: EDNS, and a signature.
	maxExtra = 2
	// ourSize is the largest answer over UDP that we offer (DNS flag day 2020).
	ourSize = 1232
)

// question is a parsed question. It refers to the packet and to a scratch buffer, and is valid as long as they are.
type question struct {
	name         []byte // lower-case, with dots between the labels and none at the end
	qtype, class uint16
	end          int // of the question section
	flags        uint16
	edns, do     bool
	size         int // the largest answer over UDP that the sender takes
	plain        bool
	other        bool             // it is no question but another operation, such as an update
	dest         fact.Destination // to judge it by, so that this costs no allocation
}

// text is the name as a string that is valid as long as the question.
func (q *question) text() string { return unsafe.String(unsafe.SliceData(q.name), len(q.name)) }

// signs reports whether a question is for what a validating resolver has to know of the zones above a name: DS, DNSKEY, NS
// and SOA (RFC 4035). Their answers have no addresses.
func (q *question) signs() bool {
	return q.qtype == 43 || q.qtype == 48 || q.qtype == 2 || q.qtype == 6
}

// parse reads a question. It returns the error code to answer with, and false if nothing should be answered at all.
// plain is set if the question has nothing unusual: then the fast path may answer it.
func (q *question) parse(p []byte, scratch *[256]byte) (rcode uint16, answer bool) {
	if len(p) < headerLen {
		return 0, false
	}
	q.flags = binary.BigEndian.Uint16(p[2:])
	if q.flags&0x8000 != 0 {
		return 0, false // an answer
	}
	q.end, q.edns, q.do, q.size, q.plain, q.name = headerLen, false, false, 512, false, nil
	counts := [4]uint16{}
	for i := range counts {
		counts[i] = binary.BigEndian.Uint16(p[4+2*i:])
	}
	q.other = q.flags>>11&0xf != 0
	if counts[0] != 1 || !q.other && (counts[1] != 0 || counts[2] != 0) || counts[3] > maxExtra {
		return rcodeFormat, true
	}
	at, n := headerLen, 0
	for {
		if at >= len(p) {
			return rcodeFormat, true
		}
		l := int(p[at])
		at++
		if l == 0 {
			break
		}
		if l > 63 || at+l > len(p) || n+l+1 > 254 {
			return rcodeFormat, true // a pointer has no place in a question
		}
		if n > 0 {
			scratch[n] = '.'
			n++
		}
		for _, c := range p[at : at+l] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			if c == '.' || c == 0 {
				return rcodeFormat, true // it would look like another name
			}
			scratch[n] = c
			n++
		}
		at += l
	}
	if at+4 > len(p) {
		return rcodeFormat, true
	}
	q.name, q.qtype, q.class = scratch[:n], binary.BigEndian.Uint16(p[at:]), binary.BigEndian.Uint16(p[at+2:])
	q.end = at + 4
	if q.other {
		return rcodeOK, true
	}
	if counts[3] == 0 {
		q.plain = q.end == len(p)
		return rcodeOK, true
	}
	// The first additional record: for the fast path it is an EDNS record at the root, and the only one.
	r := p[q.end:]
	if len(r) < 11 || r[0] != 0 || binary.BigEndian.Uint16(r[1:]) != typeOPT {
		return rcodeOK, true
	}
	q.edns, q.do = true, r[7]&0x80 != 0
	q.size = max(512, int(binary.BigEndian.Uint16(r[3:])))
	q.plain = counts[3] == 1 && r[6] == 0 && binary.BigEndian.Uint16(r[9:]) == 0 && len(r) == 11
	return rcodeOK, true
}

// reply writes an answer without records to out, with an extended error if the sender knows EDNS and code is not 0. The
// packet is the question as it came.
func (q *question) reply(out, p []byte, rcode, code uint16, text string) []byte {
	end := q.end
	n := append(out[:0], p[:min(end, len(p))]...)
	if end == headerLen {
		binary.BigEndian.PutUint16(n[4:], 0)
	}
	// QR, the question's opcode, RD and CD as they came, RA.
	binary.BigEndian.PutUint16(n[2:], 0x8000|q.flags&0x7910|0x0080|rcode)
	binary.BigEndian.PutUint16(n[6:], 0)
	binary.BigEndian.PutUint16(n[8:], 0)
	binary.BigEndian.PutUint16(n[10:], 0)
	if !q.edns {
		return n
	}
	binary.BigEndian.PutUint16(n[10:], 1)
	do := byte(0)
	if q.do {
		do = 0x80
	}
	n = append(n, 0, 0, typeOPT, ourSize>>8, ourSize&0xff, 0, 0, do, 0)
	if code == 0 {
		return append(n, 0, 0)
	}
	if most := 512 - len(n) - 8; len(text) > most {
		text = text[:max(most, 0)]
	}
	n = binary.BigEndian.AppendUint16(n, uint16(6+len(text))) //nolint:gosec // bounded above
	n = binary.BigEndian.AppendUint16(n, optionEDE)
	n = binary.BigEndian.AppendUint16(n, uint16(2+len(text))) //nolint:gosec // as above
	n = binary.BigEndian.AppendUint16(n, code)
	return append(n, text...)
}

// ttls finds where the times of a message's records are, EDNS's excepted. false if it cannot be walked.
func ttls(p []byte) (at []uint16, ok bool) {
	if len(p) < headerLen || len(p) > 1<<16-1 {
		return nil, false
	}
	records := 0
	for i := 3; i < 6; i++ {
		records += int(binary.BigEndian.Uint16(p[2*i:]))
	}
	i := headerLen
	for range binary.BigEndian.Uint16(p[4:]) {
		if i, ok = skipName(p, i); !ok || i+4 > len(p) {
			return nil, false
		}
		i += 4
	}
	for range records {
		if i, ok = skipName(p, i); !ok || i+10 > len(p) {
			return nil, false
		}
		if binary.BigEndian.Uint16(p[i:]) != typeOPT {
			at = append(at, uint16(i+4)) //nolint:gosec // bounded by the message's length
		}
		if i += 10 + int(binary.BigEndian.Uint16(p[i+8:])); i > len(p) {
			return nil, false
		}
	}
	return at, true
}

// skipName finds the end of a name.
func skipName(p []byte, i int) (int, bool) {
	for i < len(p) {
		switch l := int(p[i]); {
		case l == 0:
			return i + 1, true
		case l >= 0xc0:
			return i + 2, i+2 <= len(p)
		case l > 63:
			return 0, false
		default:
			i += 1 + l
		}
	}
	return 0, false
}
