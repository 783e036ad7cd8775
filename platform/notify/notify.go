// Package notify shows messages to the people at the machine: the agent writes them to the terminals on which they are logged in, and the
// helper in a graphical session (agent/session) shows them on its desktop. The agent decides what is said and how often.
package notify

// Told is somebody who was told.
type Told struct {
	UID   uint32
	Where string // for people, such as "ann on tty1"
}
