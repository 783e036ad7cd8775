package scan

import (
	"errors"
	"time"
)

// Verdict is what a document has.
type Verdict struct {
	Rules  int    // which rules the places of patterns are about: what Set has returned
	Kind   string // of document, such as "docx"
	Found  []Found
	Unread []string // why parts of it were not read; empty: all of it was
	Late   bool     // there was no more time for some of it
	Took   time.Duration
}

// Errors of Scan.
var (
	ErrLate   = errors.New("it took too long")
	ErrEnded  = errors.New("the scanner ended while it looked at it")
	ErrAbsent = errors.New("the program warder-scan is not installed")
	ErrRules  = errors.New("the scanner cannot make itself ready for these patterns")
)

// Usual durations of the child.
const (
	Idle       = 30 * time.Second       // without a question, and it ends
	startLimit = time.Minute            // to make ready: rules may have to be compiled
	plainFor   = time.Hour              // without the library, after a child with it did not become ready
	endLimit   = 5 * time.Second        // a child that was killed may be in a file system that does not answer
	spare      = 100 * time.Millisecond // of what a document may take, for the answer
)

// UID is who the child runs as: a number that no account has. systemd leaves 65520 to 65533 unused
// (systemd.io/UIDS-GIDS), and so do distributions.
const UID = 65533
