// Package child is what the program warder-scan does for the agent: it is told what to look for, and looks into one document after
// another. It shuts itself in first (confine_linux.go).
package child

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/sensitive"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/scan"
	"github.com/warderd/warder/platform/scan/match"
	"github.com/warderd/warder/platform/scan/text"
)

// maxRules bounds the rules: a thousand patterns of 4 KiB, as JSON writes them.
const maxRules = 32 << 20

// Serve answers the agent until it closes the socket.
func Serve(socket int) error {
	_ = os.WriteFile("/proc/self/comm", []byte("warder-scan"), 0) // it was started by a descriptor, whose number would be its name
	closeOthers(socket)
	library, _ := match.OpenLibrary()
	if err := Confine(); err != nil {
		return err
	}
	s := server{socket: socket, library: library}
	for {
		q, files, err := s.receive()
		if err != nil {
			return err
		}
		if q == nil { // the agent has closed it
			return nil
		}
		a := s.answer(*q, files)
		for _, f := range files {
			f.Close()
		}
		a.Turn, a.Last = q.Turn, s.stuck
		if err := s.send(a); err != nil {
			return err
		}
		if s.stuck { // something is still at work on the document
			return errStuck
		}
	}
}

// closeOthers closes what this process was started with, but for the socket and what Go's runtime waits with.
func closeOthers(socket int) {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range list {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || fd == socket {
			continue
		}
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			_ = unix.Close(fd)
		}
	}
}

var errStuck = errors.New("a document is still being looked into")

type server struct {
	stuck   bool
	socket  int
	library *match.Library
	look    *Looker
	buf     []byte
}

// receive reads one request; nil at the end.
func (s *server) receive() (*scan.Request, []*os.File, error) {
	if s.buf == nil {
		s.buf = make([]byte, scan.MaxMessage)
	}
	oob := make([]byte, unix.CmsgSpace(4*4))
	var n, oobn int
	for {
		var err error
		n, oobn, _, _, err = unix.Recvmsg(s.socket, s.buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		break
	}
	if n == 0 {
		return nil, nil, nil
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "document")) //nolint:gosec // a descriptor
		}
	}
	var q scan.Request
	return &q, files, json.Unmarshal(s.buf[:n], &q)
}

