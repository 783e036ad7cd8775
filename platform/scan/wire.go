// Package scan has documents looked into: it starts the program warder-scan, asks it, and ends it. The program runs as nobody, may do
// nothing but read what it is handed and compute, and is expendable: it is ended when it takes too long, and when nothing is asked of
// it. This package owns the child and what is said to it (wire.go); what counts as sensitive it does not know.
package scan

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// What is said over the socket: one message of JSON in each packet, with descriptors beside it.

// Socket is the child's descriptor of the socket.
const Socket = 3

// Late is why something is not read when there is no more time for it.
const Late = "there was no more time"

// MaxMessage bounds a packet.
const MaxMessage = 256 << 10

// Request is what the agent says.
type Request struct {
	// Rules are what is looked for, in the form that the child knows: once, first of all. They come as a file, together with one for
	// the cache: what is in it is taken if it fits, and otherwise the child writes anew what it has made of the rules.
	Rules bool `json:"rules,omitempty"`
	// Scan is a document, which comes as an open file.
	Scan bool   `json:"scan,omitempty"`
	Name string `json:"name,omitempty"` // of the document, as a hint to what it is
	// Turn comes back with the answer: what answers something else is not believed.
	Turn uint64 `json:"turn"`
	// Plain has the child do without the library for patterns.
	Plain bool `json:"plain,omitempty"`
	// Millis is how long a document may take; then what was found until then is the answer, and the child ends.
	Millis int64 `json:"millis,omitempty"`
}

// Answer is what the child says to a request.
type Answer struct {
	Turn  uint64 `json:"turn"`
	Error string `json:"error,omitempty"`
	Last  bool   `json:"last,omitempty"` // the child ends now: it is stuck in a document

	// To rules.
	Engine string `json:"engine,omitempty"` // what looks for them, for people
	Cached bool   `json:"cached,omitempty"` // the cache was taken

	// To a document.
	Kind   string   `json:"kind,omitempty"`
	Found  []Found  `json:"found,omitempty"`
	Unread []string `json:"unread,omitempty"` // why parts of it were not read
}

// Found is one kind of sensitive data that a document has.
type Found struct {
	Pattern int    `json:"pattern"` // its place in the rules
	Count   int    `json:"count"`
	Mark    string `json:"mark"` // of the first match: a keyed hash, in hex
}

// Rules are what the child is told to look for. Patterns are left as they are.
type Rules struct {
	Patterns json.RawMessage `json:"patterns"`
	Key      []byte          `json:"key"` // of the marks
}

// Parse reads a message of the child's, which may be in an attacker's hand by then.
func Parse(b []byte, patterns int) (a Answer, err error) {
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("the scanner's answer cannot be read: %w", err)
	}
	if len(a.Error) > 1000 || len(a.Engine) > 200 || len(a.Kind) > 20 || len(a.Found) > patterns || len(a.Unread) > 16 {
		return a, errors.New("the scanner's answer has more than it may")
	}
	last := -1
	for _, f := range a.Found {
		if f.Pattern <= last || f.Pattern >= patterns || f.Count < 1 || f.Count > 1<<20 || len(f.Mark) > 64 || strings.Trim(f.Mark, "0123456789abcdef") != "" {
			return a, fmt.Errorf("the scanner's answer has pattern %d, count %d", f.Pattern, f.Count)
		}
		last = f.Pattern
	}
	for i, s := range a.Unread { // it is in events: nothing that is in a document may be
		if s != Late && !slices.Contains(fact.Unreads, s) || slices.Contains(a.Unread[:i], s) {
			return a, errors.New("the scanner's answer says why something was not read in words that are not ours")
		}
	}
	for _, s := range []string{a.Engine, a.Kind, a.Error} {
		if len(s) > 1000 || enforce.Plain(s) != s {
			return a, errors.New("the scanner's answer has texts that it may not have")
		}
	}
	return a, nil
}
