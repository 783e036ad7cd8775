// Package localapi answers requests from people on the machine: HTTP over a unix socket, with one table of routes. Each
// route has an access level, which is checked against the peer's credentials. The package owns the socket and who may
// call what; the answers come from the agent.
package localapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tailscale/peercred"

	"github.com/warderd/warder/platform/seat"
)

// Access levels.
type Access int

const (
	Read    Access = iota // any local user; without what monitor mode found
	User                  // any local user; bounded requests that change something small
	Root                  // root, or the user the agent runs as
	Session               // a process of a login session, for what that session's helper says and asks
)

// maxBody bounds a request.
const maxBody = 64 << 10

// Caller identifies the caller, as the kernel did when the connection was made.
type Caller struct {
	UID  string `json:"uid"`
	PID  int    `json:"pid,omitempty"`
	Root bool   `json:"root"`
	// Session is the login session of the process; "" for none.
	Session string `json:"session,omitempty"`
}

// share names the user whose limits apply to a caller. With user namespaces, one user may own thousands of subordinate
// ids; all of them share that user's limits.
func (c Caller) share() string { return shareOf(c.UID, subordinate) }

// subordinate is the file that assigns such ids (subuid(5)).
const subordinate = "/etc/subuid"

// The bounds of that file, and the lowest id that it may assign.
const (
	maxSubordinate   = 256 << 10
	leastSubordinate = 100_000
)

// shareOf is share, with the file of subordinate ids as an argument.
func shareOf(uid, file string) string {
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil || n < leastSubordinate {
		return uid
	}
	f, err := os.Open(file)
	if err != nil {
		return uid
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxSubordinate))
	for lines.Scan() {
		p := strings.Split(lines.Text(), ":")
		if len(p) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(p[1], 10, 32)
		count, err2 := strconv.ParseUint(p[2], 10, 32)
		if err1 == nil && err2 == nil && n >= first && n-first < count {
			return "subordinate of " + p[0]
		}
	}
	return uid
}

// Error is an answer that reports a failure.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code,omitempty"` // for programs, if there is one
	Message string `json:"error"`
}

// Codes of errors that commands handle in their own way.
const (
	CodeNotEnrolled = "not_enrolled"
	CodeNoHold      = "no_hold"
	CodeNeedsRoot   = "needs_root"
)

func (e *Error) Error() string { return e.Message }

// Foreign reports that the text comes from whoever answered (cli.Foreign).
func (e *Error) Foreign() {}

// Is reports whether an answer has a code.
func Is(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Route is one line of the table.
type Route struct {
	Method, Path string
	Access       Access
	// Handle returns a value to encode as JSON. body has at most 64 KiB.
	Handle func(ctx context.Context, c Caller, q *http.Request, body []byte) (any, error)
	// Stream writes one JSON value per line until it returns. It replaces Handle.
	Stream func(ctx context.Context, c Caller, q *http.Request, send func(any) error) error
	// List writes one JSON array, item by item, without collecting it in memory. It replaces Handle.
	List func(ctx context.Context, c Caller, q *http.Request, send func(any) error) error
	// Upload reads a body of at most MaxUpload bytes while it comes. It replaces Handle. One of each user, and maxUploads of all, are
	// answered at a time.
	Upload    func(ctx context.Context, c Caller, q *http.Request, body io.Reader) (any, error)
	MaxUpload int64
	// Heavy requests are answered one at a time for each user. Another one waits for a moment, and is then told to come
	// again.
	Heavy bool
	// Alone requests are answered one at a time for each login session. Another one is refused within a second.
	Alone bool
}

// How long a caller may take to read a part of an answer, and how long a request waits for the caller's previous one.
const (
	writeWait = 5 * time.Second
	turnWait  = 3 * time.Second
)

// maxUploads is how many uploads are answered at a time, and uploadWait how long one may take to come.
const (
	maxUploads = 4
	uploadWait = 5 * time.Second
)

// maxFollow is how many streams one user may follow.
const maxFollow = 2

// Listen creates the socket, and replaces an existing one. The caller has the process lock, so no living agent owns the
// old socket: whoever answers on it may be an agent that was killed and is stuck in the kernel.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Everybody may connect; credentials decide what each may ask.
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // see above
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

type callerKey struct{}

// Serve answers until ctx ends. asked is called before each request is answered; it may be nil.
func Serve(ctx context.Context, l net.Listener, routes []Route, asked func(), log *slog.Logger) error {
	mux := http.NewServeMux()
	s := &turns{by: map[string]chan struct{}{}}
	for _, r := range routes {
		mux.HandleFunc(r.Method+" "+r.Path, func(w http.ResponseWriter, q *http.Request) {
			if asked != nil {
				asked()
			}
			s.serve(r, w, q)
		})
	}
	return listen(ctx, l, mux, log)
}

// listen serves HTTP on a listener until ctx ends.
func listen(ctx context.Context, l net.Listener, mux http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, caller(c))
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(bounded(l)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("local API: %w", err)
	}
	return nil
}