func (s *server) send(a scan.Answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	for {
		if err = unix.Sendmsg(s.socket, b, nil, nil, unix.MSG_NOSIGNAL); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// answer answers one request.
func (s *server) answer(q scan.Request, files []*os.File) (a scan.Answer) {
	defer func() {
		// Not the value: it may have text of the document in it.
		if p := recover(); p != nil {
			a = scan.Answer{Error: fmt.Sprintf("the scanner has a fault (%T)", p)}
		}
	}()
	var err error
	switch {
	case q.Rules && len(files) == 2:
		if q.Plain {
			s.library = nil
		}
		a, err = s.rules(files[0], files[1])
	case q.Scan && len(files) == 1 && s.look != nil:
		a, err = s.scan(files[0], q.Name, time.Duration(q.Millis)*time.Millisecond)
	default:
		err = fmt.Errorf("%d files came with a request for nothing", len(files))
	}
	if err != nil {
		return scan.Answer{Error: err.Error()}
	}
	return a
}

func (s *server) rules(in, cache *os.File) (a scan.Answer, err error) {
	b, err := io.ReadAll(io.NewSectionReader(in, 0, maxRules))
	if err != nil {
		return a, err
	}
	var r scan.Rules
	var list []sensitive.Pattern
	if err := json.Unmarshal(b, &r); err != nil {
		return a, err
	}
	if err := json.Unmarshal(r.Patterns, &list); err != nil {
		return a, err
	}
	st, err := cache.Stat()
	if err != nil {
		return a, err
	}
	cached, err := io.ReadAll(io.NewSectionReader(cache, 0, st.Size()))
	if err != nil {
		return a, err
	}
	if s.look, err = NewLooker(list, r.Key, match.Options{Library: s.library, Cached: cached}); err != nil {
		return a, err
	}
	a.Engine = s.look.engine.Name()
	made := s.look.engine.Cache()
	if a.Cached = len(made) > 0 && string(made) == string(cached); !a.Cached {
		if err := cache.Truncate(0); err != nil {
			return a, err
		}
		if _, err := cache.WriteAt(made, 0); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (s *server) scan(f *os.File, name string, most time.Duration) (a scan.Answer, err error) {
	source, err := text.OpenFile(f)
	if err != nil {
		return a, err
	}
	a, s.stuck, err = s.look.Look(source, name, most)
	return a, err
}

// Looker looks for patterns in documents.
type Looker struct {
	engine *match.Engine
	key    []byte
}

// NewLooker makes one.
func NewLooker(list []sensitive.Pattern, key []byte, o match.Options) (*Looker, error) {
	e, err := match.New(list, o)
	if err != nil {
		return nil, err
	}
	return &Looker{e, key}, nil
}

// Engine is what it looks with, for people.
func (l *Looker) Engine() string { return l.engine.Name() }

// restTime is how long what has come of a text is looked at when there is no more time for what has not come.
const restTime = 50 * time.Millisecond

// gate hands text on until it is closed.
type gate struct {
	mu     sync.Mutex
	t      *match.Text
	closed bool
}

var errClosed = errors.New("no more time")

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, errClosed
	}
	return g.t.Write(b)
}

// Look looks into one document. If that takes longer than most (0: however long), what was found until then is the answer; stuck says
// that something is still at work on it, so that nothing else can be looked into.
//
// A document that is not what it seems is looked into as it is, too, and so is one that is printed: as what, whoever prints it says.
func (l *Looker) Look(s text.Source, name string, most time.Duration) (a scan.Answer, stuck bool, err error) {
	begun := time.Now()
	a, stuck, err = l.once(func(w io.Writer) (text.Report, error) { return text.Extract(s, name, w, text.Usual) }, most)
	if err != nil || stuck || name != platform.AsIs && !slices.Contains(a.Unread, text.Broken) {
		return a, stuck, err
	}
	if most > 0 {
		most = max(most-time.Since(begun), time.Millisecond)
	}
	b, stuck, err := l.once(func(w io.Writer) (text.Report, error) { return text.AsIs(s, w, text.Usual) }, most)
	for _, f := range b.Found {
		if i := slices.IndexFunc(a.Found, func(x scan.Found) bool { return x.Pattern == f.Pattern }); i < 0 {
			a.Found = append(a.Found, f)
		} else if f.Count > a.Found[i].Count {
			a.Found[i] = f
		}
	}
	slices.SortFunc(a.Found, func(x, y scan.Found) int { return x.Pattern - y.Pattern })
	for _, why := range b.Unread {
		if !slices.Contains(a.Unread, why) {
			a.Unread = append(a.Unread, why)
		}
	}
	return a, stuck, err
}

// once looks into the text that is written for it.
func (l *Looker) once(write func(io.Writer) (text.Report, error), most time.Duration) (a scan.Answer, stuck bool, err error) {
	g := &gate{t: l.engine.Text()}
	type ended struct {
		report text.Report
		err    error
	}
	done := make(chan ended, 1)
	go func() {
		var e ended
		defer func() {
			if p := recover(); p != nil {
				e.err = fmt.Errorf("the scanner has a fault (%T)", p) // not the value: it may have text of the document in it
			}
			done <- e
		}()
		e.report, e.err = write(g)
	}()
	var late <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		late = timer.C
	}
	var e ended
	select {
	case e = <-done:
	case <-late:
		stuck = true
		e.report.Unread = []string{scan.Late}
	}
	if stuck && !g.mu.TryLock() { // it looks for patterns right now
		g.t.Stop()
		g.mu.Lock()
	} else if stuck { // the rest that has come may be looked at for a moment
		defer time.AfterFunc(restTime, g.t.Stop).Stop()
	} else {
		g.mu.Lock()
	}
	defer g.mu.Unlock()
	g.closed = true
	if e.err != nil && !errors.Is(e.err, match.ErrFull) && !errors.Is(e.err, match.ErrStopped) {
		return a, stuck, e.err
	}
	found, err := g.t.Close()
	if err != nil {
		return a, stuck, err
	}
	a.Kind, a.Unread = e.report.Kind, e.report.Unread
	for _, f := range found {
		a.Found = append(a.Found, scan.Found{Pattern: f.Pattern, Count: f.Count, Mark: l.mark(f.Pattern, f.First)})
	}
	return a, stuck, nil
}

// mark stands for a text: the same for the same text on this machine, however it is written, and nothing to anybody else.
func (l *Looker) mark(pattern int, b []byte) string {
	h := hmac.New(sha256.New, l.key)
	fmt.Fprintf(h, "%d\n", pattern)
	h.Write([]byte(sensitive.Bare(b)))
	return hex.EncodeToString(h.Sum(nil)[:8])
}
