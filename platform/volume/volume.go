// Package volume empties a disk before it is taken away: it makes the file systems on it read-only, which flushes them,
// and names the programs that were still writing. All of that happens in an expendable child process (Main), because a
// user's disk can make any call wait for ever. The agent only starts the child (Release), watches the disk's own
// counters, and stops waiting at a deadline. The package owns no policy, never enters a foreign mount namespace, and
// never decides whether a disk may stay: the disk is taken away in any case.
package volume

import (
	"fmt"
	"strings"
	"time"
)

// The deadlines of one release. When either passes, the disk is taken away as it is.
const (
	stallLimit = 15 * time.Second // without a sector written or a step made
	wholeLimit = 5 * time.Minute
)

// Result is what became of a disk's file systems.
type Result struct {
	// Clean: every file system was made read-only or unmounted, so that nothing can be lost.
	Clean bool `json:"clean"`
	// Cut: programs still had files open for writing. Everything written so far is on the disk; further writes fail.
	Cut bool `json:"cut,omitempty"`
	// Forced says why the disk is taken away although not all of it is known to be written; "" if it is not.
	Forced string `json:"forced,omitempty"`
	// Lost is how many KiB were not on the disk yet although programs were told that they are written; -1 if that
	// cannot be read. It is only set together with Forced.
	Lost int64 `json:"lost_kib,omitempty"`
	// Asked are the programs that were asked to end.
	Asked []Program `json:"asked,omitempty"`
	// Others are writers that are not a user's programs. They are named and left alone.
	Others []Program `json:"others,omitempty"`
}

// Program is a process with a file on the disk open for writing.
type Program struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot: a reused pid has another
	Name  string `json:"name"`
	UID   int    `json:"uid"`
}

// maxNamed bounds how many programs a sentence names.
const maxNamed = 4

// String says in one sentence what became of the disk.
func (r Result) String() string {
	var parts []string
	switch {
	case r.Forced != "" && r.Lost < 0:
		parts = append(parts, "forced: "+r.Forced+"; how much was not written yet is unknown")
	case r.Forced != "":
		parts = append(parts, fmt.Sprintf("forced: %s; the kernel still had %d KiB that were not written", r.Forced, r.Lost))
	case r.Cut:
		parts = append(parts, "everything written is on the disk, and programs that went on writing were cut off")
	}
	if names := names(r.Asked); names != "" {
		parts = append(parts, "asked to end: "+names)
	}
	if names := names(r.Others); names != "" {
		parts = append(parts, "left alone: "+names)
	}
	return strings.Join(parts, "; ")
}

// names lists programs for a sentence, up to maxNamed.
func names(list []Program) string {
	var out []string
	for i, p := range list {
		if i == maxNamed {
			out = append(out, fmt.Sprintf("%d more", len(list)-i))
			break
		}
		out = append(out, fmt.Sprintf("%s (%d)", p.Name, p.PID))
	}
	return strings.Join(out, ", ")
}

// message is one line of the child's output: a step, the programs it has stopped, or the result.
type message struct {
	Step    string    `json:"step,omitempty"`
	Stopped []Program `json:"stopped,omitempty"`
	Result  *Result   `json:"result,omitempty"`
}
