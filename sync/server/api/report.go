package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// Bounds of a report. Numbers are limited to what every JSON reader represents exactly.
const (
	maxNumber   = 1 << 53
	maxFindings = 1000
	maxPart     = 2 << 20 // bytes of facts, or of findings, as they are stored
)

// checkReport refuses what cannot be this device's next report.
func (v *visit) check() error {
	a, q, e, in := v.a, v.q, v.e, v.in
	var errs policy.Errors
	text(&errs, "epoch", in.Epoch, 64)
	text(&errs, "policy.id", in.Policy.ID, 128)
	text(&errs, "policy.digest", in.Policy.Digest, 128)
	text(&errs, "policy.refused", in.Policy.Refused, 128)
	text(&errs, "policy.state", in.Policy.State, 32)
	text(&errs, "policy.exceptions", in.Policy.Exceptions, 64)
	text(&errs, "pinned", in.Pinned, 64)
	if in.Findings != nil && len(*in.Findings) > maxFindings {
		errs = append(errs, policy.Error{Field: "findings", Message: fmt.Sprintf("must be at most %d", maxFindings),
			Received: len(*in.Findings)})
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
		errs = append(errs, policy.Error{Field: "events", Message: fmt.Sprintf("must be at most %d", protocol.MaxEvents),
			Received: len(in.Events)})
	}
	checkTimes(&errs, in)
	for i := range in.Events {
		ev := &in.Events[i]
		if ev.Seq == 0 || ev.Seq > maxNumber || i > 0 && ev.Seq <= in.Events[i-1].Seq {
			errs = append(errs, policy.Error{Field: fmt.Sprintf("events[%d].seq", i), Message: "must grow from event to event",
				Received: ev.Seq})
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
		return &problem{status: http.StatusForbidden, code: protocol.CodeCloned,
			message: "two machines use this device's key: enroll each of them again"}
	}
	return nil
}

// The bounds of what a device says about itself.
const (
	maxEntries = 1024 // in one part of its snapshot
	maxLines   = 200  // of health, and of capabilities
	maxNetwork = 1024 // bytes of the part "network"
)

// checkTimes refuses times that can be read but not be written again (a zone of 24 hours, a year of five digits): every
// answer with one of them would fail.
func checkTimes(errs *policy.Errors, in *received) {
	var buf [64]byte
	check := func(t time.Time, field string, at int) {
		if _, err := t.AppendText(buf[:0]); err != nil {
			if at >= 0 {
				field = fmt.Sprintf(field, at)
			}
			*errs = append(*errs, policy.Error{Field: field, Message: "must be a time of RFC 3339", Received: short(t.String())})
		}
	}
	check(in.Agent.StartedAt, "agent.started_at", -1)
	for i := range in.Events {
		check(in.Events[i].At, "events[%d].at", i)
	}
	if in.Findings == nil {
		return
	}
	for i := range *in.Findings {
		f := &(*in.Findings)[i]
		check(f.Since, "findings[%d].since", i)
		check(f.ReadAt, "findings[%d].read_at", i)
		for j := range f.Evidence {
			check(f.Evidence[j].At, "findings[%d].evidence.at", i)
		}
	}
}

// checkFacts checks what a device says about itself.
func checkFacts(errs *policy.Errors, f *protocol.Facts) {
	if n := len(f.Parts[fact.PartNetwork]); n > maxNetwork {
		*errs = append(*errs, policy.Error{Field: "device." + string(fact.PartNetwork),
			Message: fmt.Sprintf("must have at most %d bytes: two host names", maxNetwork), Received: n})
	}
	within := map[string]json.RawMessage{}
	for _, p := range fact.Parts() {
		within[string(p)] = f.Parts[p]
	}
	var printing map[string]json.RawMessage
	if json.Unmarshal(f.Parts[fact.PartPrinting], &printing) == nil {
		for _, name := range []string{"queues", "local_ports"} {
			within[string(fact.PartPrinting)+"."+name] = printing[name]
		}
	}
	for _, field := range slices.Sorted(maps.Keys(within)) {
		var list []json.RawMessage
		if json.Unmarshal(within[field], &list) == nil && len(list) > maxEntries {
			*errs = append(*errs, policy.Error{Field: "device." + field, Message: fmt.Sprintf("must have at most %d entries", maxEntries), Received: len(list)})
		}
	}
	for _, x := range []struct {
		field string
		n     int
	}{{"health", len(f.Health)}, {"health_codes", len(f.Codes)}, {"capable", len(f.Capable)}} {
		if x.n > maxLines {
			*errs = append(*errs, policy.Error{Field: "device." + x.field, Message: fmt.Sprintf("must have at most %d entries", maxLines),
				Received: x.n})
		}
	}
}

// record is what is stored of a report.
func (a *API) record(q *request, e *entry, in *received, st *fleet.State) (*store.Record, error) {
	rec := &store.Record{Device: e.d.N, At: q.now, Counter: in.Counter, CurrentID: in.Policy.ID, CurrentVersion: in.Policy.Version,
		FactsDigest: in.DeviceDigest, FindingsDigest: in.FindingsDigest, Epoch: in.Epoch, Events: in.kept(), Previous: e.d.Report.Previous}
	if was := e.run.Run; in.Agent.Run != was && was != "" {
		rec.Previous = was
	}
	rec.Current, _ = json.Marshal(in.Policy)
	rec.Agent, _ = json.Marshal(in.Agent)
	rec.Ended = in.Agent.Ended != ""
	if in.Device != nil {
		rec.Facts = in.device
	}
	if in.Findings != nil {
		rec.Findings = in.findings
		rec.Standing, rec.StandingBody = standing(*in.Findings)
		rec.Rollup = string(enforce.RollUp(*in.Findings).Compliance)
		if in.Policy.ID == "" {
			rec.Rollup = ""
		}
	}
	if len(rec.Facts) > maxPart || len(rec.Findings) > maxPart {
		return nil, &problem{status: http.StatusRequestEntityTooLarge, code: "too_large",
			message: fmt.Sprintf("facts and findings may have %d bytes each (received %d and %d)", maxPart, len(rec.Facts),
				len(rec.Findings))}
	}
	return rec, a.outcome(q, e, &in.Report, rec, st)
}

// kept are the events as they are stored.
func (in *received) kept() []store.RawEvent {
	out := make([]store.RawEvent, 0, len(in.events))
	for i, raw := range in.events {
		out = append(out, store.RawEvent{Seq: in.Events[i].Seq, Body: raw})
	}
	return out
}

// stood is one line of a standing: what a finding says, without reasons and times.
type stood struct {
	Setting     enforce.Setting     `json:"s"`
	Mode        enforce.Mode        `json:"m"`
	Compliance  enforce.Compliance  `json:"c"`
	Enforcement enforce.Enforcement `json:"e"`
}

// standing is a short form of a device's state. It writes a newer agent's words as unknown, so that a fleet has few
// distinct standings whatever its devices say.
func standing(findings []enforce.Finding) (hash, body string) {
	list := make([]stood, 0, min(len(findings), 64))
	at := map[enforce.Setting]int{}
	for _, f := range findings {
		x := stood{f.Setting, f.Mode, f.Compliance, f.Enforcement}
		_, known := policy.Find(f.Setting)
		if !known {
			x.Setting = otherSettings
		}
		if x.Compliance != enforce.Compliant && x.Compliance != enforce.Noncompliant {
			x.Compliance = enforce.Uncertain
		}
		if !slices.Contains(enforce.Enforcements, x.Enforcement) {
			x.Enforcement = unknownWord
		}
		switch i, has := at[x.Setting]; {
		case has && known: // each setting appears once; of two findings the worse one counts
			if worse(x.Compliance) > worse(list[i].Compliance) {
				list[i] = x
			}
		case known:
			at[x.Setting] = len(list)
			list = append(list, x)
		case !slices.Contains(list, x):
			list = append(list, x)
		}
	}
	slices.SortStableFunc(list, func(a, b stood) int { return strings.Compare(string(a.Setting), string(b.Setting)) })
	b, _ := json.Marshal(list)
	return protocol.Digest(list)[:16], string(b)
}

// worse orders findings.
func worse(c enforce.Compliance) int {
	return slices.Index([]enforce.Compliance{enforce.Compliant, enforce.Uncertain, enforce.Noncompliant}, c)
}
