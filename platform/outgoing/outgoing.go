// Package outgoing looks into files on their way out of the machine: what is written to external disks, and what gets into the folders
// that sync clients copy to the internet. It owns how such places are watched, how long who opens a file waits, and how a file is taken
// away; what counts as sensitive it asks (the port scan.look), and what follows from it the section's rules say.
package outgoing

import (
	"errors"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Name is the capability's.
const Name = "outgoing"

const setting enforce.Setting = "dlp.patterns"

// Durations and bounds.
const (
	askWait      = 10 * time.Second // who opens a file that is being looked into waits so long at most
	lookLimit    = 30 * time.Second // a file may take
	maxTurns     = 3                // others come first
	patience     = 2 * time.Second  // somebody waits, before a look that nobody waits for is ended
	firstAgain   = time.Second      // a file that could not be taken away is tried again
	lastAgain    = time.Minute
	tellAfter    = 8 * time.Second       // that it is still there
	armWait      = 2 * time.Second       // a file system may take to let itself be watched
	walkPause    = 20 * time.Millisecond // between two looks for what was not noticed; longer each time
	maxWalkPause = 5 * time.Second
	leaseTries   = 20
	leasePause   = 10 * time.Millisecond
	coarse       = 20 * time.Millisecond // what is written now may have a time that is so much earlier

	maxItems = 512     // files that wait, each open
	maxHeld  = 4096    // files that are held
	maxAsks  = 4096    // who waits for them, together
	maxEach  = 128     // and for one of them
	maxClean = 16384   // files that are known to be clean
	maxDirs  = 20_000  // directories of a sync folder
	maxWalk  = 200_000 // names that are looked at, to find what was written meanwhile
	maxDepth = 256
	maxPlace = 64 // disks
	maxOwn   = 16 // sync folders of one user
)

// rules is the interface of the section's rules.
type rules interface {
	platform.SensitiveRules
	// LateIsFree says what becomes of a file that cannot be looked into in time.
	LateIsFree() bool
	PlainPaths() bool
	// KeepDays is how many days a file is kept that was taken away; 0: none is removed.
	KeepDays() int
}

// Why a file is still there.
var (
	errGone    = errors.New("it is not there any more")
	errBusy    = errors.New("another program has it open")
	errChanged = errors.New("it has been changed meanwhile")
)
