package api

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	quick "github.com/segmentio/encoding/json"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// A plain report is one as agents write it: compact, without duplicate names, and storable unchanged. It is read in one
// pass, without copying each part. Every other report is left to receiveStrictly, which gives the same result for a
// plain one (FuzzReceive) and takes five times as long.

// receivePlain reads a plain report; nil if it is not plain.
func receivePlain(body []byte) *received {
	if len(body) > protocol.MaxRequest || !utf8.Valid(body) {
		return nil
	}
	p := plain{body: body, tok: quick.NewTokenizer(body)}
	if !p.read() {
		return nil
	}
	var in received
	if quick.Unmarshal(body, &in.Report) != nil {
		return nil
	}
	in.Agent.Ended, in.Agent.Cut = word(in.Agent.Ended), enforce.Plain(short(in.Agent.Cut))
	in.Policy.Reason = enforce.Plain(in.Policy.Reason)
	in.device, in.events = p.device, p.events
	if in.Findings != nil {
		in.findings = p.findings
	}
	if len(in.events) != len(in.Events) {
		return nil
	}
	return &in
}

// The bounds of a plain report, beside those of any report.
const (
	plainDepth = 16
	plainNames = 64 // in one object
)

// part is the part of a report that a value belongs to.
type part byte

const (
	partOther part = iota
	partDevice
	partFindings
	partEvents
)

var parts = map[string]part{"device": partDevice, "findings": partFindings, "events": partEvents}

// plain is a plain report being read.
type plain struct {
	body  []byte
	tok   *quick.Tokenizer
	at    int // where the token begins
	names [][]byte
	open  []frame
	part  part

	device, findings json.RawMessage
	events           []json.RawMessage
}

// frame is an object or a list that is not finished.
type frame struct {
	object bool
	start  int    // of the text
	names  int    // where its names begin in plain.names
	key    []byte // the last one
	count  int
}

// read reads the tokens.
func (p *plain) read() bool {
	end := 0
	for p.tok.Next() {
		p.at = len(p.body) - p.tok.Remaining() - len(p.tok.Value)
		if p.at != end { // white space, which is not stored
			return false
		}
		end = p.at + len(p.tok.Value)
		if !p.token() {
			return false
		}
	}
	return p.tok.Err == nil && end == len(p.body) && len(p.open) == 0
}

// token reads the next token; false at the end, or if the report is not plain.
func (p *plain) token() bool {
	switch d := p.tok.Delim; {
	case d == ':' || d == ',':
		return true
	case d == '{' || d == '[':
		if !p.value() || len(p.open) >= plainDepth {
			return false
		}
		p.open = append(p.open, frame{object: d == '{', start: p.at, names: len(p.names)})
		return true
	case d == '}' || d == ']':
		return p.shut()
	case p.tok.IsKey:
		return p.key(p.tok.Value)
	}
	raw := p.tok.Value
	return p.value() && (p.part == partDevice || readAlike(raw)) && (p.part < partFindings || !raw.String() || p.text(raw))
}

// readAlike reports whether both readers understand a value in the same way, whatever field it is for. The quick one
// lets whole numbers of more than 64 bits wrap, and accepts times of the common form with other separators.
func readAlike(raw []byte) bool {
	if raw[0] != '"' {
		return len(raw) <= 18 // no whole number of 18 characters wraps
	}
	v := raw[1 : len(raw)-1]
	if n := len(v); n < 20 || n > 30 || v[n-1] != 'Z' || v[0] < '0' || v[0] > '9' {
		return true // other forms of time are read by the same code
	}
	return v[4] == '-' && v[7] == '-' && v[10] == 'T' && v[13] == ':' && v[16] == ':'
}

// shut ends an object or a list.
func (p *plain) shut() bool {
	if len(p.open) == 0 {
		return false
	}
	f := &p.open[len(p.open)-1]
	p.names = p.names[:f.names]
	p.open = p.open[:len(p.open)-1]
	raw := p.body[f.start : p.at+1]
	switch {
	case len(p.open) == 1 && p.part == partDevice:
		p.device = raw
	case len(p.open) == 1 && p.part == partFindings:
		p.findings = raw
	case len(p.open) == 2 && p.part == partEvents:
		if len(raw) > maxEvent {
			return false
		}
		p.events = append(p.events, raw)
	}
	return true
}

// key reads a name: it has to be unique in its object, and in small letters if this version knows it.
func (p *plain) key(raw []byte) bool {
	if len(p.open) == 0 || !p.open[len(p.open)-1].object || len(raw) < 2 || raw[0] != '"' || !ordinary(raw) || len(raw) > maxWord {
		return false
	}
	f := &p.open[len(p.open)-1]
	if len(p.names)-f.names >= plainNames {
		return false
	}
	for _, other := range p.names[f.names:] {
		if bytes.Equal(raw, other) {
			return false
		}
	}
	p.names = append(p.names, raw)
	f.key = raw
	name := raw[1 : len(raw)-1]
	if len(p.open) == 1 {
		p.part = parts[string(name)]
	}
	return p.part == partDevice || bytes.Equal(bytes.ToLower(name), name)
}

// value counts a value of any type: an entry of findings or events is an object.
func (p *plain) value() bool {
	if len(p.open) == 0 {
		return p.tok.Delim == '{'
	}
	f := &p.open[len(p.open)-1]
	if f.count++; f.count > 1000 && !f.object {
		return false
	}
	switch {
	case len(p.open) == 1 && p.part >= partFindings:
		return p.tok.Delim == '['
	case len(p.open) == 1 && p.part == partDevice:
		return p.tok.Delim == '{'
	case len(p.open) == 2 && p.part >= partFindings:
		return p.tok.Delim == '{'
	}
	return true
}

// text reports whether a text of findings or events can be stored unchanged.
func (p *plain) text(raw []byte) bool {
	if ordinary(raw) && len(raw) <= maxWord {
		return true
	}
	if len(raw) > maxText {
		return false
	}
	for i := len(p.open) - 1; i >= 0; i-- {
		if f := &p.open[i]; f.object {
			if f.key == nil {
				return false
			}
			for _, w := range wordNames {
				if string(f.key[1:len(f.key)-1]) == w {
					return false
				}
			}
			break
		}
	}
	return ordinary(raw) || !policy.Control(string(quick.RawValue(raw).Unquote()))
}

// wordNames are the names of fields that contain one of our words.
var wordNames = func() (out []string) {
	for _, f := range append(append([]string(nil), findingWords...), eventWords...) {
		out = append(out, f[strings.LastIndexByte(f, '.')+1:])
	}
	return out
}()

// ordinary reports whether a text has only printable ASCII and no escapes.
func ordinary(raw []byte) bool {
	for _, c := range raw {
		if c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return true
}
