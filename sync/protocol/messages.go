// Package protocol is what agent and server say to each other: the messages of enrollment, check-in and push, and how
// they are signed and verified. It owns shapes and signatures. It opens no connection (sync/checkin, sync/push and
// sync/server do) and decides nothing.
package protocol

import (
	"encoding/json"
	"time"

	"github.com/warderd/warder/enforce"
)

// Base is the path below which everything lives.
const Base = "/api/v1"

// Bounds of what either side reads.
const (
	MaxRequest  = 8 << 20
	MaxResponse = 4 << 20
	MaxEvents   = 1000 // in one check-in
)

// Host describes a machine at enrollment, and when it changes.
type Host struct {
	Name      string `json:"name"`
	OS        string `json:"os"`
	OSVersion string `json:"os_version"`
	Arch      string `json:"arch"`
	Serial    string `json:"serial"`
	Ownership string `json:"ownership,omitempty"` // BYOD or COPE
}

// EnrollRequest is POST /devices/enroll.
type EnrollRequest struct {
	PublicKey json.RawMessage `json:"public_key"` // JWK
	Device    Host            `json:"device"`
	Machine   string          `json:"machine"` // hash of the machine's own id
}

// EnrollResponse answers it with 201.
type EnrollResponse struct {
	DeviceID    string          `json:"device_id"`
	PolicyKeys  json.RawMessage `json:"policy_keys"`
	RecoveryKey json.RawMessage `json:"recovery_key"`
	Interval    int             `json:"interval_seconds"`
	ServerTime  time.Time       `json:"server_time"`
	// Recovery is the counter of the recovery key's last statement (KeySet), so that no statement from before the
	// enrollment can be replayed to the device.
	Recovery uint64 `json:"recovery,omitempty"`
	// CodeSecret is the secret with which this device verifies offline exception codes (code.go), in base64.
	CodeSecret string `json:"code_secret,omitempty"`
}

// PolicyState is the device's policy, and its state.
type PolicyState struct {
	ID      string `json:"id,omitempty"`
	Version int    `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`
	Serial  int64  `json:"serial"`
	State   string `json:"state,omitempty"` // active, unconfirmed, held, refused, reverted, none
	// Refused is the digest of a policy that the device could not use, with the reason; the server does not send it
	// again.
	Refused string `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Exceptions is ExceptionsDigest of the server's exceptions that the device has; "" for none.
	Exceptions string `json:"exceptions,omitempty"`
}

// Agent describes the program.
type Agent struct {
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	Machine   string    `json:"machine"`
	// Run is a random name of this run of the agent. If a run that had ended reappears, another machine uses the same
	// key.
	Run string `json:"run,omitempty"`
	// Ended is set in the last report of an agent that ends, and says why; "" while it runs. The state that it reported
	// before no longer applies.
	Ended string `json:"ended,omitempty"`
	// Cut says which parts of its reports do not get through, "" for none.
	Cut string `json:"cut,omitempty" doc:"what of its reports does not get through to the server"`
}

// Why an agent ended.
const (
	EndedStopped    = "stopped"    // by somebody; the policy is not in force
	EndedOff        = "off"        // the machine was shut down
	EndedUnenrolled = "unenrolled" // by root, on the machine; the policy is not in force
)

// Report is POST /devices/{id}/checkin.
type Report struct {
	Counter        uint64             `json:"counter"` // only grows
	Policy         PolicyState        `json:"policy"`
	Agent          Agent              `json:"agent"`
	Pinned         string             `json:"pinned,omitempty"`   // KeysDigest of the policy keys that the device trusts
	Sequence       int64              `json:"sequence,omitempty"` // of the nudge that caused this report
	DeviceDigest   string             `json:"device_digest"`
	Device         *Facts             `json:"device,omitempty"`
	FindingsDigest string             `json:"findings_digest"`
	Findings       *[]enforce.Finding `json:"findings,omitempty"` // present and empty: none are left
	// LookedAt is when the device last looked at itself, by its own clock. It is not news by itself.
	LookedAt *time.Time      `json:"looked_at,omitempty"`
	Epoch    string          `json:"epoch"`
	Events   []enforce.Event `json:"events,omitempty"`
}

// Answer is the server's reply to a check-in.
type Answer struct {
	AckSeq     uint64   `json:"ack_seq"`
	Interval   int      `json:"interval_seconds"`
	Assignment string   `json:"assignment,omitempty"` // compact JWS of an Assignment
	Release    string   `json:"release,omitempty"`    // compact JWS of a Release
	Keys       string   `json:"keys,omitempty"`       // compact JWS of a KeySet, signed by the old or the recovery key
	Request    []string `json:"request,omitempty"`    // full_report, diagnostics
}

// What a server may ask for in Answer.Request.
const (
	WantFullReport  = "full_report"
	WantDiagnostics = "diagnostics" // PUT /devices/{id}/diagnostics, at most MaxBundle bytes of gzip
)

// MaxBundle bounds a diagnostics bundle.
const MaxBundle = 1 << 20

// Assignment is a whole policy for one device, signed as one.
type Assignment struct {
	DeviceID  string          `json:"device_id"`
	Serial    int64           `json:"serial"`
	IssuedAt  time.Time       `json:"issued_at"`
	ExpiresAt time.Time       `json:"expires_at"`
	Policy    json.RawMessage `json:"policy"`
	// Exceptions are all current exceptions of this device. Their ends are by the server's clock, like IssuedAt: the
	// device measures the difference by its own.
	Exceptions []Exception `json:"exceptions,omitempty"`
}

// Release tells one device to give everything back and forget its enrollment.
type Release struct {
	DeviceID string    `json:"device_id"`
	Release  bool      `json:"release"`
	IssuedAt time.Time `json:"issued_at"`
}

// KeySet is a rotation of the policy keys.
type KeySet struct {
	PolicyKeys json.RawMessage `json:"policy_keys"`
	IssuedAt   time.Time       `json:"issued_at"`
	// Recovery counts the statements of the recovery key, from 1; it only grows. It is 0 in all others.
	Recovery uint64 `json:"recovery,omitempty"`
}

// The types of messages on the socket.
const (
	NudgeCheckIn = "check_in"
	NudgePing    = "ping" // the device answers {"type":"pong"}
	// NudgeReconnect: the server is stopping; connect again at a random moment within Within.
	NudgeReconnect = "reconnect"
)

// Nudge is the only message that a server sends on the socket.
type Nudge struct {
	Type   string `json:"type"`
	Reason string `json:"reason,omitempty"`
	// Within is the time in milliseconds over which the server asks devices to spread.
	Within int `json:"within_ms,omitempty"`
	// Sequence is the change that the device is nudged for. The device returns it in its next report, so that a node
	// that has not read this change yet does so.
	Sequence int64 `json:"sequence,omitempty"`
}

// Problem is the shape of every error.
type Problem struct {
	Error  *ProblemBody `json:"error,omitempty"`
	Valid  *bool        `json:"valid,omitempty"`
	Errors any          `json:"errors,omitempty"`
}

// ProblemBody says what went wrong. Code is for programs.
type ProblemBody struct {
	Code       string     `json:"code"`
	Message    string     `json:"message"`
	RequestID  string     `json:"request_id,omitempty"`
	ServerTime *time.Time `json:"server_time,omitempty"` // with code "clock"
	Counter    uint64     `json:"counter,omitempty"`     // with code "counter": the last one seen
}

// The codes that a device acts on.
const (
	CodeClock   = "clock"
	CodeCounter = "counter"
	CodeCloned  = "cloned"
	CodeRetired = "retired"
)
