// Package api is the policy server's HTTP: the Policies API for administrators and the device side
// of enrolment, check-in and push. It owns shapes, status codes and who may do what; it keeps
// nothing (sync/server/store does).
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// API serves one store.
type API struct {
	Store       *store.Store
	PolicyKey   *jose.JSONWebKey
	PolicyKeys  json.RawMessage
	RecoveryKey json.RawMessage
	// Admin names the subject and role of a bearer token.
	Admin func(token string, now time.Time) (subject, role string, err error)
	Now   func() time.Time
	Log   *slog.Logger
	// Interval is what devices are told to poll at.
	Interval time.Duration
	NoPush   bool

	hub     hub
	latency latency
}

// access says who may call a route.
type access int

const (
	open   access = iota // nobody is asked
	viewer               // an administrator's token of either role
	admin
	device // signed by the device's key
	token  // an enrolment token, checked by the handler
)

// route is one line of the table: the API is readable here.
type route struct {
	method, path string
	access       access
	handle       func(*API, *request) (int, any, error)
}

var routes = []route{
	{"GET", "/policies", viewer, listPolicies},
	{"POST", "/policies", admin, createPolicy},
	{"POST", "/policies/validate", viewer, validatePolicy},
	{"GET", "/policies/default", viewer, getDefault},
	{"PUT", "/policies/default", admin, putDefault},
	{"GET", "/policies/{id}", viewer, getPolicy},
	{"PUT", "/policies/{id}", admin, putPolicy},
	{"GET", "/policies/{id}/devices", viewer, policyDevices},
	{"GET", "/devices", viewer, listDevices},
	{"GET", "/devices/{id}", viewer, getDevice},
	{"DELETE", "/devices/{id}", admin, retireDevice},
	{"PUT", "/devices/{id}/policy", admin, assignDevice},
	{"GET", "/devices/{id}/events", viewer, deviceEvents},
	{"GET", "/latency", viewer, getLatency},
	{"POST", "/devices/enroll", token, enroll},
	{"POST", "/devices/{id}/checkin", device, checkin},
	{"GET", "/devices/{id}/push", device, push},
}

// request is what a handler works on.
type request struct {
	*http.Request
	w      http.ResponseWriter
	now    time.Time
	body   []byte
	bearer string
	by     string        // the administrator
	device *store.Device // the device that signed
}

// Handler serves the API.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.method+" "+protocol.Base+r.path, func(w http.ResponseWriter, q *http.Request) { a.serve(r, w, q) })
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { a.write(w, http.StatusOK, map[string]bool{"ok": true}) })
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		a.fail(w, &problem{http.StatusNotFound, "not_found", "no such resource: " + q.URL.Path})
	})
	return mux
}

// problem is an error with its status.
type problem struct {
	status        int
	code, message string
}

func (p *problem) Error() string { return p.message }

// detailed is an error whose body is more than code and message.
type detailed struct {
	status int
	body   any
}

func (d *detailed) Error() string { return "refused" }

// errHijacked: the handler took the connection over.
var errHijacked = errors.New("hijacked")

func (a *API) serve(r route, w http.ResponseWriter, q *http.Request) {
	req := &request{Request: q, w: w, now: a.Now()}
	limit := int64(1 << 20)
	if r.access == device {
		limit = protocol.MaxRequest
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, limit))
	if err != nil {
		a.fail(w, &problem{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is larger than %d bytes", limit)})
		return
	}
	req.body = body
	if err := a.admit(r, req); err != nil {
		a.fail(w, err)
		return
	}
	status, out, err := r.handle(a, req)
	switch {
	case errors.Is(err, errHijacked):
	case err != nil:
		a.fail(w, err)
	default:
		a.write(w, status, out)
	}
}

// admit checks who calls.
func (a *API) admit(r route, q *request) error {
	if r.access == open {
		return nil
	}
	bearer, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	if !ok || len(bearer) > 8<<10 {
		return &problem{http.StatusUnauthorized, "unauthorized", "an Authorization: Bearer token is needed"}
	}
	q.bearer = bearer
	switch r.access {
	case viewer, admin:
		by, role, err := a.Admin(bearer, q.now)
		if err != nil {
			return &problem{http.StatusUnauthorized, "unauthorized", err.Error()}
		}
		if r.access == admin && role != "admin" {
			return &problem{http.StatusForbidden, "forbidden", "this needs the role admin; the token has " + role}
		}
		q.by = by
	case device:
		return a.admitDevice(q)
	}
	return nil
}

func (a *API) admitDevice(q *request) error {
	d, err := a.Store.Device(q.Context(), q.PathValue("id"))
	if errors.Is(err, store.ErrNotFound) {
		return &problem{http.StatusUnauthorized, "unknown_device", "this device is not enrolled here"}
	}
	if err != nil {
		return err
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(d.Key, &key); err != nil {
		return err
	}
	err = protocol.VerifyRequest(q.bearer, key, d.ID, q.Method, q.URL.Path, q.body, q.now)
	if errors.Is(err, protocol.ErrClock) {
		at := q.now.UTC()
		return &detailed{http.StatusUnauthorized, protocol.Problem{Error: &protocol.ProblemBody{
			Code: protocol.CodeClock, Message: "the request expires at a time that is not within 60 s of the server's clock", ServerTime: &at,
		}}}
	}
	if err != nil {
		return &problem{http.StatusUnauthorized, "bad_signature", err.Error()}
	}
	if d.State == "cloned" {
		return &problem{http.StatusForbidden, protocol.CodeCloned, "two machines use this device's key: enrol each of them anew"}
	}
	q.device = d
	return nil
}

func (a *API) write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		a.Log.Error("cannot encode an answer", "error", err)
		http.Error(w, `{"error":{"code":"internal","message":"internal error"}}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func (a *API) fail(w http.ResponseWriter, err error) {
	var p *problem
	var d *detailed
	switch {
	case errors.As(err, &d):
		a.write(w, d.status, d.body)
	case errors.As(err, &p):
		a.write(w, p.status, protocol.Problem{Error: &protocol.ProblemBody{Code: p.code, Message: p.message}})
	case errors.Is(err, store.ErrNotFound):
		a.write(w, http.StatusNotFound, protocol.Problem{Error: &protocol.ProblemBody{Code: "not_found", Message: "no such resource"}})
	case errors.Is(err, context.Canceled):
	default:
		a.Log.Error("request failed", "error", err)
		w.Header().Set("Retry-After", "30")
		a.write(w, http.StatusServiceUnavailable, protocol.Problem{Error: &protocol.ProblemBody{Code: "unavailable", Message: "the server cannot answer now"}})
	}
}

// decode reads a body strictly.
func (q *request) decode(v any) error {
	dec := json.NewDecoder(bytes.NewReader(q.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &problem{http.StatusBadRequest, "bad_request", "the body cannot be read: " + err.Error()}
	}
	if _, err := dec.Token(); err != io.EOF {
		return &problem{http.StatusBadRequest, "bad_request", "the body holds more than one value"}
	}
	return nil
}

// number reads a query parameter.
func (q *request) number(name string, def, most int) (int, error) {
	v := q.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, &problem{http.StatusBadRequest, "bad_request", fmt.Sprintf("%s must be a whole number from 1 to %d (received %q)", name, most, v)}
	}
	return n, nil
}

// page reads page and page_size.
func (q *request) page() (page, size int, err error) {
	if page, err = q.number("page", 1, 1<<30); err != nil {
		return 0, 0, err
	}
	size, err = q.number("page_size", 20, 100)
	return page, size, err
}
