package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// FacadeOptions are what an operator says of a façade.
type FacadeOptions struct {
	Types map[string][]string // platforms of ours, by the vendor's kind of device, beside the vendor's own
	Apps  map[string][]string // programs of a laptop, by the vendor's id of an app
	Whole bool                // what is asked of a part of a device may be done to the whole machine
}

// Facade answers the calls of another vendor's clients. Who may call, bodies, places and limits are those of this API.
func (a *API) Facade(v *facade.Vendor, o FacadeOptions) http.Handler {
	types := maps.Clone(v.Types)
	maps.Copy(types, o.Types)
	o.Types = types
	mux, other := http.NewServeMux(), http.NewServeMux()
	allowed := map[string][]string{}
	for i := range v.Routes {
		r := &v.Routes[i]
		ours := &route{method: r.Method, path: r.Path, access: viewer, endpoint: endpoint{facade: v.Name, most: max(r.Body, 1<<10)}}
		switch r.Access {
		case facade.Admin:
			ours.access = admin
		case facade.Anyone:
			ours.access = anyone
		}
		if r.Body > 0 {
			ours.in = reflect.TypeFor[json.RawMessage]()
		}
		names := valuesOf(r.Path)
		seen := a.stats.route(&route{method: r.Method, path: v.Name + ":" + r.Path})
		for _, path := range []string{r.Path, r.Path + "/{$}"} {
			mux.HandleFunc(r.Method+" "+path, func(w http.ResponseWriter, hq *http.Request) {
				began, s := time.Now(), &statusWriter{ResponseWriter: w}
				a.serveFacade(v, &o, r, &request{Request: hq, w: s, now: a.Now(), route: ours, names: names, id: requestID(hq)})
				seen(s.status, time.Since(began))
			})
			if allowed[path] == nil {
				other.HandleFunc(path, func(w http.ResponseWriter, hq *http.Request) {
					w.Header().Set("Allow", strings.Join(allowed[path], ", "))
					a.sendAnswer(w, v.Refuse(hq, &facade.Problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
						Message: fmt.Sprintf("method %.20q is not one of %s", hq.Method, strings.Join(allowed[path], ", "))}))
				})
			}
			if allowed[path] = append(allowed[path], r.Method); r.Method == http.MethodGet {
				allowed[path] = append(allowed[path], http.MethodHead)
			}
		}
	}
	unknown := func(w http.ResponseWriter, q *http.Request) {
		a.sendAnswer(w, v.Refuse(q, &facade.Problem{Status: http.StatusNotFound, Code: "not_found",
			Message: fmt.Sprintf("no such resource: %.200q", q.URL.Path)}))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		if h, pattern := other.Handler(q); pattern != "" {
			h.ServeHTTP(w, q)
			return
		}
		unknown(w, q)
	})
	return a.headed(mux, unknown)
}

func (a *API) sendAnswer(w http.ResponseWriter, x facade.Answer) {
	for name, list := range x.Header {
		w.Header()[name] = list
	}
	if x.Type != "" {
		w.Header().Set("Content-Type", x.Type)
	}
	w.WriteHeader(cmp.Or(x.Status, http.StatusOK))
	_, _ = w.Write(x.Body)
}

// serveFacade answers one call.
func (a *API) serveFacade(v *facade.Vendor, o *FacadeOptions, r *facade.Route, q *request) {
	q.w.Header().Set("X-Request-Id", q.id)
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.Log.Error("a call ended in a panic", "facade", v.Name, "route", r.Method+" "+r.Path, "request", q.id, "panic", p, "stack",
				string(debug.Stack()))
			a.sendAnswer(q.w, v.Refuse(q.Request, &facade.Problem{Status: http.StatusInternalServerError, Code: "internal", Message: "internal error", ID: q.id}))
		}
	}()
	x, err := a.runFacade(v, o, r, q)
	if err != nil {
		var p *facade.Problem
		if !errors.As(err, &p) {
			p = &facade.Problem{Status: http.StatusInternalServerError, Code: "internal", Message: "internal error"}
			status, body := a.answer(q.w, q.id, err)
			if b, is := body.(protocol.Problem); is && b.Error != nil {
				p = &facade.Problem{Status: status, Code: b.Error.Code, Message: b.Error.Message}
			}
		}
		p.ID = q.id
		x = v.Refuse(q.Request, p)
	}
	a.sendAnswer(q.w, x)
}

