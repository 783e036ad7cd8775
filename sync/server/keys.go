// Package server is the policy server: it holds keys and certificates, wires the store to the API,
// and listens. It owns the data directory. Devices reach it through sync/protocol's messages;
// administrators through the Policies API.
package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/warderd/warder/sync/protocol"
)

// Keys are the server's secrets, each in a file of its own with mode 0600. They may be rotated by
// another process while a server runs: Reload takes what is new.
type Keys struct {
	dir string
	ca  *CA

	mu       sync.RWMutex
	policy   *jose.JSONWebKey // signs policies
	recovery *jose.JSONWebKey // public half; the private one belongs offline
	past     past
	admin    []adminKey // the first signs
	codes    []byte     // what devices' code secrets are derived from
	stamp    string
}

// past is what rotations left: the old private keys, to bring devices that still pin them on, and
// the statements that do so.
type past struct {
	Old        []jose.JSONWebKey `json:"old"`
	Statements map[string]string `json:"statements"`         // by protocol.KeysDigest of what is pinned; "*": any
	Recovery   uint64            `json:"recovery,omitempty"` // the counter of the last statement of the recovery key
}

// adminKey is one HS256 secret of administrators' tokens.
type adminKey struct {
	ID  string `json:"kid"`
	Key []byte `json:"k"`
}

// LoadKeys reads the keys of a data directory, and makes them on first use.
func LoadKeys(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &Keys{dir: dir}
	return k, k.Reload()
}

// files are the secrets that a rotation writes.
func (k *Keys) files() []string {
	return []string{k.file("policy.key"), k.file("policy.past"), k.file("admin.key")}
}

func (k *Keys) file(name string) string { return filepath.Join(k.dir, name) }

