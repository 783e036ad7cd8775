package protocol

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Trust is what a device believes its server by: the policy keys, and the recovery key that outranks
// them. The rest keeps statements from being played again.
type Trust struct {
	PolicyKeys json.RawMessage // public JWKs
	Recovery   json.RawMessage // one public JWK, or empty
	Enrolled   time.Time       // when the device enrolled
	KeysAt     time.Time       // the date of the statement followed last
	// Count is the counter of the last statement of the recovery key that the device has followed, or was
	// told of when it enrolled; CountAt that statement's date, or the enrolment's. Both are zero on a
	// device that enrolled with version 0.2.0 and has followed none since.
	Count   uint64
	CountAt time.Time

	now time.Time // the server's
}

// maxAhead is how far after the server's time a statement may be dated. A thief of the policy key could
// otherwise sign a rotation that no later one comes after.
const maxAhead = 24 * time.Hour

// Why a rotation is not followed.
var (
	ErrOlderKeys = errors.New("the rotation of policy keys is older than the one followed last")
	ErrFuture    = errors.New("the rotation of policy keys is dated in the future")
)

// Follow checks a rotation and gives the trust after it. recovered says that the recovery key signed it:
// such statements have a counter of their own, which policy keys neither reach nor outdate, and what
// was signed by the keys before is not to be believed in any order. now is the server's time.
func (t Trust) Follow(token string, now time.Time) (next Trust, recovered bool, err error) {
	t.now = now
	defer func() { next.now = time.Time{} }()
	pinned, err := ParseKeys(t.PolicyKeys)
	if err != nil {
		return t, false, err
	}
	if len(t.Recovery) > 0 {
		if set, err := VerifyKeys(token, t.recovery()); err == nil {
			return t.recover(set)
		}
	}
	set, err := VerifyKeys(token, pinned)
	if err != nil {
		return t, false, err
	}
	if sameKeys(set.PolicyKeys, t.PolicyKeys) {
		return t, false, nil
	}
	if set.IssuedAt.After(now.Add(maxAhead)) {
		return t, false, fmt.Errorf("%w: it says %s", ErrFuture, set.IssuedAt.Format(time.RFC3339))
	}
	// A date that could not be followed today was followed by a version that did not look, or under
	// another clock: it does not outdate what comes now.
	if last := t.KeysAt; !last.After(now.Add(maxAhead)) && !set.IssuedAt.After(last) {
		return t, false, fmt.Errorf("%w (%s, %s)", ErrOlderKeys, set.IssuedAt.Format(time.RFC3339), last.Format(time.RFC3339))
	}
	t.PolicyKeys, t.KeysAt = set.PolicyKeys, set.IssuedAt
	return t, false, nil
}

// recover follows a statement of the recovery key: the higher counter, and of equal ones the later date.
// Version 0.2.0 wrote none with a counter: those are below every one that has one.
func (t Trust) recover(set *KeySet) (Trust, bool, error) {
	same := sameKeys(set.PolicyKeys, t.PolicyKeys)
	if t.outdates(set) {
		if same {
			return t, false, nil
		}
		return t, false, fmt.Errorf("%w (recovery %d of %s, %d)", ErrOlderKeys, set.Recovery, set.IssuedAt.Format(time.RFC3339), t.Count)
	}
	t.PolicyKeys, t.KeysAt, t.Count, t.CountAt = set.PolicyKeys, set.IssuedAt, set.Recovery, set.IssuedAt
	// With the keys that are pinned already nothing is recovered: what they have signed stays in order.
	return t, !same, nil
}

// outdates reports whether a statement of the recovery key was made before what the device knows. One
// that enrolled with version 0.2.0 was not told the counter, so that a statement older than its
// enrolment could be played to it: until it has followed one, the date of its enrolment is the floor,
// and for a statement without a counter the date of the rotation followed last.
func (t Trust) outdates(set *KeySet) bool {
	if t.Count > 0 || !t.CountAt.IsZero() {
		return set.Recovery < t.Count || set.Recovery == t.Count && !set.IssuedAt.After(t.CountAt)
	}
	floor := t.Enrolled
	if set.Recovery == 0 && t.KeysAt.After(floor) && !t.KeysAt.After(t.now.Add(maxAhead)) {
		floor = t.KeysAt
	}
	return !set.IssuedAt.After(floor)
}

// sameKeys compares keys, however their JSON is written.
func sameKeys(a, b json.RawMessage) bool {
	x, err1 := ParseKeys(a)
	y, err2 := ParseKeys(b)
	if err1 != nil || err2 != nil || len(x) != len(y) {
		return false
	}
	for i := range x {
		p, err1 := x[i].Thumbprint(crypto.SHA256)
		q, err2 := y[i].Thumbprint(crypto.SHA256)
		if err1 != nil || err2 != nil || !bytes.Equal(p, q) {
			return false
		}
	}
	return true
}

func (t Trust) recovery() []jose.JSONWebKey {
	keys, err := ParseKeys(bytes.Join([][]byte{[]byte("["), t.Recovery, []byte("]")}, nil))
	if err != nil {
		return nil
	}
	return keys
}
