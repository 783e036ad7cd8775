package platform

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// SensitiveRules is what the section's rules say of sensitive data, to whoever has documents looked into.
type SensitiveRules interface {
	// SensitiveMode is the strictest mode in which something is looked for; Off: nothing is.
	SensitiveMode() enforce.Mode
	// HoldsSensitive reports whether something is refused if it is found.
	HoldsSensitive() bool
	// SensitiveKey is another one if anything is judged differently.
	SensitiveKey() string
	Sensitive(*fact.Sensitive) enforce.Verdict
	SensitiveReason(enforce.Verdict, *fact.Sensitive) (reason, nearest string)
}

// AsIs is what something is called when it is looked into that is used for what its user says it is, whatever it looks like.
const AsIs = "as it is"

// LookInto has a document looked into, which is an open file; name is a hint to what it is, or AsIs. An error says why that could not be
// done. What takes longer than ctx is late.
type LookInto func(ctx context.Context, f *os.File, name string) (Seen, error)

// Twice looks for so long, and once more if need be: another document may have ended the program, or it hangs. Then it says nothing at
// all, and another one is asked.
func (look LookInto) Twice(ctx context.Context, limit time.Duration, f *os.File, name string) (seen Seen, err error) {
	for range 2 {
		once, cancel := context.WithTimeout(ctx, limit)
		seen, err = look(once, f, name)
		cancel()
		end, has := ctx.Deadline()
		if err == nil && !(seen.Late && seen.Kind == "") || ctx.Err() != nil || has && time.Until(end) < time.Second {
			break
		}
	}
	return seen, err
}

// Seen is what was found in a document.
type Seen struct {
	Kind   string // of document: "docx"
	Found  []fact.SensitiveFound
	Unread []string // why parts of it were not read
	Late   bool     // it took too long; what is in Found was found until then
	Took   time.Duration
}

// Fact is a document of so many bytes, of which this was seen, or of which an error says why nothing was.
func (s Seen) Fact(where, place string, size int64, err error) fact.Sensitive {
	is := fact.Sensitive{Where: where, Place: place, Kind: s.Kind, Bytes: size, Found: s.Found, Unread: slices.Clone(s.Unread), Late: len(s.Found) == 0 && (s.Late || err != nil)}
	slices.Sort(is.Unread)
	if is.Found == nil {
		is.Found = []fact.SensitiveFound{}
	}
	return is
}
