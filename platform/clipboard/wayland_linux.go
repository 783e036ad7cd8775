package clipboard

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/res"
)

// On Wayland nothing is taken over. Without zones only other users are kept apart, and the compositor does that: who can connect to it is
// who can reach its socket. It is read, again and again, that this is the session's user alone.

const (
	besideRest = 10 * time.Second
	xwayland   = "Xwayland" // the X server beside a compositor, whose programs have the same clipboard
)

// private reports whether nobody but this user, and root, can reach what is in a directory. (An access list shows in the group's bits.)
func private(dir string, uid uint32) bool {
	st, err := os.Stat(dir)
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Uid == uid && st.IsDir() && st.Mode()&0o077 == 0
}

// beside says what is so on Wayland without zones, until there are other rules or ctx ends.
func (p *Part) beside(ctx context.Context, rules Rules) {
	tick := time.NewTicker(besideRest)
	defer tick.Stop()
	for ctx.Err() == nil && p.current() == rules {
		s := Said{Kept: true}
		if s.Why = p.reached(); s.Why != "" {
			s.Kept = false
		}
		p.mu.Lock()
		p.asked = time.Time{} // this is the sign
		news := p.said.Kept != s.Kept || p.said.Why != s.Why
		p.mu.Unlock()
		if news {
			p.say(rules, s)
		}
		select {
		case <-ctx.Done():
		case <-p.poke:
		case <-tick.C:
		}
	}
}

// reached says why other users may connect to the compositor or to the X server beside it, as the session's environment names them; "" if
// they may not.
func (p *Part) reached() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if path := os.Getenv("WAYLAND_DISPLAY"); filepath.IsAbs(path) {
		dir = filepath.Dir(path)
	} else if path != "" {
		dir = filepath.Dir(filepath.Join(dir, path)) // as libwayland does, whatever is in it
	}
	if !private(dir, p.Self) {
		return whyOpen
	}
	if !runs(xwayland, p.Self) {
		return "" // asking for it would start it
	}
	if p.asking == nil { // one that was begun and does not end is waited for, not begun again
		done := make(chan string, 1)
		p.asking = done
		go func() { done <- p.letsIn() }()
	}
	select {
	case why := <-p.asking:
		p.asking = nil
		return why
	case <-time.After(openWait):
		return whyDisplay
	}
}

// letsIn asks the X server beside the compositor whom it lets in.
func (p *Part) letsIn() string {
	c, err := xgb.NewConnDisplay(p.Display)
	if err == nil {
		defer c.Close()
		err = res.Init(c)
	}
	if err != nil {
		return whyDisplay
	}
	b := &board{c: c, rules: alone{}, self: p.Self, known: newPrograms()}
	if b.look(); b.others {
		return whyXwayland
	}
	return ""
}

// alone are rules that keep other users apart, and nobody else.
type alone struct{ Rules }

func (alone) Alone() bool { return true }

// runs reports whether a user runs a program of that name.
func runs(name string, uid uint32) bool {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return true
	}
	for _, e := range list {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		var st syscall.Stat_t
		if err == nil && string(bytes.TrimSpace(comm)) == name && syscall.Stat(filepath.Join("/proc", e.Name()), &st) == nil && st.Uid == uid {
			return true
		}
	}
	return false
}
