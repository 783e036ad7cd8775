package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// TimeRequest is POST /time: a device whose clock is so wrong that it cannot check the server's certificate asks for
// the time. The device makes a new Nonce for each question.
type TimeRequest struct {
	Nonce string `json:"nonce" minLength:"16" maxLength:"64" pattern:"^[A-Za-z0-9_-]+$" doc:"random, for this one question"`
}

// TimeResponse is the answer.
type TimeResponse struct {
	Time string `json:"time" doc:"compact JWS of the nonce and the server's time, signed by the policy key"`
}

// signedTime is the payload of TimeResponse.Time.
type signedTime struct {
	Nonce string    `json:"nonce"`
	Time  time.Time `json:"server_time"`
}

const typTime = "warder-time"

// SignTime signs the server's time as an answer.
func SignTime(key *jose.JSONWebKey, nonce string, at time.Time) (string, error) {
	return sign(key, typTime, signedTime{nonce, at.UTC()})
}

// VerifyTime reads the server's time, which has to be an answer to this very question.
func VerifyTime(token, nonce string, keys json.RawMessage) (time.Time, error) {
	pinned, err := ParseKeys(keys)
	if err != nil {
		return time.Time{}, err
	}
	var s signedTime
	if err := verify(token, typTime, pinned, &s); err != nil {
		return time.Time{}, err
	}
	if nonce == "" || s.Nonce != nonce {
		return time.Time{}, fmt.Errorf("%w: it answers another question", ErrSignature)
	}
	return s.Time, nil
}

// The years that a server's clock can show: the protocol is not older, and no certificate lasts longer.
var (
	earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2125, 1, 1, 0, 0, 0, 0, time.UTC)
)

// ErrTime means that a server's time is impossible.
var ErrTime = errors.New("the server's time cannot be right")

// Plausible checks a server's time against these years, and against the validity of its certificate if it showed one.
func Plausible(at, notBefore, notAfter time.Time) error {
	if at.Before(earliest) || at.After(latest) {
		return fmt.Errorf("%w: %s", ErrTime, at.Format(time.RFC3339))
	}
	if !notBefore.IsZero() && (at.Before(notBefore) || at.After(notAfter)) {
		return fmt.Errorf("%w: %s, and its certificate is valid from %s to %s", ErrTime, at.Format(time.RFC3339),
			notBefore.Format(time.RFC3339), notAfter.Format(time.RFC3339))
	}
	return nil
}
