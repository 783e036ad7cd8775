// Package notify sends a message to the people at the machine. It finds their sessions; the agent decides what is said
// and how often. A graphical session can only be notified from inside, by a helper that this version does not have:
// such a session counts as not told.
package notify
