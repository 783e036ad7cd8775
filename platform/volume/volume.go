// Package volume gives back what stands on a disk before the disk is taken away: it asks writers
// to stop, flushes, and unmounts in the mount namespaces where it is mounted. It owns no policy; the
// agent wires it to the USB guard. Losing data that a program was told is written would be worse
// than the seconds this takes.
package volume

import "time"

// How long a program that has a file open for writing gets to finish after it was asked to, and
// after it was killed.
const (
	askWait  = 2 * time.Second
	killWait = 2 * time.Second
)
