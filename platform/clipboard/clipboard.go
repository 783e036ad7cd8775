// Package clipboard keeps what is copied in one zone from being pasted in another. The clipboard belongs to a desktop, so this is done by
// the helper that runs there as its user (Part): it takes over what must not leave its zone, and hands it to whom it may go
// (docs/decisions/0043). It also has what is copied looked into for sensitive data (0049, 0050). The capability in the agent gives the
// helpers their rules, and reports what they say. The package owns no policy.
package clipboard

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Name is that of the capability, and of the part of a helper.
const Name = "clipboard"

const (
	settingSharing   enforce.Setting = "dlp.clipboard_sharing"
	settingDirection enforce.Setting = "dlp.clipboard_direction"
	settingZones     enforce.Setting = "dlp.zones"

	onlyLinux = "the clipboard is only kept on Linux in this version"
	limit     = "with zones on X11 alone; a paste within the first milliseconds after a copy passes (13 to 33 of 120 that were tried around it), and a program of the other zone that waits for copies, such as a clipboard " +
		"manager, gets nearly each; the session's own user can end the helper, which is found, or put another program in its place, which is not; X11 keeps no program from one that tries; not kept are drag and drop, and zones on Wayland (docs/dlp.md)"
	zonesLimit = "a user can run a program of their own in any slice, or inside a program of a zone; a program without a SHA-256 is known by its place alone"
)

// claims are what this package supports, on every system.
func claims() (out []platform.Claim) {
	for s, why := range map[enforce.Setting]string{settingSharing: limit, settingDirection: limit, settingZones: zonesLimit} {
		out = append(out, platform.Claim{Setting: s, OS: "linux", Level: fact.Partial, Limit: why, Exercised: true})
		for _, os := range []string{"windows", "darwin"} {
			out = append(out, platform.Claim{Setting: s, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
		}
	}
	return out
}

// Rules say who is where, and what may be pasted.
type Rules interface {
	// Zone is where a program belongs; self is the session's user.
	Zone(p *fact.Program, self uint32) string
	// Keeps reports whether anything of a zone may not leave it, and Refuses whether it may not go to that one.
	Keeps(zone string) bool
	Refuses(from, to string) bool
	// Alone says that only programs of other users are kept apart.
	Alone() bool
	// Apart says that anything is kept apart at all.
	Apart() bool
	// Looks says how what is copied is looked into (fact.LookRead, fact.LookHold; "": it is not), and LateIsFree what becomes of what
	// cannot be in time.
	Looks() string
	LateIsFree() bool
	// Programs are the files that they name, and those of them of which a sum is named.
	Programs() (files, summed []string)
}

// Said is what a helper's part says of its session.
type Said struct {
	Kept bool   `json:"kept"`          // by the rules that it has
	Why  string `json:"why,omitempty"` // why not, one of those below
	// Type is the session's, as the helper takes it: it does something else on X11 than on Wayland. Helpers before 0.13 knew X11 alone.
	Type string `json:"type,omitempty"`
	// Looks says that what is copied is looked into, Blind that the agent did not say anything the last time that it was asked, and Late
	// counts how often it did not in time.
	Looks bool `json:"looks,omitempty"`
	Blind bool `json:"blind,omitempty"`
	Late  int  `json:"late,omitempty"`
	// NoLook says why it is not looked into on Wayland, in one of the words below. (On X11 it is not where the clipboard is not kept.)
	NoLook string `json:"no_look,omitempty"`

	Refused []Refusal `json:"refused,omitempty"`
}

// Why a helper does not keep the clipboard. What it says is read by others than its user, so these words are not its own.
const (
	whyBegins  = "begins"
	whyRules   = "rules"
	whyDisplay = "display"
	whyNone    = "no display"
	whyWayland = "wayland"
	// Why other users are not kept apart on Wayland.
	whyOpen     = "open"
	whyXwayland = "xwayland"
	// Why what is copied is not looked into on Wayland.
	whySocket   = "socket"
	whyNoSocket = "no socket"
	whyControl  = "no control"
)

var whys = map[string]string{whyBegins: "its helper is about to", whyRules: "its helper cannot read the rules", whyDisplay: "the X server does not answer its helper",
	whyNone:   "its helper was started without DISPLAY",
	whySocket: "its compositor does not answer its helper", whyNoSocket: "its helper was started without WAYLAND_DISPLAY", whyControl: "its compositor gives what is copied to no helper (GNOME)",
	whyWayland: waylandWhy, whyOpen: "other users can reach the directory of its desktop", whyXwayland: "other users may connect to the X server beside its desktop (Xwayland)"}

// On Wayland a compositor passes on what is copied, and does not say to or from whom.
const waylandWhy = "Wayland does not tell which program copies or pastes"

// Refusal is a paste that was refused. Programs are the names of their files.
type Refusal struct {
	N        uint64 `json:"n"` // counts
	From     string `json:"from"`
	To       string `json:"to"`
	Copied   string `json:"copied_in,omitempty"`
	PastedIn string `json:"pasted_in,omitempty"`
}

// Copied is something that was copied and is to be looked into: its texts, of lookHead bytes in all.
type Copied struct {
	Program string // that has copied it, for people
	Forms   []Form
}

// Form is what was copied in one form; Type is its name there, such as text/html.
type Form struct {
	Type string
	Data []byte
}

// Why the agent says nothing of it: it does not run, or it never will.
var (
	ErrAway  = errors.New("the agent does not run")
	ErrNever = errors.New("the agent cannot be asked that")
)

// Judged is what the agent says of it.
type Judged struct {
	Refused bool `json:"refused"`
}

// Bounds of what a helper says.
const (
	maxType    = 128
	maxRefused = 16
	maxWord    = 64
)

var errRefused = errors.New("refused pastes")

// read reads what a helper says. All of it comes from a program of the session's user.
func read(b json.RawMessage) (s Said, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return Said{}, fmt.Errorf("what the helper says cannot be read: %w", err)
	}
	if len(s.Refused) > maxRefused {
		return Said{}, fmt.Errorf("%w: %d, of which at most %d can be told at once", errRefused, len(s.Refused), maxRefused)
	}
	if s.Why != "" {
		if s.Why = whys[s.Why]; s.Why == "" {
			s.Why = "its helper does not, and does not say why in words of ours"
		}
	}
	if s.NoLook != whyControl {
		if s.NoLook = whys[s.NoLook]; !s.Looks && s.NoLook == "" {
			s.NoLook = "its helper does not"
		}
	}
	for i := range s.Refused {
		r := &s.Refused[i]
		r.From, r.To, r.Copied, r.PastedIn = word(r.From, maxWord), word(r.To, maxWord), word(r.Copied, maxWord), word(r.PastedIn, maxWord)
	}
	return s, nil
}

// word makes a text printable and bounds it.
func word(s string, most int) string {
	s = enforce.Plain(s)
	for most < len(s) && most > 0 && s[most]&0xc0 == 0x80 {
		most--
	}
	return s[:min(most, len(s))]
}
