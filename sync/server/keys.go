// Package server is the policy server: it holds keys and certificates, wires the store to the API,
// and listens. It owns the data directory. Devices reach it through sync/protocol's messages;
// administrators through the Policies API.
package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
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
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/warderd/warder/sync/protocol"
)

// Keys are the server's secrets, each in a file of its own with mode 0600.
type Keys struct {
	Policy   *jose.JSONWebKey // signs policies
	Recovery *jose.JSONWebKey // public half; the private one belongs offline
	Admin    []byte           // HS256 secret of administrators' tokens
	dir      string
}

// LoadKeys reads the keys of a data directory, and makes them on first use.
func LoadKeys(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &Keys{dir: dir}
	var err error
	if k.Policy, err = jwkFile(filepath.Join(dir, "policy.key")); err != nil {
		return nil, err
	}
	if k.Recovery, err = k.recovery(); err != nil {
		return nil, err
	}
	k.Admin, err = secretFile(filepath.Join(dir, "admin.key"), func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return b, err
	})
	return k, err
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

// recovery keeps the public half on the server for ever; recovery.key is made beside it for the
// administrator to take away.
func (k *Keys) recovery() (*jose.JSONWebKey, error) {
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

// PolicyKeys is the public list that devices pin.
func (k *Keys) PolicyKeys() json.RawMessage {
	b, _ := json.Marshal([]jose.JSONWebKey{k.Policy.Public()})
	return b
}

// RecoveryKey is the public half that devices pin.
func (k *Keys) RecoveryKey() json.RawMessage {
	b, _ := json.Marshal(k.Recovery)
	return b
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
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: k.Admin}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(s).Claims(AdminClaims{jwt.Claims{
		Subject: subject, Audience: jwt.Audience{adminAudience}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(ttl)),
	}, role}).Serialize()
}

// Admin checks a bearer token. Only HS256 is taken, and only with an expiry.
func (k *Keys) AdminOf(token string, now time.Time) (AdminClaims, error) {
	var c AdminClaims
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return c, errors.New("the token is no HS256 token of this server")
	}
	if err := t.Claims(k.Admin, &c); err != nil {
		return c, errors.New("the token was not signed by this server")
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
