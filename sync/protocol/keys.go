package protocol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// NewDeviceKey makes a device's key (Ed25519) as a private JWK. A key in a TPM will be P-256, which TPMs support; in
// software, Ed25519 costs the server half as much to verify (docs/decisions/0010).
func NewDeviceKey() (*jose.JSONWebKey, error) { return NewPolicyKey() }

// NewPolicyKey makes a server's signing key (Ed25519) as a private JWK.
func NewPolicyKey() (*jose.JSONWebKey, error) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return named(k, jose.EdDSA)
}

// named gives a key its RFC 7638 thumbprint as key id.
func named(key any, alg jose.SignatureAlgorithm) (*jose.JSONWebKey, error) {
	k := &jose.JSONWebKey{Key: key, Algorithm: string(alg), Use: "sig"}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	k.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return k, nil
}

// ParseKeys reads a list of public JWKs.
func ParseKeys(raw json.RawMessage) ([]jose.JSONWebKey, error) {
	var keys []jose.JSONWebKey
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, fmt.Errorf("policy keys: %w", err)
	}
	for _, k := range keys {
		if !k.Valid() || !k.IsPublic() {
			return nil, fmt.Errorf("policy key %q is not a valid public key", k.KeyID)
		}
	}
	return keys, nil
}

// sign makes a compact JWS with a type, so that one kind of message cannot be mistaken for another.
func sign(key *jose.JSONWebKey, kind string, v any) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key},
		(&jose.SignerOptions{}).WithType(jose.ContentType(kind)))
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	out, err := s.Sign(body)
	if err != nil {
		return "", err
	}
	return out.CompactSerialize()
}

// ErrSignature means that no pinned key made the signature.
var ErrSignature = errors.New("bad signature")

// verify checks a message's signature and type, and decodes its payload.
func verify(token, kind string, keys []jose.JSONWebKey, v any) error {
	if len(token) > MaxResponse {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrSignature, len(token), MaxResponse)
	}
	sig, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return fmt.Errorf("%w: %v", ErrSignature, err)
	}
	if got, _ := sig.Signatures[0].Header.ExtraHeaders[jose.HeaderType].(string); got != kind {
		return fmt.Errorf("%w: it signs a %q, not a %q", ErrSignature, got, kind)
	}
	for _, k := range keys {
		if k.KeyID != sig.Signatures[0].Header.KeyID {
			continue
		}
		body, err := sig.Verify(k)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrSignature, err)
		}
		if err := json.Unmarshal(body, v); err != nil {
			return fmt.Errorf("signed %s cannot be read: %w", kind, err)
		}
		return nil
	}
	return fmt.Errorf("%w: key %q is not pinned", ErrSignature, sig.Signatures[0].Header.KeyID)
}

// The types of signed messages.
const (
	typAssignment = "warder-assignment"
	typRelease    = "warder-release"
	typKeys       = "warder-keys"
)

// SignAssignment signs a policy for one device.
func SignAssignment(key *jose.JSONWebKey, a Assignment) (string, error) {
	return sign(key, typAssignment, a)
}

// Why an assignment is refused.
var (
	ErrOtherDevice = errors.New("the assignment is for another device")
	ErrOlderSerial = errors.New("the assignment is older than one already seen")
	ErrSerial      = errors.New("the assignment's serial is out of range")
)

// MaxSerial is the highest serial: every JSON reader represents it exactly, and a device that reported a higher one
// could no longer check in.
const MaxSerial = 1 << 53

// VerifyAssignment checks the signature, the device it is for, and that it is not replayed. A wrong clock is no reason
// to refuse: expiry only makes a policy stale.
func VerifyAssignment(token string, keys []jose.JSONWebKey, device string, highest int64) (*Assignment, error) {
	var a Assignment
	if err := verify(token, typAssignment, keys, &a); err != nil {
		return nil, err
	}
	if a.DeviceID != device {
		return nil, fmt.Errorf("%w: %q", ErrOtherDevice, a.DeviceID)
	}
	if a.Serial < 0 || a.Serial > MaxSerial {
		return nil, fmt.Errorf("%w: %d", ErrSerial, a.Serial)
	}
	if a.Serial < highest {
		return nil, fmt.Errorf("%w: serial %d, seen %d", ErrOlderSerial, a.Serial, highest)
	}
	return &a, nil
}

// SignRelease signs a release.
func SignRelease(key *jose.JSONWebKey, r Release) (string, error) { return sign(key, typRelease, r) }

