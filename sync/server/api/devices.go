package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// assignmentLife is how long a signed policy is fresh. It is renewed past half of that.
const assignmentLife = 30 * 24 * time.Hour

func enroll(a *API, q *request) (int, any, error) {
	var in protocol.EnrollRequest
	if err := q.decode(&in); err != nil {
		return 0, nil, err
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(in.PublicKey, &key); err != nil || !key.IsPublic() || !key.Valid() {
		return 0, nil, &problem{http.StatusBadRequest, "bad_request", "public_key must be a public JWK (P-256 or Ed25519)"}
	}
	for name, v := range map[string]string{"device.name": in.Device.Name, "device.os": in.Device.OS, "device.os_version": in.Device.OSVersion, "device.serial": in.Device.Serial, "machine": in.Machine} {
		if len(v) > 256 {
			return 0, nil, &problem{http.StatusBadRequest, "bad_request", fmt.Sprintf("%s must be at most 256 bytes (received %d)", name, len(v))}
		}
	}
	host, _ := json.Marshal(in.Device)
	d := &store.Device{ID: "device-" + rand.Text()[:16], Name: in.Device.Name, Key: in.PublicKey, Machine: in.Machine, Host: host}
	err := a.Store.Enroll(q.Context(), q.bearer, d, q.now)
	if errors.Is(err, store.ErrUsed) {
		return 0, nil, &problem{http.StatusForbidden, "bad_enrollment", err.Error()}
	}
	if err != nil {
		return 0, nil, err
	}
	a.Log.Info("device enrolled", "device", d.ID, "name", d.Name)
	return http.StatusCreated, protocol.EnrollResponse{DeviceID: d.ID, PolicyKeys: a.PolicyKeys, RecoveryKey: a.RecoveryKey,
		Interval: int(a.Interval.Seconds()), ServerTime: q.now.UTC()}, nil
}

func heldOf(d *store.Device) (h protocol.Held) {
	_ = json.Unmarshal(d.Held, &h)
	return h
}

func checkin(a *API, q *request) (int, any, error) {
	var in protocol.Report
	if err := json.Unmarshal(q.body, &in); err != nil {
		return 0, nil, &problem{http.StatusBadRequest, "bad_request", "the report cannot be read: " + err.Error()}
	}
	if err := a.checkReport(q, in); err != nil {
		return 0, nil, err
	}
	d := q.device
	if d.State == "retired" {
		release, err := protocol.SignRelease(a.PolicyKey, protocol.Release{DeviceID: d.ID, Release: true, IssuedAt: q.now.UTC()})
		return http.StatusOK, protocol.Answer{Release: release, Interval: int(a.Interval.Seconds())}, err
	}
	c := store.Checkin{Counter: in.Counter, FactsDigest: in.DeviceDigest, FindingsDigest: in.FindingsDigest, Epoch: in.Epoch, Events: in.Events}
	c.Held, _ = json.Marshal(in.Policy)
	c.Agent, _ = json.Marshal(in.Agent)
	if in.Device != nil {
		c.Facts, _ = json.Marshal(in.Device)
	}
	if in.Findings != nil {
		c.Findings, _ = json.Marshal(in.Findings)
	}
	ack, err := a.Store.Record(q.Context(), d.ID, c, q.now)
	if err != nil {
		return 0, nil, err
	}
	out := protocol.Answer{AckSeq: ack, Interval: int(a.Interval.Seconds())}
	if in.Device == nil && in.DeviceDigest != d.FactsDigest || in.Findings == nil && in.FindingsDigest != d.FindingsDigest {
		out.Request = append(out.Request, "full_report")
	}
	p, err := a.Store.Effective(q.Context(), d.Policy)
	if errors.Is(err, store.ErrNotFound) {
		return http.StatusOK, out, nil
	}
	if err != nil {
		return 0, nil, err
	}
	if in.Policy.Digest == p.Digest && heldOf(d).Digest != p.Digest && heldOf(d).Digest != "" {
		a.latency.record(q.now.Sub(p.UpdatedAt))
	}
	out.Assignment, err = a.assignment(q, d, p, in.Policy)
	return http.StatusOK, out, err
}

// checkReport refuses what cannot be this device's next report.
func (a *API) checkReport(q *request, in protocol.Report) error {
	d := q.device
	if in.Agent.Machine != "" && d.Machine != "" && in.Agent.Machine != d.Machine {
		a.Log.Warn("a second machine uses a device's key", "device", d.ID)
		if err := a.Store.SetState(q.Context(), d.ID, "cloned"); err != nil {
			return err
		}
		return &problem{http.StatusForbidden, protocol.CodeCloned, "two machines use this device's key: enrol each of them anew"}
	}
	if in.Counter <= d.Counter {
		return &detailed{http.StatusConflict, protocol.Problem{Error: &protocol.ProblemBody{
			Code: protocol.CodeCounter, Message: fmt.Sprintf("counter %d is not above %d", in.Counter, d.Counter), Counter: d.Counter,
		}}}
	}
	if len(in.Events) > protocol.MaxEvents {
		return &problem{http.StatusBadRequest, "bad_request", fmt.Sprintf("events must be at most %d (received %d)", protocol.MaxEvents, len(in.Events))}
	}
	if len(in.Epoch) > 64 {
		return &problem{http.StatusBadRequest, "bad_request", "epoch must be at most 64 bytes"}
	}
	for i := 1; i < len(in.Events); i++ {
		if in.Events[i].Seq <= in.Events[i-1].Seq {
			return &problem{http.StatusBadRequest, "bad_request", fmt.Sprintf("events[%d].seq must grow (received %d after %d)", i, in.Events[i].Seq, in.Events[i-1].Seq)}
		}
	}
	return nil
}

// assignment signs the effective policy where the device's differs, or is past half of its life.
func (a *API) assignment(q *request, d *store.Device, p *store.Policy, held protocol.Held) (string, error) {
	same := held.Digest == p.Digest && held.ID == p.ID && held.Version == p.Version && held.Serial > 0
	if same && q.now.Sub(d.AssignedAt) < assignmentLife/2 || held.Refused == p.Digest {
		return "", nil
	}
	serial := p.Sequence
	if serial <= held.Serial {
		// A server that came back from a backup, or a renewal: always above what the device has.
		var err error
		if serial, err = a.Store.Serial(q.Context(), held.Serial); err != nil {
			return "", err
		}
	}
	s, err := protocol.SignAssignment(a.PolicyKey, protocol.Assignment{DeviceID: d.ID, Serial: serial, IssuedAt: q.now.UTC(),
		ExpiresAt: q.now.Add(assignmentLife).UTC(), Policy: p.Document()})
	if err != nil {
		return "", err
	}
	return s, a.Store.Assigned(q.Context(), d.ID, q.now)
}

// status: a device is online while its socket is up, or it came within three intervals.
func (a *API) status(d *store.Device, now time.Time) string {
	if a.hub.connected(d.ID) || !d.LastSeen.IsZero() && now.Sub(d.LastSeen) < 3*a.Interval {
		return "online"
	}
	return "offline"
}

// deviceView is a device as administrators see it.
type deviceView struct {
	ID         string          `json:"id"`
	Name       string          `json:"device_name"`
	Status     string          `json:"status"`
	State      string          `json:"state"`
	Host       json.RawMessage `json:"host"`
	PolicyID   string          `json:"policy_id,omitempty"`
	Held       json.RawMessage `json:"policy"`
	Agent      json.RawMessage `json:"agent"`
	Findings   json.RawMessage `json:"findings,omitempty"`
	Facts      json.RawMessage `json:"facts,omitempty"`
	EnrolledAt time.Time       `json:"enrolled_at"`
	LastSync   *time.Time      `json:"last_sync"`
}

func (a *API) view(d *store.Device, now time.Time, whole bool) deviceView {
	v := deviceView{ID: d.ID, Name: d.Name, Status: a.status(d, now), State: d.State, Host: d.Host, PolicyID: d.Policy,
		Held: d.Held, Agent: d.Agent, EnrolledAt: second(d.EnrolledAt)}
	if !d.LastSeen.IsZero() {
		at := second(d.LastSeen)
		v.LastSync = &at
	}
	if whole {
		v.Findings, v.Facts = d.Findings, d.Facts
	}
	return v
}

func listDevices(a *API, q *request) (int, any, error) {
	page, size, err := q.page()
	if err != nil {
		return 0, nil, err
	}
	list, total, err := a.Store.Devices(q.Context(), "", page, size)
	if err != nil {
		return 0, nil, err
	}
	data := make([]deviceView, 0, len(list))
	for _, d := range list {
		data = append(data, a.view(d, q.now, false))
	}
	return http.StatusOK, map[string]any{"data": data, "total": total, "page": page, "page_size": size}, nil
}

func getDevice(a *API, q *request) (int, any, error) {
	d, err := a.Store.Device(q.Context(), q.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, a.view(d, q.now, true), nil
}

func deviceEvents(a *API, q *request) (int, any, error) {
	size, err := q.number("page_size", 20, 10_000)
	if err != nil {
		return 0, nil, err
	}
	if _, err := a.Store.Device(q.Context(), q.PathValue("id")); err != nil {
		return 0, nil, err
	}
	list, err := a.Store.Events(q.Context(), q.PathValue("id"), size)
	if list == nil {
		list = []store.StoredEvent{}
	}
	return http.StatusOK, map[string]any{"data": list}, err
}

// retireDevice: the device's next check-in gets a signed release.
func retireDevice(a *API, q *request) (int, any, error) {
	id := q.PathValue("id")
	if err := a.Store.SetState(q.Context(), id, "retired"); err != nil {
		return 0, nil, err
	}
	a.hub.send(id, protocol.Nudge{Type: protocol.NudgeCheckIn, Reason: "retired"})
	return http.StatusOK, map[string]string{"message": "device retired", "id": id}, nil
}

func assignDevice(a *API, q *request) (int, any, error) {
	var in struct {
		PolicyID string `json:"policy_id"`
	}
	if err := q.decode(&in); err != nil {
		return 0, nil, err
	}
	if in.PolicyID != "" {
		if _, err := a.Store.Policy(q.Context(), in.PolicyID); err != nil {
			return 0, nil, err
		}
	}
	id := q.PathValue("id")
	if err := a.Store.Assign(q.Context(), id, in.PolicyID); err != nil {
		return 0, nil, err
	}
	a.hub.send(id, protocol.Nudge{Type: protocol.NudgeCheckIn, Reason: "policy_changed"})
	return http.StatusOK, map[string]string{"id": id, "policy_id": in.PolicyID}, nil
}

func getLatency(a *API, _ *request) (int, any, error) {
	return http.StatusOK, map[string]any{"change_to_report_ms": a.latency.summary()}, nil
}
