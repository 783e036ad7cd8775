package api

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// access says who may call a route.
type access int

const (
	viewer access = iota // an administrator's token of either role
	admin
	device // signed by the device's key
	token  // an enrolment token, checked by the handler
	anyone // no token: the answer says nothing about anybody
)

// endpoint is a handler with the types of its bodies, from which it is documented and checked.
type endpoint struct {
	in, out reflect.Type
	free    bool // the body is a policy document: its own decoder checks it
	call    func(*API, *request) (any, error)
}

func get[O any](f func(*API, *request) (O, error)) endpoint {
	return endpoint{out: reflect.TypeFor[O](), call: func(a *API, q *request) (any, error) { return f(a, q) }}
}

func with[I, O any](f func(*API, *request, *I) (O, error)) endpoint {
	return endpoint{in: reflect.TypeFor[I](), out: reflect.TypeFor[O](), call: func(a *API, q *request) (any, error) {
		var in I
		if err := q.decode(a, &in); err != nil {
			return nil, err
		}
		return f(a, q, &in)
	}}
}

// document is an endpoint whose body holds a policy: I documents it, the policy decoder reads it.
func document[I, O any](f func(*API, *request) (O, error)) endpoint {
	e := get(f)
	e.in, e.free = reflect.TypeFor[I](), true
	return e
}

// param is a query parameter.
type param struct {
	name, doc string
	kind      string // "integer" or "string"
	def, most int
	enum      []string
}

// route is one line of the table.
type route struct {
	method, path string
	access       access
	summary      string
	endpoint
	status int // of success; 0 is 200
	query  []param
}

// request is what a handler works on.
type request struct {
	*http.Request
	w      http.ResponseWriter
	id     string
	now    time.Time
	body   []byte
	params url.Values
	route  *route
	bearer string
	by     string // the administrator
	sender *entry // the device that signed
	known  *entry // the same, held for this request
	status int    // where it is not the route's
	leave  func() // counts the request out; a socket does so once it is up
}

// Handler serves the API.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for i := range routes {
		r := &routes[i]
		methods[r.path] = append(methods[r.path], r.method)
		seen := a.stats.route(r)
		mux.HandleFunc(r.method+" "+protocol.Base+r.path, func(w http.ResponseWriter, q *http.Request) {
			began := time.Now()
			s := &statusWriter{ResponseWriter: w}
			a.serve(r, s, q)
			seen(s.status, time.Since(began))
		})
	}
	// What is there under another method is 405, and only what is not there at all 404.
	other := http.NewServeMux()
	for path, list := range methods {
		other.HandleFunc(protocol.Base+path, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Allow", strings.Join(list, ", "))
			a.refuse(w, &problem{status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: fmt.Sprintf("%.20q is none of %s", q.Method, strings.Join(list, ", "))})
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
	return mux
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

// requestID takes the caller's where it is a plain one.
func requestID(q *http.Request) string {
	id := q.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return newID()
	}
	return id
}

func (a *API) serve(r *route, w http.ResponseWriter, hq *http.Request) {
	q := &request{Request: hq, w: w, now: a.Now(), route: r}
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
	raw, is := out.(rawBody)
	if is {
		w.Header().Set("Content-Type", raw.kind)
		w.WriteHeader(status)
		_, _ = w.Write(raw.body)
		return
	}
	if err == nil && people && q.key() != "" && w.Header().Get("Idempotency-Replayed") == "" {
		// Before it is sent, and also when the caller has gone: that is when it is asked for again.
		if err := a.keep(q, status, out); err != nil {
			a.Log.Error("an answer could not be kept for its idempotency key", "request", q.id, "error", err)
		}
	}
	a.write(w, status, out)
}

// keep stores an answer for its idempotency key, sealed: it may hold a token that is shown once.
func (a *API) keep(q *request, status int, out any) error {
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	box, err := a.seal(q)
	if err != nil {
		return err
	}
	nonce := make([]byte, box.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(box.Seal(nonce, nonce, b, nil))
	return a.Store.Answered(context.WithoutCancel(q.Context()), q.by, q.key(), status, text)
}

// seal is the cipher of answers kept for one key: the database alone, or a copy of it, does not open
// them.
func (a *API) seal(q *request) (cipher.AEAD, error) {
	block, err := aes.NewCipher(a.Keys.CodeSecret("idempotency\n" + q.by + "\n" + q.key()))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// rawBody is an answer that is not JSON.
type rawBody struct {
	kind string
	body []byte
}

func (a *API) run(q *request) (out any, status int, err error) {
	for _, m := range pathValue.FindAllStringSubmatch(q.route.path, -1) {
		if v := q.PathValue(m[1]); len(v) > 256 || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
			return nil, 0, store.ErrNotFound
		}
	}
	// Who calls and what they send are known before a place is taken: a body that does not come holds
	// none.
	hash, err := a.admit(q)
	if err != nil {
		return nil, 0, err
	}
	if err := q.read(a, hash); err != nil {
		return nil, 0, err
	}
	if !a.enter() {
		return nil, 0, &problem{status: http.StatusServiceUnavailable, code: "busy", message: "the server has as much to do as it can"}
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
		// Who asks next, here, sees the change; other nodes hear of it by themselves.
		if cerr := a.changed(q.Context()); cerr != nil {
			a.Log.Error("cannot follow a change", "request", q.id, "error", cerr)
		}
	}
	if q.status != 0 {
		status = q.status
	}
	return out, status, err
}

var pathValue = regexp.MustCompile(`{(\w+)}`)

// enter counts a request in; false when there are too many at once.
func (a *API) enter() bool {
	select {
	case a.inFlight <- struct{}{}:
		return true
	default:
		a.stats.shed.Inc()
		return false
	}
}

// read takes the body, within its bound, after the caller is known.
func (q *request) read(a *API, hash string) error {
	limit := int64(1 << 20)
	switch q.route.access {
	case device:
		limit = protocol.MaxRequest
	case token:
		limit = 64 << 10
	case anyone:
		limit = 1 << 10
	}
	if q.ContentLength == 0 {
		q.body = []byte{}
	} else {
		// Of the size that is announced, as far as that is plausible: most reports are one kilobyte.
		b := bytes.NewBuffer(make([]byte, 0, min(max(q.ContentLength, 0), 64<<10)+bytes.MinRead))
		_, err := b.ReadFrom(http.MaxBytesReader(q.w, q.Body, limit))
		if err != nil {
			return tooLarge(err, limit)
		}
		q.body = b.Bytes()
	}
	switch {
	case q.route.access == device:
		if err := protocol.VerifyBody(hash, q.body); err != nil {
			return &problem{status: http.StatusUnauthorized, code: "bad_signature", message: err.Error()}
		}
	case q.route.in == nil && len(bytes.TrimSpace(q.body)) > 0 && string(bytes.TrimSpace(q.body)) != "{}":
		return bad("this request takes no body")
	}
	return nil
}

func tooLarge(err error, limit int64) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", message: fmt.Sprintf("the body is larger than %d bytes", limit)}
	}
	return &problem{status: http.StatusBadRequest, code: "bad_request", message: "the body cannot be read: " + err.Error()}
}

