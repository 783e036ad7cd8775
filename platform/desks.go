package platform

import (
	"context"
	"encoding/json"
	"errors"
	"io"
)

// Desk is a graphical login session, and what a part of its helper (agent/session) says of it.
type Desk struct {
	ID   string
	UID  uint32
	Type string // x11 or wayland
	// Helper says that its helper runs, and Taken that the part has the rules that were given last.
	Helper, Taken bool
	Said          json.RawMessage // what the part says; nil: nothing yet
}

// Desks are the graphical login sessions, for capabilities that need to do something in them. What is heard from a session is said by
// a program of its user, who can make it say anything.
type Desks interface {
	// Give sets the rules of a part of every helper; nil: it has none, and does nothing. It does not wait for them.
	Give(part string, rules json.RawMessage)
	// List is what is known of every session now.
	List(part string) []Desk
	// Hear sets who is told that something may be different in a session. It is called once for a part, before anything is given, and
	// never waits.
	Hear(part string, told func())
	// Answer sets who answers what a part of a helper asks (HTTP's Content-Type and body; the answer becomes JSON). Not more than one of a
	// user's questions, and a few of all, are answered at a time; ctx ends with the helper's patience.
	Answer(part string, answer func(ctx context.Context, d Desk, contentType string, body io.Reader) (any, error))
}

// ErrQuestion is in the error of an answerer where the question is wrong: asked again, it will be so again.
var ErrQuestion = errors.New("it cannot be answered")

// MaxQuestion bounds what a part of a helper asks, in bytes.
const MaxQuestion = 17 << 20
