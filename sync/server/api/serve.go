package api

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// Handler serves the API.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for i := range routes {
		r := &routes[i]
		methods[r.path] = append(methods[r.path], r.method)
		names := valuesOf(r.path)
		seen := a.stats.route(r)
		mux.HandleFunc(r.method+" "+protocol.Base+r.path, func(w http.ResponseWriter, q *http.Request) {
			began := time.Now()
			s := &statusWriter{ResponseWriter: w}
			a.serve(r, names, s, q)
			seen(s.status, time.Since(began))
		})
	}
	// A path that exists with another method is 405; only an unknown path is 404.
	other := http.NewServeMux()
	for path, list := range methods {
		if slices.Contains(list, http.MethodGet) {
			list = append(list, http.MethodHead)
		}
		other.HandleFunc(protocol.Base+path, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Allow", strings.Join(list, ", "))
			a.refuse(w, &problem{status: http.StatusMethodNotAllowed, code: "method_not_allowed",
				message: fmt.Sprintf("method %.20q is not one of %s", q.Method, strings.Join(list, ", "))})
		})
	}
	a.operational(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		if h, pattern := other.Handler(q); pattern != "" {
			h.ServeHTTP(w, q)
			return
		}
		a.refuse(w, &problem{status: http.StatusNotFound, code: "not_found", message: fmt.Sprintf("no such resource: %.200q", q.URL.Path)})
	})
	return a.headed(mux, func(w http.ResponseWriter, q *http.Request) {
		a.refuse(w, &problem{status: http.StatusNotFound, code: "not_found", message: fmt.Sprintf("no such resource: %.200q", q.URL.Path)})
	})
}

// headed sets the headers of all answers, and has paths refused that the mux would redirect to a clean one, with an HTML page.
func (a *API) headed(mux http.Handler, unclean http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if a.TLS {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if p := q.URL.Path; !strings.HasPrefix(p, "/") || strings.TrimSuffix(p, "/") != strings.TrimSuffix(path.Clean("/"+p), "/") {
			unclean(w, q)
			return
		}
		mux.ServeHTTP(w, q)
	})
}

// statusWriter remembers the status for the metrics.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(code int) {
	s.status = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap lets the websocket library take the connection over.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (a *API) refuse(w http.ResponseWriter, err error) {
	status, body := a.answer(w, newID(), err)
	a.write(w, status, body)
}

func newID() string { return strings.ToLower(rand.Text()[:16]) }

// requestID uses the caller's id if it is a plain one.
func requestID(q *http.Request) string {
	id := q.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return newID()
	}
	return id
}

// serve answers one request: the caller, the body, a place, the handler.
func (a *API) serve(r *route, names []string, w http.ResponseWriter, hq *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			id := newID()
			a.Log.Error("a request ended in a panic", "route", r.method+" "+r.path, "request", id, "panic", p, "stack",
				string(debug.Stack()))
			a.write(w, http.StatusInternalServerError, protocol.Problem{Error: &protocol.ProblemBody{Code: "internal",
				Message: "internal error; the server's log has the details under this request's id", RequestID: id}})
		}
	}()
	q := &request{Request: hq, w: w, now: a.Now(), route: r, names: names}
	people := r.access == viewer || r.access == admin
	if people {
		q.id = requestID(hq)
		w.Header().Set("X-Request-Id", q.id)
	}
	out, status, err := a.run(q)
	if errors.Is(err, errHijacked) {
		return
	}
	if err != nil {
		if q.id == "" {
			q.id = newID()
		}
		var body any
		status, body = a.answer(w, q.id, err)
		out = body
	}
	if s, is := out.(streamed); is {
		w.Header().Set("Content-Type", s.kind)
		s.send(w, hq)
		return
	}
	raw, is := out.(rawBody)
	if is {
		w.Header().Set("Content-Type", raw.kind)
		w.WriteHeader(status)
		_, _ = w.Write(raw.body)
		return
	}
	if err == nil && people && q.key() != "" && w.Header().Get("Idempotency-Replayed") == "" {
		// Before the answer is sent, and also if the caller has gone: then it will be asked for again.
		if err := a.keep(q, status, out); err != nil {
			a.Log.Error("an answer could not be kept for its idempotency key", "request", q.id, "error", err)
		}
	}
	a.write(w, status, out)
}

// rawBody is an answer that is not JSON.
type rawBody struct {
	kind string
	body []byte
}

// run calls the handler, through the idempotency key if there is one.
func (a *API) run(q *request) (out any, status int, err error) {
	for _, name := range q.names {
		if v := q.PathValue(name); len(v) > 256 || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
			return nil, 0, store.ErrNotFound
		}
	}
	// The caller and the body are read before the request takes a place, so that a body that does not arrive occupies
	// none.
	hash, err := a.admit(q)
	if err == nil {
		err = q.read(a, hash)
	}
	if err != nil {
		// Do not wait long for the rest of the body; net/http would wait a minute.
		_ = http.NewResponseController(q.w).SetReadDeadline(time.Now().Add(bodyGrace))
		return nil, 0, err
	}
	if !a.enter() {
		return nil, 0, &problem{status: http.StatusServiceUnavailable, code: "busy", message: "the server is overloaded; try again later"}
	}
	q.leave = sync.OnceFunc(func() { <-a.inFlight })
	defer q.leave()
	defer func() {
		if q.known != nil {
			q.known.release()
		}
	}()
	if q.sender != nil {
		if err := a.take(q); err != nil {
			return nil, 0, err
		}
	}
	if err := q.parameters(); err != nil {
		return nil, 0, err
	}
	status = q.route.status
	if status == 0 {
		status = http.StatusOK
	}
	if q.route.access == viewer || q.route.access == admin {
		if out, status, err, done := a.replay(q); done {
			return out, status, err
		}
		q.Request = q.WithContext(store.WithActor(q.Context(), store.Actor{By: q.by, Request: q.id, Key: q.key(), Body: q.fingerprint()}))
	}
	out, err = q.route.call(a, q)
	if err == nil && q.route.access == admin && q.Method != http.MethodGet {
		// The next reader on this node sees the change; other nodes read it by themselves.
		if cerr := a.changed(q.Context()); cerr != nil {
			a.Log.Error("cannot follow a change", "request", q.id, "error", cerr)
		}
	}
	if q.status != 0 {
		status = q.status
	}
	return out, status, err
}

const (
	// bodyGrace is how long the rest of a refused request's body may take.
	bodyGrace = 2 * time.Second
	// smallBody is how long the body of an unauthenticated request may take.
	smallBody = 15 * time.Second
)

var pathValue = regexp.MustCompile(`{(\w+)}`)

// valuesOf names the values in a route's path.
func valuesOf(path string) (out []string) {
	for _, m := range pathValue.FindAllStringSubmatch(path, -1) {
		out = append(out, m[1])
	}
	return out
}

// enter counts a request; false if there are too many at once.
func (a *API) enter() bool {
	select {
	case a.inFlight <- struct{}{}:
		return true
	default:
		a.stats.shed.Inc()
		return false
	}
}