// runFacade is run for a call of a façade: the caller, the body, a place, the handler.
func (a *API) runFacade(v *facade.Vendor, o *FacadeOptions, r *facade.Route, q *request) (x facade.Answer, err error) {
	for _, name := range q.names {
		if s := q.PathValue(name); len(s) > 256 || !utf8.ValidString(s) || policy.Control(s) {
			return x, store.ErrNotFound
		}
	}
	plain := q.Request
	if q.route.access != anyone {
		// The caller is checked as everybody's, whatever the vendor's header is called.
		q.Request = q.Clone(q.Context())
		q.Header.Del("Authorization")
		if t := v.Token(plain); t != "" {
			q.Header.Set("Authorization", "Bearer "+t)
		}
	}
	// Where a session is a cookie, a page of somebody else's could use it; clients that are no browsers say nothing of where they come from.
	if err = new(http.CrossOriginProtection).Check(plain); err != nil {
		return x, &problem{status: http.StatusForbidden, code: "forbidden", message: "the call comes from a page of another server"}
	}
	if _, err = a.admit(q); err == nil {
		err = q.read(a, "")
	}
	if err != nil {
		_ = http.NewResponseController(q.w).SetReadDeadline(time.Now().Add(bodyGrace))
		return x, err
	}
	if !a.enter() {
		return x, &problem{status: http.StatusServiceUnavailable, code: "busy", message: "the server is overloaded; try again later"}
	}
	defer func() { <-a.inFlight }()
	query, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return x, bad("the query cannot be read: " + err.Error())
	}
	q.Request = q.WithContext(store.WithActor(q.Context(), store.Actor{By: cmp.Or(q.by, v.Name), Request: q.id}))
	c := &facade.Call{Request: q.Request, Body: q.body, Query: query, By: q.by, Admin: q.role == "admin", Now: q.now, Fleet: &facadeFleet{a, v, q}, Types: o.Types, Apps: o.Apps, HTTPS: a.TLS, Whole: o.Whole}
	return r.Do(c)
}

// facadeFleet is what a call of a façade sees and changes.
type facadeFleet struct {
	a *API
	v *facade.Vendor
	q *request
}

func (f *facadeFleet) Login(credential string) (facade.Caller, error) {
	refused := errors.New("too long")
	var c facade.Caller
	var role string
	if len(credential) <= 8<<10 {
		c.By, role, c.Until, refused = f.a.Keys.Admin(credential, f.v.Name, f.q.now)
		c.Admin = role == "admin"
	}
	if refused == nil {
		return c, nil
	}
	err := f.a.limit.failed(f.q.Request, &problem{status: http.StatusUnauthorized, code: "unauthorized", message: "the credential is not valid"})
	var p *problem
	if errors.As(err, &p) && p.status == http.StatusUnauthorized { // which each façade says in its own way
		err = &facade.Problem{Status: p.status, Code: p.code, Message: p.message}
	}
	return facade.Caller{}, err
}

func (f *facadeFleet) Documents(kind string) ([]*store.VendorDocument, error) {
	return f.a.Store.VendorDocuments(f.q.Context(), f.v.Name, kind)
}

func (f *facadeFleet) Document(kind string, number int64) (*store.VendorDocument, error) {
	return orNil(f.a.Store.VendorDocumentOf(f.q.Context(), f.v.Name, kind, number))
}

func (f *facadeFleet) DocumentOf(policy string) (*store.VendorDocument, error) {
	d, err := orNil(f.a.Store.VendorDocument(f.q.Context(), policy))
	if d != nil && d.Vendor != f.v.Name {
		d = nil
	}
	return d, err
}

func orNil(d *store.VendorDocument, err error) (*store.VendorDocument, error) {
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return d, err
}

func (f *facadeFleet) Device(id string) (*facade.Device, error) {
	d, err := f.a.Store.Device(f.q.Context(), id)
	if err != nil {
		return nil, err
	}
	st := f.a.state.Load()
	out := &facade.Device{Device: d, LastSync: f.a.lastSync(d, f.q.now)}
	_, out.Why = f.a.stands(d, f.q.now)
	if effective, is := st.Effective(&d.Device, f.q.now); is {
		out.Policy = effective.Policy
		r, err := st.Render(effective)
		if err != nil {
			return nil, err
		}
		if has := currentOf(d); out.Why == "" && (has.ID != effective.Policy || has.Version != effective.Version || has.Digest != r.Digest) {
			out.Why = "the device has not reported this version of the policy yet"
		}
	}
	var list []storedFinding
	if d.Report.Findings != nil && json.Unmarshal(d.Report.Findings, &list) != nil {
		out.Why = "what it reported cannot be read"
	}
	for _, x := range list {
		out.Findings = append(out.Findings, x.Finding)
	}
	return out, nil
}

