package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/namelist"
)

// request is what a handler works on.
type request struct {
	*http.Request
	w      http.ResponseWriter
	id     string
	now    time.Time
	body   []byte
	params url.Values
	route  *route
	names  []string // of the values in its path
	bearer string
	by     string // the administrator
	role   string
	sender *entry // the device that signed
	known  *entry // the same, locked for this request
	status int    // if it is not the route's
	leave  func() // ends the request's count; a socket calls it once it is up
}

// read reads the body, within its bound, after the caller is known.
func (q *request) read(a *API, hash string) error {
	if q.route.stream {
		if q.ContentLength > namelist.MaxUpload {
			q.w.Header().Set("Connection", "close")
			return &problem{status: http.StatusRequestEntityTooLarge, code: "too_large",
				message: fmt.Sprintf("the body is larger than %d bytes", namelist.MaxUpload)}
		}
		q.body = []byte{}
		return nil
	}
	limit := int64(1 << 20)
	switch q.route.access {
	case device:
		limit = protocol.MaxRequest
	case token:
		limit = 64 << 10
	case anyone:
		limit = 1 << 10
	}
	if q.route.in == nil && q.route.access != device { // "{}" at most
		limit = 1 << 10
	}
	if q.route.most > 0 {
		limit = q.route.most
	}
	if q.route.access == token || q.route.access == anyone {
		_ = http.NewResponseController(q.w).SetReadDeadline(time.Now().Add(smallBody))
	}
	if q.ContentLength > limit { // before it is asked for: a client that expects 100 Continue sends nothing
		q.w.Header().Set("Connection", "close")
		return &problem{status: http.StatusRequestEntityTooLarge, code: "too_large",
			message: fmt.Sprintf("the body is larger than %d bytes", limit)}
	}
	if q.ContentLength == 0 {
		q.body = []byte{}
	} else {
		done, err := a.room(q, limit)
		if err != nil {
			return err
		}
		defer done()
		// Allocate the announced size if it is plausible: most reports have one kilobyte.
		b := bytes.NewBuffer(make([]byte, 0, min(max(q.ContentLength, 0), 64<<10)+bytes.MinRead))
		if _, err := b.ReadFrom(http.MaxBytesReader(q.w, q.Body, limit)); err != nil {
			return tooLarge(err, limit)
		}
		q.body = b.Bytes()
		if q.route.access == token || q.route.access == anyone {
			_ = http.NewResponseController(q.w).SetReadDeadline(time.Now().Add(time.Minute)) // unchanged
		}
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

// Bodies use memory while they arrive, before their request has a place. Each device may send a few at a time, and
// large ones share a limit. Large ones are rare: a report has a kilobyte, and agents since 0.6 send 768 KiB at most.
const (
	largeBody   = 64 << 10
	largeBodies = 256 << 20 // announced bytes of all large bodies at a time
	roomWait    = 5 * time.Second
)

// room waits until a body may be read; call done afterwards.
func (a *API) room(q *request, limit int64) (done func(), err error) {
	leave := func() {}
	if e := q.sender; e != nil {
		if e.coming.Add(1) > maxComing {
			e.coming.Add(-1)
			return nil, &problem{status: http.StatusTooManyRequests, code: "busy",
				message: "too many requests of this device are in progress"}
		}
		leave = func() { e.coming.Add(-1) }
	}
	size := q.ContentLength
	if size < 0 {
		size = limit
	}
	if size <= largeBody {
		return leave, nil
	}
	ctx, cancel := context.WithTimeout(q.Context(), roomWait)
	defer cancel()
	if err := a.large.Acquire(ctx, size); err != nil {
		leave()
		a.stats.shed.Inc()
		return nil, &problem{status: http.StatusServiceUnavailable, code: "busy",
			message: "the server is reading too many large bodies; try again later"}
	}
	return func() { a.large.Release(size); leave() }, nil
}

// tooLarge is the error of a body above its limit.
func tooLarge(err error, limit int64) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &problem{status: http.StatusRequestEntityTooLarge, code: "too_large",
			message: fmt.Sprintf("the body is larger than %d bytes", limit)}
	}
	return &problem{status: http.StatusBadRequest, code: "bad_request", message: "the body cannot be read: " + err.Error()}
}

// parameters refuses what the route does not accept.
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
			errs = append(errs, policy.Error{Field: "?" + short(name), Message: "is not a parameter of this operation",
				Received: short(v[0])})
		case len(v) > 1:
			errs = append(errs, policy.Error{Field: "?" + name, Message: "appears more than once", Received: len(v)})
		default:
			if m := q.route.query[i].check(v[0]); m != "" {
				errs = append(errs, policy.Error{Field: "?" + name, Message: m, Received: short(v[0])})
			}
		}
	}
	return invalid(errs)
}

