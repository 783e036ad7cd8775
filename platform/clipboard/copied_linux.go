package clipboard

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	// answerLimit is how long looking into what was copied may take: less than the helper waits, which then does what dlp.scan_timeout says
	// without an event.
	answerLimit = lookWait - time.Second
	lookWait    = 10 * time.Second
	maxRest     = time.Second
	maxUsers    = 64 // whose rests are remembered
	// lookHead is how much of something is looked into, in bytes.
	lookHead = 16 << 20
)

var errTooLarge = fmt.Errorf("%w: its forms are larger than 16 MiB together", errQuestion)

// lookInto answers a helper that asks whether something that was copied may be pasted.
func (g *Guard) lookInto(ctx context.Context, d platform.Desk, contentType string, body io.Reader) (any, error) {
	began := time.Now()
	if err := g.pace.begin(ctx, d.UID, began); err != nil {
		return nil, err
	}
	defer func() { g.pace.end(d.UID, time.Now(), time.Since(began)) }()
	r := g.judge()
	if r == nil { // the helper does not know that yet
		return Judged{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	// All of it is read first: who sends it slowly has no scanner wait, and what has come is judged whole.
	var forms []*form
	defer func() {
		for _, f := range forms {
			_ = f.file.Close()
		}
	}()
	is := fact.Sensitive{Where: fact.InClipboard, Found: []fact.SensitiveFound{}}
	program, err := decodeCopied(contentType, body, func(kind string, data io.Reader) error {
		f, err := keep(kind, data, lookHead-is.Bytes)
		if err != nil {
			return err
		}
		is.Bytes += f.size
		forms = append(forms, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, body) // it has ended, as far as the connection knows, too
	var wrong error
	for _, f := range forms {
		seen, err := g.lookAt(ctx, f)
		if err != nil {
			wrong = err
		}
		is.Late = is.Late || err != nil || seen.Late
		if is.Kind = cmp.Or(is.Kind, seen.Kind); len(seen.Found) > 0 {
			is.Kind = seen.Kind
		}
		is.Found = merge(is.Found, seen.Found)
		is.Unread = append(is.Unread, seen.Unread...)
	}
	is.Late = is.Late && len(is.Found) == 0
	slices.Sort(is.Unread)
	is.Unread = slices.Compact(is.Unread)
	if r = g.judge(); r == nil { // they have changed meanwhile
		return Judged{}, nil
	}
	v := r.Sensitive(&is)
	if is.Noteworthy() {
		g.tellCopied(&d, r, v, is, program, wrong)
	}
	return Judged{Refused: !v.Allow}, nil
}

// merge adds what was found in another form of the same: what is in both is there once.
func merge(list, more []fact.SensitiveFound) []fact.SensitiveFound {
	for _, x := range more {
		i := slices.IndexFunc(list, func(y fact.SensitiveFound) bool { return y.Pattern == x.Pattern && y.Setting == x.Setting })
		if i < 0 {
			list = append(list, x)
		} else {
			list[i].Count = max(list[i].Count, x.Count)
		}
	}
	return list
}

// names are what forms are called for the scanner, by their type.
var names = map[string]string{"text/html": "copied.html", "text/rtf": "copied.rtf", "application/rtf": "copied.rtf", "image/svg+xml": "copied.svg"}

// form is one form of something that was copied, in memory alone.
type form struct {
	kind string
	file *os.File
	size int64
}

// keep keeps what comes, as far as there is room.
func keep(kind string, data io.Reader, room int64) (*form, error) {
	fd, err := unix.MemfdCreate("warder-copied", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := &form{kind: kind, file: os.NewFile(uintptr(fd), "copied")} //nolint:gosec // a descriptor
	if f.size, err = io.Copy(f.file, io.LimitReader(data, room+1)); err == nil && f.size <= room {
		return f, nil
	}
	_ = f.file.Close()
	if err != nil {
		return nil, unreadable(err)
	}
	return nil, errTooLarge
}

// lookAt looks into one form.
func (g *Guard) lookAt(ctx context.Context, f *form) (seen platform.Seen, err error) {
	if f.size == 0 {
		return seen, nil
	}
	kind, _, _ := strings.Cut(strings.ToLower(f.kind), ";")
	name := platform.AsIs
	if known := names[kind]; known != "" {
		name = known
	}
	return g.look.Twice(ctx, answerLimit, f.file, name)
}

// judge is what decides now; nil: nothing is looked for.
func (g *Guard) judge() platform.SensitiveRules {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, ok := g.rules.(platform.SensitiveRules); ok && g.look != nil && r.SensitiveMode() > enforce.Off {
		return r
	}
	return nil
}

// What becomes of something that was copied. What the helper does is not read back: only it can see that, and what it says counts as the
// word of its user's program.
const (
	copiedKept = "the session's helper is told to hand it to no other program"
	copiedFree = "nothing keeps it"
)

// tellCopied tells of what was found. The same is told once in a while, and not too much of a user.
func (g *Guard) tellCopied(d *platform.Desk, r platform.SensitiveRules, v enforce.Verdict, is fact.Sensitive, program string, wrong error) {
	if is.Place = program; program == "" {
		is.Place = "a program that is not known"
	}
	var marks []string
	for _, f := range is.Found {
		marks = append(marks, f.Pattern+" "+f.Mark)
	}
	who := fmt.Sprintf("copied %d", d.UID)
	if !is.Late && len(is.Found) == 0 {
		who += " unread" // however many of these there are, others are told of
	}
	what := fmt.Sprintf("copied %s %s %v %v %v %v", d.ID, strings.Join(marks, " "), is.Late, is.Unread, v.Allow, v.WouldMode)
	g.mu.Lock()
	if is.Late {
		g.lates[d.ID]++
	}
	news := g.told.News(who, what)
	if news {
		g.told.Told(who, what)
	}
	g.mu.Unlock()
	if !news {
		return
	}
	done, note := copiedFree, fmt.Sprintf("in session %s, %d bytes", d.ID, is.Bytes)
	if !v.Allow {
		done = copiedKept
	}
	if len(is.Unread) > 0 {
		note += "; parts of it were not read: " + strings.Join(is.Unread, "; ")
	}
	if wrong != nil && is.Late {
		note += ": it could not be looked into: " + wrong.Error()
	}
	g.Hand(platform.Decision{Section: g.Section(), Key: enforce.Key{Kind: "clipboard.copied", ID: fmt.Sprintf("%s %d", d.ID, time.Now().UnixNano())},
		Subject: "what was copied in " + is.Place, Verdict: v, Fact: &is, Done: enforce.Reading{State: enforce.Present, Value: enforce.Value(done), How: "what the helper was answered"},
		Taken: !v.Allow, New: true, Note: note, Reason: func() (string, string) { return r.SensitiveReason(v, &is) }})
}

// pace has a user's next question wait as long as the last one took, a second at most: others have files that wait.
type pace struct {
	mu        sync.Mutex
	notBefore map[uint32]time.Time
}

// wait is how long a user's next question has to wait.
func (p *pace) wait(uid uint32, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.notBefore[uid].Sub(now); d > 0 && d <= maxRest {
		return d
	}
	return 0
}

// begin waits until it is a user's turn.
func (p *pace) begin(ctx context.Context, uid uint32, now time.Time) error {
	d := p.wait(uid, now)
	if d == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (p *pace) end(uid uint32, now time.Time, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.notBefore == nil || len(p.notBefore) > maxUsers {
		p.notBefore = map[uint32]time.Time{}
	}
	p.notBefore[uid] = now.Add(min(took, maxRest))
}