// Reload reads the files anew where they have changed.
func (k *Keys) Reload() error {
	stamp := ""
	for _, f := range k.files() {
		if info, err := os.Stat(f); err == nil {
			stamp += fmt.Sprintln(info.ModTime().UnixNano(), info.Size())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.policy != nil && stamp == k.stamp {
		return nil
	}
	policy, err := jwkFile(k.file("policy.key"))
	if err != nil {
		return err
	}
	if k.recovery == nil {
		if k.recovery, err = k.loadRecovery(); err != nil {
			return err
		}
	}
	var old past
	if b, err := os.ReadFile(k.file("policy.past")); err == nil {
		if err := json.Unmarshal(b, &old); err != nil {
			return fmt.Errorf("policy.past is no list of keys: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	admin, err := k.loadAdmin()
	if err != nil {
		return err
	}
	if k.codes == nil {
		if k.codes, err = secretFile(k.file("codes.key"), random32); err != nil {
			return err
		}
	}
	k.policy, k.past, k.admin, k.stamp = policy, old, admin, stamp
	return nil
}

func random32() ([]byte, error) {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	return b, err
}

// loadAdmin reads the secrets of tokens: one as 32 bytes, or after a rotation a list.
func (k *Keys) loadAdmin() ([]adminKey, error) {
	b, err := secretFile(k.file("admin.key"), random32)
	if err != nil {
		return nil, err
	}
	if len(b) == 32 {
		return []adminKey{{Key: b}}, nil
	}
	var list []adminKey
	if err := json.Unmarshal(b, &list); err != nil || len(list) == 0 {
		return nil, errors.New("admin.key is neither 32 bytes nor a list of keys")
	}
	for _, a := range list {
		if len(a.Key) < 32 {
			return nil, fmt.Errorf("admin.key: key %q has less than 32 bytes", a.ID)
		}
	}
	return list, nil
}

// RotateAdmin makes a new secret for tokens. Tokens of the one before stay valid until they expire;
// with drop none but new ones do.
func (k *Keys) RotateAdmin(drop bool) error {
	key, err := random32()
	if err != nil {
		return err
	}
	k.mu.RLock()
	list := []adminKey{{ID: rand.Text()[:8], Key: key}}
	if !drop {
		list = append(list, k.admin[0]) // the one before it and no older
	}
	k.mu.RUnlock()
	b, _ := json.Marshal(list)
	if err := replaceFile(k.file("admin.key"), b); err != nil {
		return err
	}
	return k.Reload()
}

// RotatePolicy makes a new key to sign policies with. Devices follow because the old key says so;
// or, with the recovery key, because that does: then the old one is forgotten, as it should be when it
// may be in wrong hands.
func (k *Keys) RotatePolicy(recovery *jose.JSONWebKey, now time.Time) error {
	fresh, err := protocol.NewPolicyKey()
	if err != nil {
		return err
	}
	k.mu.RLock()
	current, old, pub := *k.policy, k.past, k.recovery
	k.mu.RUnlock()
	public, err := json.Marshal([]jose.JSONWebKey{fresh.Public()})
	if err != nil {
		return err
	}
	set := protocol.KeySet{PolicyKeys: public, IssuedAt: now.UTC()}
	next := past{Statements: map[string]string{}, Recovery: old.Recovery}
	if recovery != nil {
		if recovery.KeyID != pub.KeyID {
			return errors.New("the recovery key is not the one that this server's devices know")
		}
		// Above every one before it, also where the file that counts them is a backup's.
		set.Recovery = max(old.Recovery+1, uint64(max(now.Unix(), 1)))
		next.Recovery = set.Recovery
		if next.Statements["*"], err = protocol.SignKeys(recovery, set); err != nil {
			return err
		}
	} else {
		next.Old = append([]jose.JSONWebKey{current}, old.Old...)
		// What the recovery key said stays: devices away since then go by it, and from there on.
		if s, ok := old.Statements["*"]; ok {
			next.Statements["*"] = s
		}
		for i := range next.Old {
			o := &next.Old[i]
			if next.Statements[protocol.KeysDigest([]jose.JSONWebKey{*o})], err = protocol.SignKeys(o, set); err != nil {
				return err
			}
		}
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	key, err := json.Marshal(fresh)
	if err != nil {
		return err
	}
	// The statements first: a server that has the new key must be able to say how to come to it.
	if err := replaceFile(k.file("policy.past"), b); err != nil {
		return err
	}
	if err := replaceFile(k.file("policy.key"), key); err != nil {
		return err
	}
	return k.Reload()
}

// replaceFile writes a secret whole or not at all.
func replaceFile(path string, b []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(b)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// secretFile reads a secret, or makes it. Two processes that start at once agree on one: the file
// is created exclusively under its final name only when it is whole.
func secretFile(path string, make func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = make(); err != nil {
		return nil, err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(b)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

func jwkFile(path string) (*jose.JSONWebKey, error) {
	b, err := secretFile(path, func() ([]byte, error) {
		k, err := protocol.NewPolicyKey()
		if err != nil {
			return nil, err
		}
		return json.Marshal(k)
	})
	if err != nil {
		return nil, err
	}
	var k jose.JSONWebKey
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("%s is no key: %w", path, err)
	}
	return &k, nil
}

// loadRecovery keeps the public half on the server for ever; recovery.key is made beside it for the
// administrator to take away.
func (k *Keys) loadRecovery() (*jose.JSONWebKey, error) {
	pub := filepath.Join(k.dir, "recovery.pub")
	if b, err := os.ReadFile(pub); err == nil {
		var j jose.JSONWebKey
		return &j, json.Unmarshal(b, &j)
	}
	j, err := jwkFile(filepath.Join(k.dir, "recovery.key"))
	if err != nil {
		return nil, err
	}
	public := j.Public()
	b, err := secretFile(pub, func() ([]byte, error) { return json.Marshal(public) })
	if err != nil {
		return nil, err
	}
	var out jose.JSONWebKey
	return &out, json.Unmarshal(b, &out)
}

// loose lists the secrets that others than their owner may read or change.
func (k *Keys) loose() (out []string) {
	for _, f := range append(k.files(), k.dir, k.file("codes.key"), k.file("ca.pem"), k.file("recovery.key")) {
		if info, err := os.Stat(f); err == nil && info.Mode().Perm()&0o077 != 0 {
			out = append(out, f)
		}
	}
	return out
}

// adminID names the secret that signs tokens.
func (k *Keys) adminID() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.admin[0].ID
}

// Signing is the key that signs policies.
func (k *Keys) Signing() *jose.JSONWebKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.policy
}

// PolicyKeys is the public list that devices pin.
func (k *Keys) PolicyKeys() json.RawMessage {
	b, _ := json.Marshal([]jose.JSONWebKey{k.Signing().Public()})
	return b
}

// Pinned names that list.
func (k *Keys) Pinned() string { return protocol.KeysDigest([]jose.JSONWebKey{k.Signing().Public()}) }

// Rotation is the statement that brings a device to the key of now; "" when there is none for what
// it pins.
func (k *Keys) Rotation(pinned string) string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if s, ok := k.past.Statements[pinned]; ok {
		return s
	}
	return k.past.Statements["*"]
}

// Follows reports whether the key of now came by rotation from another one.
func (k *Keys) Follows(kid string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i := range k.past.Old {
		if k.past.Old[i].KeyID == kid {
			return true
		}
	}
	return k.past.Statements["*"] != ""
}

// Recovery is the counter of the recovery key's last statement; 0 when there was none with one.
func (k *Keys) Recovery() uint64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.past.Recovery
}

// RecoveryKey is the public half that devices pin.
func (k *Keys) RecoveryKey() json.RawMessage {
	b, _ := json.Marshal(k.recovery)
	return b
}

// CodeSecret is what a device verifies exception codes with.
func (k *Keys) CodeSecret(device string) []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return protocol.CodeSecret(k.codes, device)
}

// tickets are the keys of TLS session tickets, today's and yesterday's: the same on every node and
// after a restart, so that a fleet that comes back at once resumes its sessions.
func (k *Keys) tickets(now time.Time) [][32]byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var out [][32]byte
	for _, day := range []time.Time{now, now.AddDate(0, 0, -1)} {
		h := hmac.New(sha256.New, k.codes)
		h.Write([]byte("warder-session-tickets\n" + day.UTC().Format(time.DateOnly)))
		out = append(out, [32]byte(h.Sum(nil)))
	}
	return out
}

// CAPin is the fingerprint of the server's own authority; "" where it has none.
func (k *Keys) CAPin() string {
	if k.ca == nil {
		return ""
	}
	return k.ca.Fingerprint()
}

// adminAudience keeps a token of another system's, signed with the same secret by mistake, out.
const adminAudience = "warder-api"

// AdminClaims are what an administrator's token says.
type AdminClaims struct {
	jwt.Claims
	Role string `json:"role"`
}

// AdminToken makes a bearer token for a role.
func (k *Keys) AdminToken(subject, role string, ttl time.Duration, now time.Time) (string, error) {
	k.mu.RLock()
	key := k.admin[0]
	k.mu.RUnlock()
	o := (&jose.SignerOptions{}).WithType("JWT")
	if key.ID != "" {
		o = o.WithHeader(jose.HeaderKey("kid"), key.ID)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key.Key}, o)
	if err != nil {
		return "", err
	}
	return jwt.Signed(s).Claims(AdminClaims{jwt.Claims{
		Subject: subject, Audience: jwt.Audience{adminAudience}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(ttl)),
	}, role}).Serialize()
}

