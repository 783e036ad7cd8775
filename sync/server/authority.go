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
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"time"
)

// CAPin is the fingerprint of the server's own authority; "" if it has none.
func (k *Keys) CAPin() string {
	if k.ca == nil {
		return ""
	}
	return k.ca.Fingerprint()
}

// CA is the server's own certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CA reads the authority, and creates it on first use.
func (k *Keys) CA(now time.Time) (*CA, error) {
	if k.ca != nil {
		return k.ca, nil
	}
	var err error
	k.ca, err = LoadCA(k.dir, now)
	return k.ca, err
}

// LoadCA reads the authority of a data directory, and creates it on first use.
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
		return nil, errors.New("ca.pem has no certificate and key")
	}
	return &ca, nil
}

// newCA makes a certificate authority (ECDSA P-256), as PEM of its key and certificate.
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
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})...), nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return n
}

// Fingerprint is what devices pin: sha256 of the authority's certificate.
func (c *CA) Fingerprint() string {
	h := sha256.Sum256(c.cert.Raw)
	return "sha256:" + hex.EncodeToString(h[:])
}

// PEM is the authority's certificate, without its key.
func (c *CA) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
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