// VerifyRelease checks a release for this device. It cannot be replayed later, because a device that enrolls again has
// another id.
func VerifyRelease(token string, keys []jose.JSONWebKey, device string) (*Release, error) {
	var r Release
	if err := verify(token, typRelease, keys, &r); err != nil {
		return nil, err
	}
	if r.DeviceID != device || !r.Release {
		return nil, fmt.Errorf("%w: release of %q", ErrOtherDevice, r.DeviceID)
	}
	return &r, nil
}

// SignKeys signs a rotation with the old key, or the recovery key.
func SignKeys(key *jose.JSONWebKey, k KeySet) (string, error) { return sign(key, typKeys, k) }

// VerifyKeys checks a rotation against the keys pinned now.
func VerifyKeys(token string, pinned []jose.JSONWebKey) (*KeySet, error) {
	var k KeySet
	if err := verify(token, typKeys, pinned, &k); err != nil {
		return nil, err
	}
	keys, err := ParseKeys(k.PolicyKeys)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("a rotation to no key at all")
	}
	return &k, nil
}

// requestClaims bind a device's request to its body and to a moment of the server's clock.
type requestClaims struct {
	jwt.Claims
	Body string `json:"body"` // SHA-256, hex
	Path string `json:"path"` // method and path
}

// requestLife is how far ahead a request may expire, in server time.
const requestLife = 60 * time.Second

// audience is the same for every server: the device's key is only used with one server.
const audience = "warder-server"

// SignRequest makes the bearer token of one request. now is the server's time as the device knows it.
func SignRequest(key *jose.JSONWebKey, device, method, path string, body []byte, now time.Time) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(body)
	return jwt.Signed(s).Claims(requestClaims{
		Claims: jwt.Claims{Issuer: device, Audience: jwt.Audience{audience}, IssuedAt: jwt.NewNumericDate(now),
			Expiry: jwt.NewNumericDate(now.Add(requestLife - 5*time.Second))},
		Body: hex.EncodeToString(h[:]), Path: method + " " + path,
	}).Serialize()
}

// ErrClock means that only the token's time is wrong.
var ErrClock = errors.New("the request's time is off")

// VerifyRequest checks a device's token against its registered key, before the body is read. It returns the hash that
// the body must have, for VerifyBody.
func VerifyRequest(token string, key jose.JSONWebKey, device, method, path string, now time.Time) (body string, err error) {
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA})
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrSignature, err)
	}
	var c requestClaims
	if err := t.Claims(key.Key, &c); err != nil {
		return "", fmt.Errorf("%w: %v", ErrSignature, err)
	}
	switch {
	case c.Issuer != device || !c.Audience.Contains(audience):
		return "", fmt.Errorf("%w: issued by %q for %v", ErrSignature, c.Issuer, c.Audience)
	case c.Path != method+" "+path:
		return "", fmt.Errorf("%w: it signs another request", ErrSignature)
	case c.Expiry == nil || now.After(c.Expiry.Time()) || c.Expiry.Time().After(now.Add(requestLife)):
		return "", ErrClock
	}
	return c.Body, nil
}

// VerifyBody checks a body against the hash that its request signs.
func VerifyBody(want string, body []byte) error {
	h := sha256.Sum256(body)
	if want != hex.EncodeToString(h[:]) {
		return fmt.Errorf("%w: it signs another body", ErrSignature)
	}
	return nil
}

// KeysDigest identifies a list of keys in a few bytes, so that a server sees whether a device has followed a rotation.
func KeysDigest(keys []jose.JSONWebKey) string {
	h := sha256.New()
	for _, k := range keys {
		h.Write([]byte(k.KeyID + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// ExceptionsDigest identifies a list of exceptions.
func ExceptionsDigest(list []Exception) string {
	if len(list) == 0 {
		return ""
	}
	ids := make([]string, 0, len(list))
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	return Digest(ids)[:8]
}

// Digest identifies the content of a part of a report, so that it is only sent when it changes.
func Digest(v any) string {
	b, _ := json.Marshal(v)
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:16])
}

// DeviceKey reports whether a key is of a kind with which a device can sign its requests.
func DeviceKey(k *jose.JSONWebKey) bool {
	if k.Use != "" && k.Use != "sig" {
		return false
	}
	switch key := k.Key.(type) {
	case ed25519.PublicKey:
		return len(key) == ed25519.PublicKeySize && (k.Algorithm == "" || k.Algorithm == string(jose.EdDSA))
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() && (k.Algorithm == "" || k.Algorithm == string(jose.ES256))
	}
	return false
}
