// Package notify tells the people at the machine something. It owns finding their sessions; what
// is said, and how often, is the agent's. Graphical sessions can only be told from inside, by a
// helper that this version does not have: they count as not told.
package notify
