// Package session is the helper that runs in each graphical login session, as its user: it shows what the agent has to say to the
// people there, and tells the agent what only their session can see. It may do nothing that its user may not. What it says counts for
// its own session alone, because its user can make it say anything.
package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
)

// State is what a helper says of its session.
type State struct {
	Version string `json:"version"`
	Type    string `json:"type,omitempty"`    // x11 or wayland
	Desktop string `json:"desktop,omitempty"` // XDG_CURRENT_DESKTOP
	Lock    string `json:"lock,omitempty"`    // of the screen, as seat.ScreenLock has it
	Shows   bool   `json:"shows"`             // a program of the desktop shows notices
	Why     string `json:"why,omitempty"`     // why none does
}

// Notice is something that the people of a session are told.
type Notice struct {
	ID      uint64          `json:"id"`
	Setting enforce.Setting `json:"setting"`
	Subject string          `json:"subject,omitempty"` // what it is about; "" if about the setting as a whole
}

// Turn is what a helper says; the answer comes when there is something to show, or after a while.
type Turn struct {
	State State `json:"state"`
	// Shown and Failed are the notices of the answer before.
	Shown  []uint64 `json:"shown,omitempty"`
	Failed []uint64 `json:"failed,omitempty"`
	Said
}

// Said is what the parts of a helper say. It is said with each turn, and by itself when it has changed.
type Said struct {
	Run   string                     `json:"run,omitempty"`   // of this helper, a random name
	Seq   uint64                     `json:"seq,omitempty"`   // counts; what comes late is passed over
	Given string                     `json:"given,omitempty"` // whose rules they have: Answer.Given
	Parts map[string]json.RawMessage `json:"parts,omitempty"`
}

// MaxPart bounds what one part says, in bytes.
const MaxPart = 16 << 10

// Answer is what the agent says to it.
type Answer struct {
	Version string   `json:"version"` // the agent's
	Notices []Notice `json:"notices"`
	// Given names Rules, by part. They are sent when a helper does not have them; a part that is not there is to do nothing.
	Given string                     `json:"given,omitempty"`
	Rules map[string]json.RawMessage `json:"rules,omitempty"`
}

// RunHeader has Said.Run where a part of a helper asks the agent something, at Path and the part's name.
const RunHeader = "Warder-Run"

// Path is where the agent answers helpers: POST for a turn, PUT for what they say in between.
const Path = "/v1/session"

// Why a helper ends by itself.
var (
	ErrTaken    = errors.New("another helper serves this session")
	ErrOver     = errors.New("this is no session of a person, or it has ended")
	ErrOutdated = errors.New("the agent has another version by now; the helper has to be started anew")
)

// Desktop shows notices.
type Desktop interface {
	// Ready reports why nothing can be shown now; nil if something can.
	Ready(context.Context) error
	Show(ctx context.Context, title, body string) error
}

// client is the agent's local API.
type client interface {
	Do(ctx context.Context, method, path string, in, out any) error
	Upload(ctx context.Context, path string, header http.Header, body io.Reader, out any) error
}

// Helper is one.
type Helper struct {
	Agent   client
	Desktop Desktop
	Words   Words
	State   State         // what does not change
	Pause   time.Duration // after an agent that does not answer; longer each time, up to a minute
	// Lock says what is so of the screen's lock; nil: that is not known.
	Lock func(context.Context) string
	// Removed reports whether the program has been uninstalled; nil: it has not.
	Removed func() bool
	// Parts do what the agent gives them rules for, by name.
	Parts map[string]Part
	// Forsaken is how long the agent may be away until the parts are told to do nothing; 0: two minutes.
	Forsaken time.Duration

	parts parts
}

const (
	forsaken = 2 * time.Minute
	maxPause = time.Minute
	// overAfter is how often the agent has to say that there is no such session: one that begins may not be known yet.
	overAfter = 3
)

// Run serves the session until ctx ends, the program is uninstalled or replaced, or another helper serves it.
func (h *Helper) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer h.begin(ctx)()
	defer cancel()
	var turn Turn
	pause, over := h.Pause, 0
	var lost time.Time // since when the agent does not answer
	for ctx.Err() == nil {
		turn.State, turn.Said = h.State, h.now()
		if h.Lock != nil {
			turn.State.Lock = h.Lock(ctx)
		}
		err := h.Desktop.Ready(ctx)
		if turn.State.Shows = err == nil; err != nil {
			turn.State.Why = err.Error()
		}
		var a Answer
		err = h.Agent.Do(ctx, http.MethodPost, Path, turn, &a)
		if err != nil {
			var refused *localapi.Error
			if errors.As(err, &refused) {
				switch refused.Status {
				case http.StatusTooManyRequests:
					return ErrTaken
				case http.StatusForbidden:
					if over++; over == overAfter {
						return ErrOver
					}
				}
			}
			// The agent is being started anew, or there is none; the next turn tells again what was shown.
			if h.Removed != nil && h.Removed() {
				return nil
			}
			if lost.IsZero() {
				lost = time.Now()
			}
			if time.Since(lost) >= h.Forsaken {
				h.load("", nil)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause, over, lost = h.Pause, 0, time.Time{}
		turn.Shown, turn.Failed = nil, nil
		if a.Given != turn.Given {
			h.load(a.Given, a.Rules)
		}
		for _, n := range a.Notices {
			title, body := h.Words.Notice(n)
			if err := h.Desktop.Show(ctx, title, body); err != nil {
				turn.Failed = append(turn.Failed, n.ID)
			} else {
				turn.Shown = append(turn.Shown, n.ID)
			}
		}
		if a.Version != h.State.Version {
			return ErrOutdated
		}
	}
	return nil
}
