package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/library"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/sync/checkin"
)

// shelf is the long lists that policies name: those that are here, and the fetching of those that are not. Only the loop
// changes it.
type shelf struct {
	library  *library.Library
	timer    *time.Timer // the next try
	missing  []policy.ListUse
	failed   map[policy.ListRef]listFailure
	fetching bool
	// supported reports whether this machine can do anything with the lists of a setting; nil: with all. Others are not fetched.
	supported func(enforce.Setting) bool
	// holds is told how many bytes the lists use, before one is read and afterwards; nil: nobody.
	holds func(bytes int64, reading bool)
	used  int64
}

// reading reads lists, with the memory that takes.
func (s *shelf) reading(read func()) {
	if s.holds == nil {
		read()
		return
	}
	s.holds(s.used, true)
	read()
	s.used = 12 * int64(s.library.Names())
	s.holds(s.used, false)
}

// listFailure is a list that could not be fetched.
type listFailure struct {
	why     string // "" if the server only asked to come later
	cadence *checkin.Cadence
	next    time.Time // not before
}

// newShelf makes the shelf of a state directory.
func newShelf(dir string, sections []section.Section) *shelf {
	read := func(in io.Reader, u policy.ListUse, most int) (policy.List, error) {
		s, ok := section.Find(sections, u.Setting.Section())
		if !ok || s.ReadList == nil {
			return nil, fmt.Errorf("%s reads no lists", u.Setting)
		}
		return s.ReadList(in, u, most)
	}
	return &shelf{library: &library.Library{Dir: dir, Read: read}, timer: stopped(), failed: map[policy.ListRef]listFailure{}}
}

// attach gives a document its lists, and remembers which are missing.
func (s *shelf) attach(d *policy.Document) *policy.Document {
	if d == nil {
		s.missing = nil
		return nil
	}
	uses := slices.DeleteFunc(d.Lists(), func(u policy.ListUse) bool { return s.supported != nil && !s.supported(u.Setting) })
	if len(uses) == 0 && s.used == 0 {
		d, s.missing = s.library.Attach(d, uses, s.why)
		return d
	}
	s.reading(func() { d, s.missing = s.library.Attach(d, uses, s.why) })
	return d
}

// why says why a version of a list is not here.
func (s *shelf) why(r policy.ListRef) string {
	if text := s.failed[r].why; text != "" {
		return "it cannot be fetched: " + text
	}
	return "it is not here yet"
}

// listMost is the longest wait before a list is tried again. The waits are a check-in's, and the server may say when.
const listMost = time.Hour

// fetchLists fetches the lists that the policy in force names and that are not here, in the background, as far as they are
// due.
func (a *Agent) fetchLists() {
	s, client := a.shelf, a.contact.client
	if client == nil || s.fetching {
		return
	}
	now, soonest := a.o.Now(), listMost
	var list []policy.ListUse
	for _, u := range s.missing {
		if left := s.failed[u.ListRef].next.Sub(now); left > 0 && left <= 2*listMost { // more, and the clock was changed
			soonest = min(soonest, left)
			continue
		}
		list = append(list, u)
	}
	if len(list) == 0 {
		if len(s.missing) > 0 {
			s.timer.Reset(soonest)
		}
		return
	}
	s.fetching = true
	s.timer.Stop()
	if s.holds != nil {
		s.holds(s.used, true) // until it is attached
	}
	a.background.Go(func() {
		errs := map[policy.ListUse]error{}
		for _, u := range list {
			if a.ctx.Err() != nil {
				break
			}
			errs[u] = s.library.Fetch(a.ctx, u, client.FetchList)
		}
		a.do(func() { a.fetched(errs) })
	})
}

// fetched takes what has come into use, and sets the time of the next try for the rest.
func (a *Agent) fetched(errs map[policy.ListUse]error) {
	s := a.shelf
	s.fetching = false
	news := false
	for u, err := range errs {
		was := s.failed[u.ListRef]
		if err == nil {
			news = true
			delete(s.failed, u.ListRef)
			continue
		}
		now := listFailure{cadence: was.cadence}
		if now.cadence == nil {
			now.cadence = checkin.NewCadence(a.o.Random)
		}
		now.next = a.o.Now().Add(min(now.cadence.Failed(err), listMost))
		if !now.cadence.Told(err) {
			now.why = enforce.Plain(secret.Scrub(err.Error()))
			a.o.Log.Warn("a list cannot be fetched", "list", u.ID, "version", u.Short(), "error", err)
		}
		news = news || now.why != was.why
		s.failed[u.ListRef] = now
	}
	if news {
		a.custody.refill()
		a.look()
		a.reportSoon()
	}
	if s.holds != nil {
		s.holds(s.used, false)
	}
	a.keepLists()
	a.fetchLists()
}

// listsSoon tries again at once: the network is another one.
func (s *shelf) listsSoon() {
	for r, f := range s.failed {
		if f.why != "" {
			f.next = time.Time{}
			s.failed[r] = f
		}
	}
}

// keepLists removes the lists that neither the policy in force nor the one to go back to names.
func (a *Agent) keepLists() {
	if _, err := os.Stat(a.shelf.library.Dir); err != nil {
		return
	}
	var needed []policy.ListUse
	if doc := a.custody.doc; doc != nil {
		needed = slices.Clone(doc.Lists())
	}
	for _, as := range []*identity.Assignment{a.custody.state.Policy, a.custody.state.Confirmed} {
		if as == nil {
			continue
		}
		if _, doc, err := a.custody.read(as); err == nil {
			needed = append(needed, doc.Lists()...)
		}
	}
	a.shelf.library.Keep(needed)
}

// ListStatus is a long list that the policy in force names.
type ListStatus struct {
	policy.ListRef
	Setting string `json:"setting"`
	InForce string `json:"in_force,omitempty"` // the version that is; "" for none
	Names   int    `json:"names"`              // of that version
	Problem string `json:"problem,omitempty"`  // why it is not the one that the policy names
	Bytes   int64  `json:"bytes"`              // that are here of the one that the policy names
}

// lists says what there is of each list of a policy.
func (s *shelf) lists(doc *policy.Document) []ListStatus {
	out := []ListStatus{}
	if doc == nil {
		return out
	}
	for _, u := range doc.Lists() {
		c := doc.Content(u)
		x := ListStatus{ListRef: u.ListRef, Setting: string(u.Setting), InForce: c.SHA256, Problem: c.Why}
		if c.List != nil {
			x.Names = c.List.Len()
		}
		x.Bytes, _ = s.library.Here(u.ListRef)
		out = append(out, x)
	}
	return out
}

// getLists answers "warder network".
func (a *Agent) getLists(context.Context, caller, *http.Request, []byte) (any, error) {
	_, doc, _ := a.custody.view()
	return a.shelf.lists(doc), nil
}