func short(s string) string { return policy.Short(s).(string) }

// check says what is wrong with a parameter's value; "" for nothing.
func (p param) check(v string) string {
	if p.kind == "integer" {
		if n, err := strconv.Atoi(v); err != nil || n < 1 || n > p.most {
			return fmt.Sprintf("must be a whole number from 1 to %d", p.most)
		}
		return ""
	}
	if most := cmp.Or(p.most, 256); len(v) > most || !utf8.ValidString(v) || policy.Control(v) {
		return fmt.Sprintf("must have at most %d bytes of UTF-8 without control characters", most)
	}
	if p.format == "date-time" {
		if _, err := time.Parse(time.RFC3339, v); err != nil {
			return "must be a time such as 2026-11-26T18:00:00Z"
		}
	}
	if len(p.enum) > 0 && !slices.Contains(p.enum, v) {
		return "must be one of " + strings.Join(p.enum, ", ")
	}
	return ""
}

func bad(message string) error {
	message = short(message) // a parser's message may repeat the input
	return &problem{status: http.StatusBadRequest, code: "bad_request", message: message}
}

// invalid is 400 with every error, or nil if there is none.
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

// decode reads a body strictly: size, depth, UTF-8, duplicate names, trailing data, then every field against the
// schema, with all errors at once.
func (q *request) decode(a *API, to any) error {
	tree, errs := policy.Parse(q.body)
	if err := invalid(errs); err != nil {
		return err
	}
	if _, ok := tree.(map[string]any); !ok {
		return bad("the body must be an object")
	}
	numbers(tree, "", &errs)
	if err := invalid(errs); err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(q.body, &v); err != nil {
		return bad("the body cannot be read: " + err.Error())
	}
	res := &huma.ValidateResult{}
	huma.Validate(registry, registry.Schema(reflect.TypeOf(to).Elem(), true, ""), huma.NewPathBuffer([]byte{}, 0),
		huma.ModeWriteToServer, v, res)
	for _, err := range res.Errors {
		var d *huma.ErrorDetail
		if !errors.As(err, &d) {
			d = &huma.ErrorDetail{Message: err.Error()}
		}
		errs = append(errs, fieldError(d))
	}
	if err := invalid(errs); err != nil {
		return err
	}
	if err := json.Unmarshal(q.body, to); err != nil {
		return bad("the body cannot be read: " + err.Error())
	}
	return nil
}

// numbers finds numbers that no JSON reader represents.
func numbers(v any, field string, errs *policy.Errors) {
	switch x := v.(type) {
	case json.Number:
		if _, err := x.Float64(); err != nil {
			*errs = append(*errs, policy.Error{Field: field, Message: "must be a number that can be represented",
				Received: policy.Short(x)})
		}
	case []any:
		for i := range x {
			numbers(x[i], fmt.Sprintf("%s[%d]", field, i), errs)
		}
	case map[string]any:
		for name := range x {
			numbers(x[name], strings.TrimPrefix(field+"."+short(name), "."), errs)
		}
	}
}

// fieldError turns a schema's error into ours: a missing field is named as a field, and what was received is repeated
// in short.
func fieldError(d *huma.ErrorDetail) policy.Error {
	e := policy.Error{Field: short(d.Location), Message: d.Message, Received: policy.Short(d.Value)}
	if name, is := strings.CutPrefix(d.Message, "expected required property "); is {
		if name, is = strings.CutSuffix(name, " to be present"); is {
			e.Field, e.Message, e.Received = strings.TrimPrefix(e.Field+"."+name, "."), "must be present", nil
		}
	}
	return e
}

// ifMatch returns the version that a caller wants to change, from If-Match; 0 for any.
func (q *request) ifMatch() (int, error) {
	v := strings.TrimSpace(q.Header.Get("If-Match"))
	if v == "" || v == "*" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.Trim(v, `"`))
	if err != nil || n < 1 {
		return 0, &problem{status: http.StatusPreconditionFailed, code: "precondition_failed",
			message: fmt.Sprintf("If-Match %.80q is not an ETag of this resource", v)}
	}
	return n, nil
}

// precondition is the error if a caller's If-Match names another version.
func precondition(have, want int) error {
	if want != 0 && have != want {
		return &problem{status: http.StatusPreconditionFailed, code: "precondition_failed",
			message: fmt.Sprintf("it is at version %d, not %d", have, want)}
	}
	return nil
}

func (q *request) etag(version int) { q.w.Header().Set("ETag", strconv.Quote(strconv.Itoa(version))) }