// caller reads the peer's credentials. If they cannot be read, the caller may do what any user may.
func caller(c net.Conn) Caller {
	if b, ok := c.(*boundedConn); ok {
		c = b.Conn
	}
	creds, err := peercred.Get(c)
	if err != nil {
		return Caller{}
	}
	uid, _ := creds.UserID()
	pid, _ := creds.PID()
	return Caller{UID: uid, PID: pid, Root: uid == "0" || uid == strconv.Itoa(os.Getuid())}
}

// inSession finds a caller's session. By now another process may have the caller's number, so only a session of the
// caller's own user counts.
func inSession(c Caller) Caller {
	if uid, err := strconv.ParseUint(c.UID, 10, 32); err == nil {
		c.Session = seat.Session(uint32(uid), c.PID)
	}
	return c
}

// turns limits how many requests of a kind each user has at a time.
type turns struct {
	mu sync.Mutex
	by map[string]chan struct{}
}

// take waits for a turn, at most the given time. It reports whether there is one; leave ends it.
func (t *turns) take(ctx context.Context, key string, most int, wait time.Duration) (leave func(), ok bool) {
	t.mu.Lock()
	turn := t.by[key]
	if turn == nil {
		if len(t.by) > 10*maxConns {
			t.by = map[string]chan struct{}{} // a turn is never handed over; the number of connections bounds them
		}
		turn = make(chan struct{}, most)
		t.by[key] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, true
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, false
}

// serve answers one request in the form that its route has.
func (t *turns) serve(r Route, w http.ResponseWriter, q *http.Request) {
	c, _ := q.Context().Value(callerKey{}).(Caller)
	rc := http.NewResponseController(w)
	// An answer has to be read within a moment, or the connection is closed.
	defer func() { _ = rc.SetWriteDeadline(time.Now().Add(writeWait)) }()
	if r.Access == Root && !c.Root {
		fail(w, &Error{Status: http.StatusForbidden, Code: CodeNeedsRoot, Message: "this needs root: run it with sudo"})
		return
	}
	c = inSession(c)
	if r.Access == Session && c.Session == "" {
		fail(w, &Error{Status: http.StatusForbidden, Message: "this is for a program of a login session"})
		return
	}
	if r.Upload != nil {
		t.upload(r, w, q, c)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		fail(w, &Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the request is larger than %d bytes", maxBody)})
		return
	}
	key, most, wait := "heavy "+c.share(), 1, turnWait
	if r.Stream != nil {
		key, most, wait = "follow "+c.share(), maxFollow, 0
	}
	if r.Alone {
		key, wait = "alone "+r.Path+" "+c.Session, time.Second // one that hung up leaves a moment later
	}
	if r.Heavy || r.Alone || r.Stream != nil {
		leave, ok := t.take(q.Context(), key, most, wait)
		if !ok {
			_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
			fail(w, &Error{Status: http.StatusTooManyRequests,
				Message: "another request of yours is being answered; try again when it has ended"})
			return
		}
		defer leave()
	}
	switch {
	case r.Stream != nil:
		_ = rc.SetReadDeadline(time.Time{})
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(w)
		_ = r.Stream(q.Context(), c, q, func(v any) error {
			_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
			if err := enc.Encode(v); err != nil {
				return err
			}
			return rc.Flush()
		})
	case r.List != nil:
		list(r, w, q, c)
	default:
		if r.Alone { // it may take long, and the deadline for reading the request would end it
			_ = rc.SetReadDeadline(time.Time{})
		}
		v, err := r.Handle(q.Context(), c, q, body)
		_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

// whole is a body; end is called at its end: the deadline for its coming would otherwise end a request that is being answered.
type whole struct {
	io.Reader
	end func()
}

func (b *whole) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		b.end()
	}
	return n, err
}

// upload answers a request whose body is read while it comes: not before it is its turn, because many large ones would be too much.
func (t *turns) upload(r Route, w http.ResponseWriter, q *http.Request, c Caller) {
	rc := http.NewResponseController(w)
	for _, turn := range []struct { // its own first: who waits for that takes no place of others
		key  string
		most int
	}{{"upload of " + c.share(), 1}, {"upload", maxUploads}} {
		leave, ok := t.take(q.Context(), turn.key, turn.most, turnWait)
		if !ok {
			// What has come is read, or the answer may be lost with the connection.
			_ = rc.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = io.CopyN(io.Discard, q.Body, r.MaxUpload)
			_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
			fail(w, &Error{Status: http.StatusTooManyRequests, Message: "other requests are being answered; try again when they have ended"})
			return
		}
		defer leave()
	}
	_ = rc.SetReadDeadline(time.Now().Add(uploadWait))
	body := &whole{http.MaxBytesReader(w, q.Body, r.MaxUpload), func() { _ = rc.SetReadDeadline(time.Time{}) }}
	v, err := r.Upload(q.Context(), c, q, body)
	_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// list writes an array item by item. An error after the beginning cuts the array off, so that it cannot be mistaken for
// a whole one.
func list(r Route, w http.ResponseWriter, q *http.Request, c Caller) {
	rc := http.NewResponseController(w)
	begun := false
	send := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		before := ","
		if !begun {
			w.Header().Set("Content-Type", "application/json")
			begun, before = true, "["
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
		if _, err = io.WriteString(w, before); err == nil {
			_, err = w.Write(b)
		}
		return err
	}
	err := r.List(q.Context(), c, q, send)
	_ = rc.SetWriteDeadline(time.Now().Add(writeWait))
	switch {
	case err != nil && !begun:
		fail(w, err)
	case err != nil:
		panic(http.ErrAbortHandler)
	case begun:
		_, _ = io.WriteString(w, "]\n")
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "[]\n")
	}
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Message: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}

// Limits on connections: a user who opens many must not keep others, least of all root, from asking.
const (
	maxConns = 256
	maxUser  = 8
)

type boundedListener struct {
	net.Listener
	mu  sync.Mutex
	all int
	by  map[string]int
}

func bounded(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, by: map[string]int{}}
}

// Accept takes the next connection whose user has not too many.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := caller(c)
		if !l.take(who) {
			_ = c.Close()
			continue
		}
		return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(who) })}, nil
	}
}

// take counts a connection; false if there are too many.
func (l *boundedListener) take(c Caller) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.Root && (l.by[c.share()] >= maxUser || l.all >= maxConns) {
		return false
	}
	l.all++
	l.by[c.share()]++
	return true
}

// leave uncounts a connection.
func (l *boundedListener) leave(c Caller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.by[c.share()]--; l.by[c.share()] == 0 {
		delete(l.by, c.share())
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection and uncounts it once.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
