package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/session"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce/dlp"
	"github.com/warderd/warder/platform/clipboard"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/seat"
)

// helperGC has a helper collect its garbage early: there is one for each person who is logged in. It has no limit, because what it holds
// of a clipboard counts, too.
const helperGC = 25

func (a *app) session() *cobra.Command {
	var autostart bool
	c := &cobra.Command{
		Use: "session", Short: "Show this session's user what the agent has to say (started by the desktop)", Args: cobra.NoArgs,
		Long: "The helper of a graphical login session. It shows what the policy is about on the desktop, in the language of the\n" +
			"session, and runs as its user, without any privilege. The desktop starts it with each login.",
		Example: "  warder session",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if autostart {
				return a.keepHelper(ctx)
			}
			debug.SetGCPercent(helperGC)
			board := &clipboard.Part{Type: sessionType(), Self: uint32(os.Getuid()), Decode: clipboardRules}
			h := session.Helper{Agent: a.client(), Desktop: &notify.Desktop{}, Words: session.Language(session.Locale(os.Getenv)), Pause: helperPause, Removed: removed, Lock: seat.ScreenLock,
				State: session.State{Version: version, Type: os.Getenv("XDG_SESSION_TYPE"), Desktop: os.Getenv("XDG_CURRENT_DESKTOP")},
				Parts: map[string]session.Part{clipboard.Name: board}}
			board.Look = func(ctx context.Context, c *clipboard.Copied) (out clipboard.Judged, err error) {
				body, kind := c.Encode()
				err = h.Ask(ctx, clipboard.Name, kind, body, &out)
				var refused *localapi.Error
				switch {
				case errors.Is(err, localapi.ErrNoAgent), errors.Is(err, localapi.ErrUnreachable):
					err = fmt.Errorf("%w: %w", clipboard.ErrAway, err)
				case errors.As(err, &refused) && clipboardNever[refused.Status]:
					err = fmt.Errorf("%w: %w", clipboard.ErrNever, err)
				}
				return out, err
			}
			err := h.Run(ctx)
			for why, exit := range helperExits {
				if errors.Is(err, why) {
					return &cli.Failure{Err: err, Code: "ended", Exit: exit}
				}
			}
			return err
		},
	}
	c.Flags().BoolVar(&autostart, "autostart", false, "for desktops without systemd: start the helper if none runs, and again when it dies")
	return c
}

// clipboardNever are the answers to what was copied that will be the same again.
var clipboardNever = map[int]bool{http.StatusBadRequest: true, http.StatusForbidden: true, http.StatusNotFound: true, http.StatusRequestEntityTooLarge: true}

// sessionType is what the session is for its clipboard. One that does not say it, and has a Wayland display, has an X server beside that,
// which is not all of it; what systemd-logind says of the session counts in any case.
func sessionType() string {
	kind := os.Getenv("XDG_SESSION_TYPE")
	if kind == "" && os.Getenv("WAYLAND_DISPLAY") != "" {
		return "wayland"
	}
	return kind
}

// clipboardRules reads what the agent gives the part of a helper that keeps the clipboard.
func clipboardRules(b json.RawMessage) (clipboard.Rules, error) {
	c, err := dlp.DecodeClipboard(b)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// removed reports whether this program is not there any more.
func removed() bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	_, err = os.Stat(self)
	return errors.Is(err, fs.ErrNotExist)
}

// helperExits are the exit codes of a helper that ends by itself; the unit and keepHelper know them.
var helperExits = map[error]int{session.ErrTaken: exitTaken, session.ErrOver: exitOver, session.ErrOutdated: exitOutdated}

const (
	exitTaken    = 4
	exitOver     = 5
	exitOutdated = 6 // it is to be started anew
	// helperPause is how long is waited after an agent or a helper that has died.
	helperPause = 5 * time.Second
)