// Admin gives the subject and role of a bearer token.
func (k *Keys) Admin(token string, now time.Time) (subject, role string, err error) {
	c, err := k.AdminOf(token, now)
	return c.Subject, c.Role, err
}

// AdminOf checks a bearer token. Only HS256 is taken, and only with an expiry.
func (k *Keys) AdminOf(token string, now time.Time) (AdminClaims, error) {
	var c AdminClaims
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return c, errors.New("the token is no HS256 token of this server")
	}
	k.mu.RLock()
	list := k.admin
	k.mu.RUnlock()
	err = errors.New("no key")
	for i := 0; i < len(list) && err != nil; i++ {
		c = AdminClaims{}
		err = t.Claims(list[i].Key, &c)
	}
	if err != nil {
		return AdminClaims{}, errors.New("the token was not signed by this server, or its key was rotated away")
	}
	if c.Expiry == nil {
		return c, errors.New("the token has no expiry")
	}
	if err := c.ValidateWithLeeway(jwt.Expected{AnyAudience: jwt.Audience{adminAudience}, Time: now}, 0); err != nil {
		return c, fmt.Errorf("the token is not valid: %w", err)
	}
	if c.Role != "admin" && c.Role != "viewer" {
		return c, fmt.Errorf("the token's role %q is neither admin nor viewer", c.Role)
	}
	return c, nil
}

// CA is the server's own certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CA reads the authority, and makes it on first use.
func (k *Keys) CA(now time.Time) (*CA, error) {
	if k.ca != nil {
		return k.ca, nil
	}
	var err error
	k.ca, err = LoadCA(k.dir, now)
	return k.ca, err
}

// LoadCA reads the authority of a data directory, and makes it on first use.
func LoadCA(dir string, now time.Time) (*CA, error) {
	b, err := secretFile(filepath.Join(dir, "ca.pem"), func() ([]byte, error) { return newCA(now) })
	if err != nil {
		return nil, err
	}
	var ca CA
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			ca.cert, err = x509.ParseCertificate(block.Bytes)
		case "EC PRIVATE KEY":
			ca.key, err = x509.ParseECPrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("ca.pem: %w", err)
		}
	}
	if ca.cert == nil || ca.key == nil {
		return nil, errors.New("ca.pem holds no certificate and key")
	}
	return &ca, nil
}

func newCA(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Warder policy server CA"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})...), nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return n
}

// Fingerprint is what devices pin: sha256 over the authority's certificate.
func (c *CA) Fingerprint() string {
	h := sha256.Sum256(c.cert.Raw)
	return "sha256:" + hex.EncodeToString(h[:])
}

// Certificate issues this server's certificate for the names it is reached by.
func (c *CA) Certificate(names []string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Warder policy server"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if n != "" {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, &key.PublicKey, c.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: key}, nil
}
