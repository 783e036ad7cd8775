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

// Trust is how a device recognises its server: the policy keys, and the recovery key above them. The other fields
// prevent replays.
type Trust struct {
	PolicyKeys json.RawMessage // public JWKs
	Recovery   json.RawMessage // one public JWK, or empty
	Enrolled   time.Time       // when the device enrolled
	KeysAt     time.Time       // the date of the statement followed last
	// Count is the counter of the recovery key's last statement that the device followed, or was told at enrollment;
	// CountAt is that statement's date, or the enrollment's. Both are zero on a device that enrolled with version 0.2.0
	// and has followed none since.
	Count   uint64
	CountAt time.Time

	now time.Time // the server's
}

// maxAhead is how far after the server's time a statement may be dated. Otherwise a thief of the policy key could sign
// a rotation so late that no other could follow it.
const maxAhead = 24 * time.Hour

// Why a rotation is refused.
var (
	ErrOlderKeys = errors.New("the rotation of policy keys is older than the one followed last")
	ErrFuture    = errors.New("the rotation of policy keys is dated in the future")
)

// Follow checks a rotation and returns the trust after it. recovered reports that the recovery key signed it. Such
// statements have a counter of their own, which policy keys can neither use nor outdate; serials signed by the earlier
// keys no longer count. now is the server's time.
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
	// A date that would be refused today was accepted by a version that did not check it, or under another clock: it
	// does not outdate what comes now.
	if last := t.KeysAt; !last.After(now.Add(maxAhead)) && !set.IssuedAt.After(last) {
		return t, false, fmt.Errorf("%w (%s, %s)", ErrOlderKeys, set.IssuedAt.Format(time.RFC3339), last.Format(time.RFC3339))
	}
	t.PolicyKeys, t.KeysAt = set.PolicyKeys, set.IssuedAt
	return t, false, nil
}

// recover follows a statement of the recovery key: the higher counter wins, and of equal ones the later date. Version
// 0.2.0 wrote none with a counter; those are below every one that has a counter.
func (t Trust) recover(set *KeySet) (Trust, bool, error) {
	same := sameKeys(set.PolicyKeys, t.PolicyKeys)
	if t.outdates(set) {
		if same {
			return t, false, nil
		}
		return t, false, fmt.Errorf("%w (recovery %d of %s, %d)", ErrOlderKeys, set.Recovery, set.IssuedAt.Format(time.RFC3339), t.Count)
	}
	t.PolicyKeys, t.KeysAt, t.Count, t.CountAt = set.PolicyKeys, set.IssuedAt, set.Recovery, set.IssuedAt
	// If these keys are pinned already, nothing is recovered: the serials that they signed still count.
	return t, !same, nil
}

// outdates reports whether a statement of the recovery key was made before what the device knows. A device that
// enrolled with version 0.2.0 was not told the counter, so a statement older than its enrollment could be replayed to
// it. Until it has followed one, statements have to be later than its enrollment, and those without a counter also later
// than the rotation followed last.
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

// recovery is the recovery key as a list of at most one.
func (t Trust) recovery() []jose.JSONWebKey {
	keys, err := ParseKeys(bytes.Join([][]byte{[]byte("["), t.Recovery, []byte("]")}, nil))
	if err != nil {
		return nil
	}
	return keys
}
