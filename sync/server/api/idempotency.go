package api

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/warderd/warder/sync/server/store"
)

// keep stores the answer to an idempotency key, encrypted: it may contain a token that is only shown once.
func (a *API) keep(q *request, status int, out any) error {
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	box, err := a.seal(q)
	if err != nil {
		return err
	}
	nonce := make([]byte, box.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(box.Seal(nonce, nonce, b, nil))
	return a.Store.Answered(context.WithoutCancel(q.Context()), q.by, q.key(), status, text)
}

// seal is the cipher for the stored answer of one key: the database alone, or a copy of it, cannot decrypt it.
func (a *API) seal(q *request) (cipher.AEAD, error) {
	block, err := aes.NewCipher(a.Keys.CodeSecret("idempotency\n" + q.by + "\n" + q.key()))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// key is the caller's idempotency key.
func (q *request) key() string {
	if q.Method != http.MethodPost || q.route.access != admin {
		return ""
	}
	return q.Header.Get("Idempotency-Key")
}

// fingerprint identifies the request that a key was used for.
func (q *request) fingerprint() string {
	h := sha256.Sum256(q.body)
	return q.Method + " " + q.URL.RequestURI() + " " + hex.EncodeToString(h[:])
}

// replay answers a request that was carried out before under the same key.
func (a *API) replay(q *request) (out any, status int, err error, done bool) {
	key := q.key()
	if key == "" {
		return nil, 0, nil, false
	}
	if len(key) > 128 || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
		return nil, 0, bad("Idempotency-Key must have 1 to 128 printing ASCII characters"), true
	}
	r, err := a.Store.Replay(q.Context(), q.by, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, 0, nil, false
	case err != nil:
		return nil, 0, err, true
	case r.Request != q.fingerprint():
		return nil, 0, &problem{status: http.StatusUnprocessableEntity, code: "idempotency_key_reused",
			message: "this Idempotency-Key was used for another request"}, true
	case r.Status == 0 && q.now.Sub(r.At) < 30*time.Second:
		return nil, 0, store.ErrReused, true // its answer is being written
	case r.Status == 0:
		return nil, 0, &problem{status: http.StatusConflict, code: "idempotency_answer_lost",
				message: fmt.Sprintf("the request was carried out as change %d of the audit log, and its answer was not kept", r.Sequence)},
			true
	}
	box, err := a.seal(q)
	if err != nil {
		return nil, 0, err, true
	}
	raw, err := base64.StdEncoding.DecodeString(r.Response)
	if err != nil || len(raw) < box.NonceSize() {
		return nil, 0, errors.New("a kept answer cannot be read"), true
	}
	b, err := box.Open(nil, raw[:box.NonceSize()], raw[box.NonceSize():], nil)
	if err != nil {
		return nil, 0, fmt.Errorf("a kept answer cannot be read: %w", err), true
	}
	q.w.Header().Set("Idempotency-Replayed", "true")
	return json.RawMessage(b), r.Status, nil, true
}