// parameters refuses what the route does not take.
func (q *request) parameters() error {
	var err error
	if q.params, err = url.ParseQuery(q.URL.RawQuery); err != nil {
		return bad("the query cannot be read: " + err.Error())
	}
	var errs policy.Errors
	for name, v := range q.params {
		i := slices.IndexFunc(q.route.query, func(p param) bool { return p.name == name })
		switch {
		case i < 0:
			errs = append(errs, policy.Error{Field: "?" + short(name), Message: "is not a parameter here", Received: short(v[0])})
		case len(v) > 1:
			errs = append(errs, policy.Error{Field: "?" + name, Message: "must stand only once", Received: len(v)})
		default:
			if m := q.route.query[i].check(v[0]); m != "" {
				errs = append(errs, policy.Error{Field: "?" + name, Message: m, Received: short(v[0])})
			}
		}
	}
	return invalid(errs)
}

func short(s string) string { return s[:min(len(s), 200)] }

func (p param) check(v string) string {
	if p.kind == "integer" {
		if n, err := strconv.Atoi(v); err != nil || n < 1 || n > p.most {
			return fmt.Sprintf("must be a whole number from 1 to %d", p.most)
		}
		return ""
	}
	if len(v) > 256 || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
		return "must have at most 256 bytes of UTF-8 without control characters"
	}
	if len(p.enum) > 0 && !slices.Contains(p.enum, v) {
		return "must be one of " + strings.Join(p.enum, ", ")
	}
	return ""
}

func bad(message string) error {
	return &problem{status: http.StatusBadRequest, code: "bad_request", message: message}
}

// invalid is 400 with every error, or nil where there is none.
func invalid(errs policy.Errors) error {
	if len(errs) == 0 {
		return nil
	}
	sort.SliceStable(errs, func(i, j int) bool { return errs[i].Field < errs[j].Field })
	return &problem{http.StatusBadRequest, "invalid", errs.Error(), errs}
}

// number is a query parameter that parameters has checked.
func (q *request) number(name string) int {
	if v := q.params.Get(name); v != "" {
		n, _ := strconv.Atoi(v)
		return n
	}
	for _, p := range q.route.query {
		if p.name == name {
			return p.def
		}
	}
	return 0
}

func (q *request) page() (page, size int) { return q.number("page"), q.number("page_size") }

