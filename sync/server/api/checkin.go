package api

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// assignmentLife is how long a signed policy is fresh. It is renewed past half of that.
const assignmentLife = 30 * 24 * time.Hour

// text is what a device says of itself in one line: bounded, and nothing that a terminal or a
// database would stumble over.
func text(errs *policy.Errors, field, v string, most int) {
	if len(v) > most {
		*errs = append(*errs, policy.Error{Field: field, Message: fmt.Sprintf("must have at most %d bytes", most), Received: len(v)})
	} else if strings.ContainsFunc(v, unicode.IsControl) {
		*errs = append(*errs, policy.Error{Field: field, Message: "must have no control characters", Received: enforce.Plain(short(v))})
	}
}

func enroll(a *API, q *request) (protocol.EnrollResponse, error) {
	var out protocol.EnrollResponse
	if a.stopping.Load() {
		return out, errStopping
	}
	var in protocol.EnrollRequest
	_, errs := policy.Parse(q.body)
	if err := invalid(errs); err != nil {
		return out, err
	}
	// Fields that this version does not know are a newer device's and no reason to keep it out.
	if err := json.Unmarshal(q.body, &in); err != nil {
		return out, bad("the body cannot be read: " + err.Error())
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(in.PublicKey, &key); err != nil || !key.IsPublic() || !key.Valid() {
		return out, invalid(policy.Errors{{Field: "public_key", Message: "must be a public JWK (P-256 or Ed25519)", Received: short(string(in.PublicKey))}})
	}
	h := in.Device
	text(&errs, "device.name", h.Name, 256)
	text(&errs, "device.os", h.OS, 32)
	text(&errs, "device.os_version", h.OSVersion, 256)
	text(&errs, "device.arch", h.Arch, 32)
	text(&errs, "device.serial", h.Serial, 256)
	text(&errs, "machine", in.Machine, 256)
	if h.Ownership != "" && h.Ownership != "BYOD" && h.Ownership != "COPE" {
		errs = append(errs, policy.Error{Field: "device.ownership", Message: "must be BYOD or COPE", Received: short(h.Ownership)})
	}
	if err := invalid(errs); err != nil {
		return out, err
	}
	host, _ := json.Marshal(h)
	jwk, err := json.Marshal(key) // what was understood, and not what was sent
	if err != nil {
		return out, err
	}
	d := &store.Device{Device: fleet.Device{ID: "device-" + rand.Text()[:16], OS: h.OS, Ownership: h.Ownership}, Name: h.Name, Key: jwk, Machine: in.Machine, Host: host}
	err = a.Store.Enroll(q.Context(), q.bearer, d, q.now)
	if errors.Is(err, store.ErrUsed) {
		return out, a.limit.failed(q.Request, &problem{status: http.StatusForbidden, code: "bad_enrollment", message: err.Error()})
	}
	if err != nil {
		return out, err
	}
	a.census.stale.Store(true)
	a.Log.Info("device enrolled", "device", d.ID, "name", d.Name, "enrollment", d.Enrollment)
	return protocol.EnrollResponse{DeviceID: d.ID, PolicyKeys: a.Keys.PolicyKeys(), RecoveryKey: a.Keys.RecoveryKey(), Recovery: a.Keys.Recovery(),
		Interval: int(a.Interval.Seconds()), ServerTime: q.now.UTC(), CodeSecret: base64.StdEncoding.EncodeToString(a.Keys.CodeSecret(d.ID))}, nil
}

var errStopping = &problem{status: http.StatusServiceUnavailable, code: "stopping", message: "this node is stopping; connect again"}

// checkin takes a report and answers with what the device is to hold. A report without news costs no
// database: what is compared is in memory.
func checkin(a *API, q *request) (protocol.Answer, error) {
	var none protocol.Answer
	if a.stopping.Load() {
		return none, errStopping
	}
	e := q.known
	var in protocol.Report
	if !utf8.Valid(q.body) {
		return none, bad("the report is not UTF-8")
	}
	if err := json.Unmarshal(q.body, &in); err != nil {
		return none, bad("the report cannot be read: " + err.Error())
	}
	if err := a.checkReport(q, e, &in); err != nil {
		return none, err
	}
	if in.Sequence > a.heard.Load() {
		// Nudged for a change that this node has not heard of yet.
		if err := a.catchUp(context.WithoutCancel(q.Context())); err != nil {
			return none, err
		}
	}
	out := protocol.Answer{Interval: int(a.Interval.Seconds())}
	if in.Pinned != "" && in.Pinned != a.Keys.Pinned() {
		out.Keys = a.Keys.Rotation(in.Pinned)
	}
	if e.d.State == store.Retired {
		var err error
		out.Release, err = protocol.SignRelease(a.Keys.Signing(), protocol.Release{DeviceID: e.d.ID, Release: true, IssuedAt: q.now.UTC()})
		return out, err
	}
	p := &e.d.Report
	if in.Device == nil && in.DeviceDigest != p.FactsDigest || in.Findings == nil && in.FindingsDigest != p.FindingsDigest {
		// It may have told another node.
		if err := a.book.load(q.Context(), e); err != nil {
			return none, err
		}
		p = &e.d.Report
		if in.Device == nil && in.DeviceDigest != p.FactsDigest || in.Findings == nil && in.FindingsDigest != p.FindingsDigest {
			out.Request = append(out.Request, protocol.WantFullReport)
		}
	}
	if !e.d.Diagnose.IsZero() {
		out.Request = append(out.Request, protocol.WantDiagnostics)
	}
	st, was := a.state.Load(), e.held
	news := in.Device != nil || in.Findings != nil || len(in.Events) > 0 || in.Policy != e.held || in.Agent != e.run
	if news {
		rec, err := a.record(q, e, &in, st)
		if err != nil {
			return none, err
		}
		if err := a.batch.put(q.Context(), rec); err != nil {
			return none, err
		}
		if rec.Old {
			// Another node has had a later one: this one's clock is behind, or it is played again.
			if err := a.book.load(q.Context(), e); err != nil {
				return none, err
			}
			return none, older(in.Counter, e.d.Counter)
		}
		e.learn(&in, rec)
		a.hub.update(&e.d.Device)
		out.AckSeq = rec.Ack
	}
	a.stats.checkin(news)
	e.d.Counter, e.d.LastSeen = in.Counter, q.now
	v, ok := st.Effective(&e.d.Device, q.now)
	if ok && in.Policy.Serial >= st.Sequence && (in.Policy.ID != v.Policy || in.Policy.Version != v.Version) {
		// The device has something newer than this node knows: it was at another one, or the server came
		// back from a backup. Looking first keeps it from being sent back to the version before.
		if err := a.catchUp(context.WithoutCancel(q.Context())); err != nil {
			return none, err
		}
		st = a.state.Load()
		v, ok = st.Effective(&e.d.Device, q.now)
	}
	if ok {
		r, err := st.Render(v)
		if err != nil {
			return none, err
		}
		if in.Policy.Digest == r.Digest && was.Digest != r.Digest && was.Digest != "" {
			a.latency.record(q.now.Sub(r.Changed))
		}
		if out.Assignment, err = a.assign(q, e, r, &in, st); err != nil {
			return none, err
		}
	}
	a.batch.note(store.Seen{Device: e.d.N, At: q.now, Counter: in.Counter, Assigned: e.d.AssignedAt})
	return out, nil
}

// Bounds of a report. Numbers are those that every JSON reader holds exactly.
const (
	maxNumber   = 1 << 53
	maxFindings = 1000
	maxPart     = 2 << 20 // bytes of facts, or of findings, as they are stored
)

// checkReport refuses what cannot be this device's next report.
func (a *API) checkReport(q *request, e *entry, in *protocol.Report) error {
	var errs policy.Errors
	text(&errs, "epoch", in.Epoch, 64)
	text(&errs, "policy.id", in.Policy.ID, 128)
	text(&errs, "policy.digest", in.Policy.Digest, 128)
	text(&errs, "policy.refused", in.Policy.Refused, 128)
	text(&errs, "policy.state", in.Policy.State, 32)
	text(&errs, "policy.exceptions", in.Policy.Exceptions, 64)
	text(&errs, "pinned", in.Pinned, 64)
	if in.Findings != nil && len(*in.Findings) > maxFindings {
		errs = append(errs, policy.Error{Field: "findings", Message: fmt.Sprintf("must be at most %d", maxFindings), Received: len(*in.Findings)})
	}
	if in.Device != nil {
		checkFacts(&errs, in.Device)
	}
	text(&errs, "device_digest", in.DeviceDigest, 128)
	text(&errs, "findings_digest", in.FindingsDigest, 128)
	text(&errs, "agent.machine", in.Agent.Machine, 256)
	text(&errs, "agent.version", in.Agent.Version, 128)
	text(&errs, "agent.run", in.Agent.Run, 64)
	if len(in.Policy.Reason) > 64<<10 {
		errs = append(errs, policy.Error{Field: "policy.reason", Message: "must have at most 65536 bytes", Received: len(in.Policy.Reason)})
	}
	if len(in.Events) > protocol.MaxEvents {
		errs = append(errs, policy.Error{Field: "events", Message: fmt.Sprintf("must be at most %d", protocol.MaxEvents), Received: len(in.Events)})
	}
	for i := range in.Events {
		ev := &in.Events[i]
		if ev.Seq == 0 || ev.Seq > maxNumber || i > 0 && ev.Seq <= in.Events[i-1].Seq {
			errs = append(errs, policy.Error{Field: fmt.Sprintf("events[%d].seq", i), Message: "must grow from event to event", Received: ev.Seq})
			break
		}
	}
	if len(in.Events) > 0 && in.Epoch == "" {
		errs = append(errs, policy.Error{Field: "epoch", Message: "must be present where there are events", Received: ""})
	}
	if in.Counter > maxNumber {
		errs = append(errs, policy.Error{Field: "counter", Message: "must be at most 2^53", Received: in.Counter})
	}
	if in.Policy.Serial < 0 || in.Policy.Serial > maxNumber {
		errs = append(errs, policy.Error{Field: "policy.serial", Message: "must be from 0 to 2^53", Received: in.Policy.Serial})
	}
	if in.Policy.Version < 0 || in.Policy.Version > 1<<31 {
		errs = append(errs, policy.Error{Field: "policy.version", Message: "must be from 0 to 2^31", Received: in.Policy.Version})
	}
	if err := invalid(errs); err != nil {
		return err
	}
	if in.Counter <= e.d.Counter {
		return older(in.Counter, e.d.Counter)
	}
	if in.Agent.Run != e.run.Run {
		// Another run than this node knows: what another node knows decides whether it is a clone's.
		if err := a.book.load(q.Context(), e); err != nil {
			return err
		}
	}
	if why := cloned(e, in); why != "" {
		a.Log.Warn("a second machine uses a device's key", "device", e.d.ID, "sign", why)
		if err := a.Store.SetState(q.Context(), e.d.ID, store.Cloned, q.now); err != nil {
			return err
		}
		e.d.State = store.Cloned
		return &problem{status: http.StatusForbidden, code: protocol.CodeCloned, message: "two machines use this device's key: enrol each of them anew"}
	}
	return nil
}

// The bounds of what a device tells of itself.
const (
	maxEntries = 1024 // in one part of its snapshot
	maxLines   = 200  // of health, and of capabilities
)

func checkFacts(errs *policy.Errors, f *protocol.Facts) {
	for _, p := range fact.Parts() {
		var list []json.RawMessage
		if json.Unmarshal(f.Parts[p], &list) == nil && len(list) > maxEntries {
			*errs = append(*errs, policy.Error{Field: "device." + string(p), Message: fmt.Sprintf("must have at most %d entries", maxEntries), Received: len(list)})
		}
	}
	for _, x := range []struct {
		field string
		n     int
	}{{"health", len(f.Health)}, {"health_codes", len(f.Codes)}, {"capable", len(f.Capable)}} {
		if x.n > maxLines {
			*errs = append(*errs, policy.Error{Field: "device." + x.field, Message: fmt.Sprintf("must have at most %d entries", maxLines), Received: x.n})
		}
	}
}

func older(counter, last uint64) error {
	return &detailed{http.StatusConflict, protocol.Problem{Error: &protocol.ProblemBody{
		Code: protocol.CodeCounter, Message: fmt.Sprintf("counter %d is not above %d", counter, last), Counter: last,
	}}}
}

// cloned tells two machines with one key from one: another machine id, or an agent run that was
// over and is back. An image that copies the machine id too is found by the latter, at the third
// check-in of the two. Start times would not do: a machine without a clock begins each boot alike.
func cloned(e *entry, in *protocol.Report) string {
	if in.Agent.Machine != "" && e.d.Machine != "" && in.Agent.Machine != e.d.Machine {
		return "machine id"
	}
	if run := in.Agent.Run; run != "" && run == e.d.Report.Previous && run != e.run.Run {
		return "an agent run that was over"
	}
	return ""
}

// record is what of a report is stored.
func (a *API) record(q *request, e *entry, in *protocol.Report, st *fleet.State) (*store.Record, error) {
	rec := &store.Record{Device: e.d.N, At: q.now, Counter: in.Counter, HeldID: in.Policy.ID, HeldVersion: in.Policy.Version,
		FactsDigest: in.DeviceDigest, FindingsDigest: in.FindingsDigest, Epoch: in.Epoch, Events: in.Events, Previous: e.d.Report.Previous}
	if was := e.run.Run; in.Agent.Run != was && was != "" {
		rec.Previous = was
	}
	rec.Held, _ = json.Marshal(in.Policy)
	rec.Agent, _ = json.Marshal(in.Agent)
	if in.Device != nil {
		rec.Facts, _ = json.Marshal(in.Device)
	}
	if in.Findings != nil {
		rec.Findings, _ = json.Marshal(in.Findings)
		rec.Standing, rec.StandingBody = standing(*in.Findings)
		rec.Rollup = string(enforce.RollUp(*in.Findings).Compliance)
		if in.Policy.ID == "" {
			rec.Rollup = ""
		}
	}
	if len(rec.Facts) > maxPart || len(rec.Findings) > maxPart {
		return nil, &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", message: fmt.Sprintf("facts and findings may have %d bytes each (received %d and %d)", maxPart, len(rec.Facts), len(rec.Findings))}
	}
	return rec, a.outcome(q, e, in, rec, st)
}

// stood is one line of a standing: what a finding says, without reasons and times.
type stood struct {
	Setting     enforce.Setting     `json:"s"`
	Mode        enforce.Mode        `json:"m"`
	Compliance  enforce.Compliance  `json:"c"`
	Enforcement enforce.Enforcement `json:"e"`
}

func standing(findings []enforce.Finding) (hash, body string) {
	list := make([]stood, 0, len(findings))
	for _, f := range findings {
		list = append(list, stood{f.Setting, f.Mode, f.Compliance, f.Enforcement})
	}
	slices.SortStableFunc(list, func(a, b stood) int { return strings.Compare(string(a.Setting), string(b.Setting)) })
	b, _ := json.Marshal(list)
	return protocol.Digest(list)[:16], string(b)
}

// learn takes a stored report into what this node knows.
func (e *entry) learn(in *protocol.Report, rec *store.Record) {
	e.held, e.run = in.Policy, in.Agent
	e.d.Held.Policy, e.d.Held.Version = in.Policy.ID, in.Policy.Version
	p := &e.d.Report
	p.Previous = rec.Previous
	if rec.Facts != nil {
		p.FactsDigest = rec.FactsDigest
	}
	if rec.Findings != nil {
		p.FindingsDigest, p.Standing, p.Rollup = rec.FindingsDigest, rec.Standing, rec.Rollup
	}
}

// assign signs what a device is to hold where it differs from what it has, or is past half of its
// life.
func (a *API) assign(q *request, e *entry, r *fleet.Rendered, in *protocol.Report, st *fleet.State) (string, error) {
	held := in.Policy
	exceptions, err := a.exceptionsOf(q, e)
	if err != nil {
		return "", err
	}
	excepted := held.Exceptions == protocol.ExceptionsDigest(exceptions)
	if held.Refused == r.Digest {
		if excepted || held.Version == 0 {
			return "", nil
		}
		// It goes on under the version before; its exceptions come and go with that.
		if r, err = a.rendered(q, e, held, st); err != nil || r == nil {
			return "", err
		}
	}
	same := held.Digest == r.Digest && held.ID == r.Policy && held.Version == r.Version && held.Serial > 0 && excepted
	if same && q.now.Sub(e.d.AssignedAt) < assignmentLife/2 {
		return "", nil
	}
	// Above what the device has, also when the server came back from a backup. What a device says is its
	// own affair: it never raises the sequence of the rest.
	serial := max(st.Sequence, held.Serial+1)
	if held.Serial >= protocol.MaxSerial {
		// Somebody signed it the highest there is. It takes this one after the recovery key's word, which
		// comes in the same answer, and refuses it without.
		serial = st.Sequence
	}
	if err := a.moved(q, e, r, st); err != nil {
		return "", err
	}
	s, err := protocol.SignAssignment(a.Keys.Signing(), protocol.Assignment{DeviceID: e.d.ID, Serial: serial, IssuedAt: q.now.UTC(),
		ExpiresAt: q.now.Add(assignmentLife).UTC(), Policy: r.Document, Exceptions: exceptions})
	if err != nil {
		return "", err
	}
	e.d.AssignedAt = q.now
	return s, nil
}

// rendered is the version that a device holds, as it was sent; nil where that is not known any more.
func (a *API) rendered(q *request, e *entry, held protocol.Held, st *fleet.State) (*fleet.Rendered, error) {
	v, err := a.Store.PolicyVersion(q.Context(), held.ID, held.Version)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := fleet.FromDocument(v.Document)
	if err != nil {
		return nil, err
	}
	_, mode := st.Assigned(&e.d.Device)
	r, err := fleet.Render(p, mode)
	if err != nil || r.Digest != held.Digest {
		return nil, err
	}
	return r, nil
}

// exceptionsOf are the server's exceptions that hold for a device now.
func (a *API) exceptionsOf(q *request, e *entry) ([]protocol.Exception, error) {
	if !e.d.Excepted.After(q.now) {
		return nil, nil
	}
	if q.now.Before(e.until) {
		return lasting(e.exceptions, q.now), nil
	}
	list, err := a.Store.Exceptions(q.Context(), e.d.N, true, q.now)
	if err != nil {
		return nil, err
	}
	e.exceptions, e.until = nil, q.now.Add(time.Hour)
	for _, x := range list {
		e.exceptions = append(e.exceptions, protocol.Exception{ID: x.ID, Section: x.Section, Subject: x.Subject, Reason: x.Reason, Until: x.Until, Seconds: int64(x.Until.Sub(x.CreatedAt) / time.Second)})
		if x.Until.Before(e.until) {
			e.until = x.Until
		}
	}
	return lasting(e.exceptions, q.now), nil
}

// lasting gives exceptions as they are sent at a moment: where this server's clock was set back, none
// lasts longer for that than it was granted for.
func lasting(list []protocol.Exception, now time.Time) []protocol.Exception {
	out := slices.Clone(list)
	for i := range out {
		if most := now.Add(time.Duration(out[i].Seconds) * time.Second); out[i].Until.After(most) {
			out[i].Until = most
		}
	}
	return out
}