func (f *facadeFleet) Change(kind string, change func([]*store.VendorDocument) (*facade.Update, error)) error {
	err := f.a.Store.ChangeVendor(f.q.Context(), f.v.Name, kind, f.q.now, func(have []*store.VendorDocument) (*store.VendorChange, error) {
		for _, d := range have {
			d.Vendor, d.Kind = f.v.Name, kind
		}
		u, err := change(have)
		if err != nil {
			return nil, err
		}
		c := &store.VendorChange{Documents: u.Documents, Detail: u.Detail}
		for i := range u.Publish {
			p, err := f.publish(&u.Publish[i])
			if err != nil {
				return nil, err
			}
			if p != nil {
				c.Policies = append(c.Policies, *p)
			}
			if d := u.Publish[i].Document; !slices.Contains(c.Documents, d) {
				c.Documents = append(c.Documents, d) // if it says something else now, it is written
			}
		}
		for _, d := range c.Documents {
			d.Vendor, d.Kind = f.v.Name, kind
		}
		return c, nil
	})
	if err != nil {
		return err
	}
	if err := f.a.changed(f.q.Context()); err != nil {
		f.a.Log.Error("cannot follow a change", "request", f.q.id, "error", err)
	}
	return nil
}

// publish makes the next version of a document's policy; nil if nothing is to be written.
func (f *facadeFleet) publish(u *facade.Publication) (*store.VendorPolicy, error) {
	ctx := f.q.Context()
	if u.Carried == nil {
		u.Carried = &facade.Carried{}
	}
	for i, t := range u.Targets {
		var errs policy.Errors
		if checkTarget(fmt.Sprintf("targets[%d]", i), t, &errs); len(errs) > 0 {
			u.Targets = nil
			u.Carried.Notes = append(u.Carried.Notes, "No device has it: "+errs.Error())
			break
		}
	}
	u.Document.Report, _ = json.Marshal(u.Carried)
	var was *fleet.Policy
	var before *policy.Document
	if u.Document.Policy != "" {
		var err error
		if was, err = f.a.Store.Policy(ctx, u.Document.Policy); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	if was != nil {
		var err error
		if before, err = policy.Decode(was.Document(), policy.Options{}); err != nil {
			return nil, err
		}
	}
	switch {
	case u.Document.Gone && was == nil, u.Translation == nil && was == nil:
		return nil, nil // it was in force nowhere
	case u.Document.Gone:
		return &store.VendorPolicy{Policy: was, Delete: true}, nil
	}
	next := &fleet.Policy{ID: newPolicyID(), CreatedAt: f.q.now}
	if u.Translation != nil {
		var err error
		if next, err = fleet.FromDocument(u.Translation.Document); err != nil {
			return nil, err
		}
		next.ID, next.CreatedAt, next.Active = newPolicyID(), f.q.now, true
		next.Source = u.Translation.Source
	} else {
		copied := *was
		next = &copied
		next.Active = false
	}
	if was != nil {
		next.ID, next.CreatedAt, next.Version, next.Source = was.ID, was.CreatedAt, was.Version, was.Source
	}
	u.Document.Policy = next.ID
	out := &store.VendorPolicy{Policy: next}
	if next.Active {
		for _, t := range u.Targets {
			out.Assignments = append(out.Assignments, fleet.Assignment{Target: t, Priority: u.Priority})
		}
	}
	if was != nil && bytes.Equal(next.Document(), was.Document()) {
		out.Same = true
		return out, nil
	}
	after, err := decodePolicy(next.Document())
	if err != nil {
		return nil, err
	}
	out.Changes = changesOf(before, after)
	next.Version++
	next.UpdatedAt = f.q.now
	next.Digest = policy.DigestOf(next.Document())
	return out, nil
}

// madeElsewhere refuses a change to a policy that was made of another vendor's document: the next call of its client would undo it.
func madeElsewhere(p *fleet.Policy) error {
	if p.Source == "" {
		return nil
	}
	return &problem{status: http.StatusConflict, code: "foreign_source", message: "the policy was made of " + p.Source +
		", and is changed there; to have one of your own, create another policy"}
}

// assignedElsewhere refuses a change to an assignment that a façade has made: the next call of its client would undo it.
func assignedElsewhere(id string) error {
	if !store.Theirs(id) {
		return nil
	}
	return &problem{status: http.StatusConflict, code: "foreign_source", message: "the assignment was made by another console, and is changed there"}
}