// registry holds the schemas of all bodies; the OpenAPI document and the checks share it.
//
// Names of fields are taken as they are written: "Policy_ID" is another field than "policy_id".
var registry = huma.NewMapRegistry("#/components/schemas/", schemaName)

// schemaName makes a type's name in the document: without the package, and with a capital.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	return strings.ToUpper(name[:1]) + name[1:]
}

// decode reads a body strictly: size, depth, UTF-8, double names, trailing data, then every field
// against the schema, with all errors at once.
func (q *request) decode(a *API, to any) error {
	tree, errs := policy.Parse(q.body)
	if err := invalid(errs); err != nil {
		return err
	}
	if _, ok := tree.(map[string]any); !ok {
		return bad("the body must be an object")
	}
	var v any
	if err := json.Unmarshal(q.body, &v); err != nil {
		return bad("the body cannot be read: " + err.Error())
	}
	res := &huma.ValidateResult{}
	huma.Validate(registry, registry.Schema(reflect.TypeOf(to).Elem(), true, ""), huma.NewPathBuffer([]byte{}, 0), huma.ModeWriteToServer, v, res)
	for _, err := range res.Errors {
		var d *huma.ErrorDetail
		if !errors.As(err, &d) {
			d = &huma.ErrorDetail{Message: err.Error()}
		}
		if _, is := d.Value.(map[string]any); is {
			d.Value = "an object"
		}
		errs = append(errs, policy.Error{Field: short(d.Location), Message: d.Message, Received: d.Value})
	}
	if err := invalid(errs); err != nil {
		return err
	}
	if err := json.Unmarshal(q.body, to); err != nil {
		return bad("the body cannot be read: " + err.Error())
	}
	return nil
}

// key is the caller's idempotency key.
func (q *request) key() string {
	if q.Method != http.MethodPost || q.route.access != admin {
		return ""
	}
	return q.Header.Get("Idempotency-Key")
}

// fingerprint is what a key stands for: the same request and nothing else.
func (q *request) fingerprint() string {
	h := sha256.Sum256(q.body)
	return q.Method + " " + q.URL.RequestURI() + " " + hex.EncodeToString(h[:])
}

// replay answers a request that was carried out before under the same key.
func (a *API) replay(q *request) (out any, status int, err error, done bool) {
	key := q.key()
	if key == "" {
		return nil, 0, nil, false
	}
	if len(key) > 128 || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
		return nil, 0, bad("Idempotency-Key must have 1 to 128 printing ASCII characters"), true
	}
	r, err := a.Store.Replay(q.Context(), q.by, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, 0, nil, false
	case err != nil:
		return nil, 0, err, true
	case r.Request != q.fingerprint():
		return nil, 0, &problem{status: http.StatusUnprocessableEntity, code: "idempotency_key_reused", message: "this Idempotency-Key was used for another request"}, true
	case r.Status == 0 && q.now.Sub(r.At) < 30*time.Second:
		return nil, 0, store.ErrReused, true // its answer is being written
	case r.Status == 0:
		return nil, 0, &problem{status: http.StatusConflict, code: "idempotency_answer_lost", message: fmt.Sprintf("the request was carried out as change %d of the audit log, and its answer was not kept", r.Sequence)}, true
	}
	box, err := a.seal(q)
	if err != nil {
		return nil, 0, err, true
	}
	raw, err := base64.StdEncoding.DecodeString(r.Response)
	if err != nil || len(raw) < box.NonceSize() {
		return nil, 0, errors.New("a kept answer cannot be read"), true
	}
	b, err := box.Open(nil, raw[:box.NonceSize()], raw[box.NonceSize():], nil)
	if err != nil {
		return nil, 0, fmt.Errorf("a kept answer cannot be read: %w", err), true
	}
	q.w.Header().Set("Idempotency-Replayed", "true")
	return json.RawMessage(b), r.Status, nil, true
}

// ifMatch gives the version that a caller wants to change, from If-Match; 0 for any.
func (q *request) ifMatch() (int, error) {
	v := strings.TrimSpace(q.Header.Get("If-Match"))
	if v == "" || v == "*" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.Trim(v, `"`))
	if err != nil || n < 1 {
		return 0, &problem{status: http.StatusPreconditionFailed, code: "precondition_failed", message: fmt.Sprintf("If-Match %.80q is no ETag of this resource", v)}
	}
	return n, nil
}

func precondition(have, want int) error {
	if want != 0 && have != want {
		return &problem{status: http.StatusPreconditionFailed, code: "precondition_failed", message: fmt.Sprintf("it is at version %d, not %d", have, want)}
	}
	return nil
}

func (q *request) etag(version int) { q.w.Header().Set("ETag", strconv.Quote(strconv.Itoa(version))) }
