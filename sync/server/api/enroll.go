package api

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// text checks what a device says about itself in one line: bounded, and without characters that could harm a terminal
// or a database.
func text(errs *policy.Errors, field, v string, most int) {
	if len(v) > most {
		*errs = append(*errs, policy.Error{Field: field, Message: fmt.Sprintf("must have at most %d bytes", most), Received: len(v)})
	} else if policy.Control(v) {
		*errs = append(*errs, policy.Error{Field: field, Message: "must have no control characters", Received: enforce.Plain(short(v))})
	}
}

// enroll answers POST /devices/enroll.
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
	// Unknown fields come from a newer device, and are no reason to refuse it.
	if err := json.Unmarshal(q.body, &in); err != nil {
		return out, bad("the body cannot be read: " + err.Error())
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(in.PublicKey, &key); err != nil || !key.IsPublic() || !key.Valid() || !protocol.DeviceKey(&key) {
		return out, invalid(policy.Errors{{Field: "public_key",
			Message: "must be a public JWK of a key that can sign check-ins: Ed25519, or EC P-256", Received: short(string(in.PublicKey))}})
	}
	h := in.Device
	text(&errs, "device.name", h.Name, 256)
	text(&errs, "device.os", h.OS, 32)
	text(&errs, "device.os_version", h.OSVersion, 256)
	text(&errs, "device.arch", h.Arch, 32)
	text(&errs, "device.serial", h.Serial, 256)
	text(&errs, "machine", in.Machine, 256)
	if strings.TrimSpace(h.Name) == "" {
		errs = append(errs, policy.Error{Field: "device.name", Message: "must be present and not empty", Received: h.Name})
	}
	if h.Ownership != "" && h.Ownership != "BYOD" && h.Ownership != "COPE" {
		errs = append(errs, policy.Error{Field: "device.ownership", Message: "must be BYOD or COPE", Received: short(h.Ownership)})
	}
	if err := invalid(errs); err != nil {
		return out, err
	}
	host, _ := json.Marshal(h)
	jwk, err := json.Marshal(key) // what was understood, not what was sent
	if err != nil {
		return out, err
	}
	d := &store.Device{Device: fleet.Device{ID: "device-" + rand.Text()[:16], OS: h.OS, Ownership: h.Ownership}, Name: h.Name, Key: jwk,
		Machine: in.Machine, Host: host}
	err = a.Store.Enroll(q.Context(), q.bearer, d, q.now)
	if errors.Is(err, store.ErrUsed) {
		return out, a.limit.failed(q.Request, &problem{status: http.StatusForbidden, code: "bad_enrollment", message: err.Error()})
	}
	if err != nil {
		return out, err
	}
	a.Log.Info("device enrolled", "device", d.ID, "name", d.Name, "enrollment", d.Enrollment)
	return protocol.EnrollResponse{DeviceID: d.ID, PolicyKeys: a.Keys.PolicyKeys(), RecoveryKey: a.Keys.RecoveryKey(),
		Recovery: a.Keys.Recovery(),
		Interval: int(a.Interval.Seconds()), ServerTime: q.now.UTC(),
		CodeSecret: base64.StdEncoding.EncodeToString(a.Keys.CodeSecret(d.ID))}, nil
}
