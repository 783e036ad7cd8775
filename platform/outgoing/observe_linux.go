package outgoing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/fact"
)

// Observe says what is watched, as the kernel has it.
func (g *Guard) Observe(_ context.Context, out *fact.Machine) error {
	out.Outgoing = fact.Is(fact.Outgoing{})
	if g.rules() == nil {
		return nil
	}
	g.find()
	g.clear()
	err := g.refresh()
	g.mu.Lock()
	w, slow := g.watch, g.slow
	g.mu.Unlock()
	if w == nil {
		why := "nothing is watched"
		if err != nil {
			why = err.Error()
		}
		out.Outgoing = fact.Unread[fact.Outgoing](why)
		return nil
	}
	disks, dirs, err := w.marked()
	if err != nil {
		out.Outgoing = fact.Unread[fact.Outgoing](err.Error())
		return nil
	}
	x := w.report(disks, dirs)
	if slow != "" {
		x.Places = append(x.Places, fact.OutPlace{Name: "sync folders", Why: slow})
	}
	out.Outgoing = fact.Is(x)
	return nil
}

// report is what is known.
func (w *watch) report(disks map[string]bool, dirs int) (x fact.Outgoing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := map[*place]int{}
	for _, d := range w.dirs {
		of[d.place]++
	}
	for _, p := range w.places {
		y := fact.OutPlace{Name: p.name, App: p.app, Why: p.why}
		if p.app == "" {
			y.Holds, y.Watched = disks[p.disk]
			y.Watched = y.Watched && p.armed
		} else {
			// The kernel has as many marks as there are directories, or more: of those that have left the folder.
			y.Watched = p.armed && of[p] > 0 && dirs >= len(w.dirs)
			y.Holds = y.Watched && p.holds
		}
		if !y.Watched && y.Why == "" {
			y.Why = "its file system does not answer"
		}
		if p.behind && y.Why == "" {
			x.Behind++
		}
		x.Places = append(x.Places, y)
	}
	slices.SortFunc(x.Places, func(a, b fact.OutPlace) int { return strings.Compare(a.Name, b.Name) })
	for _, it := range w.items {
		switch it.state {
		case guilty, unknown:
			if x.Held++; x.HeldWhy == "" || it.state == guilty {
				x.HeldWhy = fmt.Sprintf("one on %s: %s", it.place.called(), it.why)
			}
		default:
			x.Behind++
		}
	}
	x.Late = w.late
	return x
}

// clearEvery is how often the quarantine is asked for files whose days are over.
const clearEvery = time.Hour

// clear has those removed.
func (g *Guard) clear() {
	r := g.rules()
	g.mu.Lock()
	due := time.Since(g.cleared) >= clearEvery
	if due {
		g.cleared = time.Now()
	}
	g.mu.Unlock()
	if r == nil || !due || g.expire == nil {
		return
	}
	n, err := g.expire(r.KeepDays())
	if n > 0 || err != nil {
		g.log.Info("files with sensitive data were kept for as long as the policy says, and are removed", "files", n, "error", err)
	}
}
