package checkin

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/warderd/warder/sync/protocol"
)

// misjudged reports whether a certificate was refused only because of its dates. If the clock is wrong by years, that
// is every certificate.
func misjudged(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// askTime learns the server's time from a server whose certificate this machine's clock cannot check. Everything else
// about the certificate has to be right, the time has to be signed by the policy key for this very question, and the
// certificate has to be valid at that time. So somebody who only has an old certificate cannot answer.
func (c *Client) askTime(ctx context.Context) error {
	u, err := url.Parse(c.Server.URL)
	if err != nil {
		return err
	}
	roots, err := c.Server.roots()
	if err != nil {
		return err
	}
	var leaf *x509.Certificate
	// Verified at a time within the certificate's own validity.
	t, err := unjudged(c.http, u, roots, func(state tls.ConnectionState) error {
		leaf = state.PeerCertificates[0]
		return verified(state, u.Hostname(), roots, leaf.NotBefore.Add(time.Minute))
	})
	if err != nil {
		return err
	}
	h := &http.Client{Transport: t, Timeout: requestLimit, CheckRedirect: c.http.CheckRedirect}
	nonce := rand.Text()
	body, err := json.Marshal(protocol.TimeRequest{Nonce: nonce})
	if err != nil {
		return err
	}
	asked := c.Now()
	var out protocol.TimeResponse
	if err := do(ctx, h, http.MethodPost, c.Server.URL, protocol.Base+"/time", "", body, &out); err != nil {
		return err
	}
	if leaf == nil {
		return errors.New("the server showed no certificate")
	}
	at, err := protocol.VerifyTime(out.Time, nonce, c.Trusted())
	if err != nil {
		return fmt.Errorf("the server's time: %w", err)
	}
	if err := protocol.Plausible(at, leaf.NotBefore, leaf.NotAfter); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = at.Sub(asked)
	return nil
}
