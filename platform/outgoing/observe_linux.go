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
	why := ""
	if err := g.refresh(); err != nil {
		why = err.Error()
	}
	g.mu.Lock()
	places, slow := g.all(), g.slow
	g.mu.Unlock()
	var x fact.Outgoing
	reports := make(chan report, len(places))
	for _, p := range places {
		go func() { reports <- p.report() }()
	}
	late, missing := time.After(armWait), map[string]*place{}
	for _, p := range places {
		missing[p.key] = p
	}
wait:
	for range places {
		select {
		case r := <-reports:
			delete(missing, r.key)
			x.Places = append(x.Places, r.place)
			if x.Held += r.held; x.HeldWhy == "" {
				x.HeldWhy = r.heldWhy
			}
			x.Late += r.late
			x.Behind += r.behind
			x.Stale = x.Stale || r.stale
		case <-late: // its file system keeps somebody who has its lock
			break wait
		}
	}
	for _, p := range missing {
		x.Places = append(x.Places, fact.OutPlace{Name: p.name, App: p.app, Why: "its file system does not answer"})
	}
	for _, why := range []string{why, slow} {
		if why != "" {
			x.Places = append(x.Places, fact.OutPlace{Name: "some places", Why: why})
		}
	}
	slices.SortFunc(x.Places, func(a, b fact.OutPlace) int { return strings.Compare(a.Name, b.Name) })
	out.Outgoing = fact.Is(x)
	return nil
}

// report is what is known of a place.
type report struct {
	key          string
	place        fact.OutPlace
	held         int
	heldWhy      string
	late, behind int
	stale        bool
}

// staleAfter is how long a file may wait before that is a finding.
const staleAfter = time.Minute

func (p *place) report() report {
	notices, holds, err := p.watched()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := report{key: p.key, place: fact.OutPlace{Name: p.name, App: p.app, Why: p.why, Watched: notices, Holds: holds}, late: p.late}
	p.unlike = p.armed && !p.arming && (!notices || holds != p.holds)
	switch {
	case err != nil:
		r.place.Why = err.Error()
	case p.arming && !notices:
		r.place.Why = "its file system does not answer, or it is large"
	case p.behind || p.walking || p.coming.Load() > 0:
		r.behind++
		r.stale = (p.behind || p.walking) && time.Since(p.behindAt) > staleAfter
	}
	for _, it := range p.items {
		switch it.state {
		case guilty, unknown:
			if r.held++; r.heldWhy == "" || it.state == guilty {
				r.heldWhy = fmt.Sprintf("one on %s: %s", p.name, it.why)
			}
		default:
			r.behind++
			r.stale = r.stale || time.Since(it.came) > staleAfter
		}
	}
	return r
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
	if r == nil || !due || g.expire == nil || r.KeepDays() == 0 {
		return
	}
	n, err := g.expire(r.KeepDays())
	if n > 0 || err != nil {
		g.log.Info("files with sensitive data were kept for as long as the policy says, and are removed", "files", n, "error", err)
	}
}
