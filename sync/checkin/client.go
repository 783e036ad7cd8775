// Package checkin is the device's side of the check-in: a client that signs and sends reports, learns the server's
// clock, and says when to come again. It owns no policy and stores nothing; the agent supplies the report and processes
// the answer.
package checkin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/sync/protocol"
)

// Server says how to reach a server.
type Server struct {
	URL   string     // "https://policy.example.com"
	CA    string     // PEM of the one certificate authority to trust; empty for the system's
	Proxy secret.URL // empty for the environment's
	// Now is the clock for checking certificates; nil is this machine's clock.
	Now func() time.Time
	// Dial makes the connections; nil is as any program does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// requestLimit bounds one exchange.
const requestLimit = 30 * time.Second

// HTTP returns a client that only trusts the pinned authority and keeps one connection alive.
func (s Server) HTTP() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 1, 10*time.Minute
	if s.Dial != nil {
		t.DialContext = s.Dial
	}
	t.ForceAttemptHTTP2 = false // one connection, one exchange: HTTP/2 would cost bytes and wake-ups
	// A resumed session costs neither side a signature, and saves a kilobyte of certificates: a device with a socket
	// makes a new connection for each check-in.
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4), Time: s.Now}
	roots, err := s.roots()
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig.RootCAs = roots
	if s.Proxy != "" {
		if _, err := secret.ParseProxy(s.Proxy.Reveal()); err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		u, _ := url.Parse(s.Proxy.Reveal())
		t.Proxy = http.ProxyURL(u)
	}
	return &http.Client{Transport: t, Timeout: requestLimit, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("a policy server does not redirect")
	}}, nil
}

// roots are the authorities to trust; nil for the system's.
func (s Server) roots() (*x509.CertPool, error) {
	if s.CA == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.CA)) {
		return nil, errors.New("the pinned certificate authority is not a certificate")
	}
	return pool, nil
}

// Canonical normalises a server's URL: scheme and host may be written in capitals, and some later uses do not accept
// that. An unreadable URL is returned unchanged, for CheckURL to refuse.
func Canonical(raw string) string {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil || u.Host == "" {
		return raw
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	return strings.TrimRight(u.String(), "/")
}

// CheckURL accepts https, and http to this machine only.
func CheckURL(raw string) (*url.URL, error) {
	u, err := url.Parse(Canonical(raw))
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("server must be a URL like https://policy.example.com (%d bytes were received, which cannot be read)",
			len(raw))
	}
	if u.User != nil {
		return nil, fmt.Errorf("server %q must have no user and no password in it", u.Host)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %q must end with its host or a path: nothing after ? or #", raw)
	}
	switch host := u.Hostname(); {
	case u.Scheme == "https":
	case u.Scheme == "http" && (host == "127.0.0.1" || host == "::1" || host == "localhost"):
	default:
		return nil, fmt.Errorf("server %q must use https (plain http is for this machine alone)", raw)
	}
	return u, nil
}

// StatusError is an answer that reports a failure.
type StatusError struct {
	Code       int
	Problem    protocol.ProblemBody
	RetryAfter time.Duration
	Body       string // the beginning of the body, if it was not an error in our form

	notBefore, notAfter time.Time // validity of the certificate that the answer came under; zero without one
}

// Error says what the server answered.
func (e *StatusError) Error() string {
	text := e.Problem.Message
	if text == "" {
		text = e.Body
	}
	if text == "" {
		text = http.StatusText(e.Code)
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" (try again in %s)", e.RetryAfter)
	}
	return fmt.Sprintf("the server answered %d: %s", e.Code, enforce.Plain(strings.TrimSpace(text)))
}

// Final reports whether sending the same request again is useless.
func (e *StatusError) Final() bool {
	return e.Code >= 400 && e.Code < 500 && e.Code != http.StatusRequestTimeout && e.Code != http.StatusTooManyRequests
}

// ErrGarbage means that the server's answer does not follow the protocol.
var ErrGarbage = errors.New("the server's answer makes no sense")

// Client exchanges reports for answers.
type Client struct {
	Server Server
	Device string
	Key    *jose.JSONWebKey
	Now    func() time.Time
	// Trusted returns the policy keys, which sign the server's time; nil if it cannot be asked for.
	Trusted func() json.RawMessage

	http *http.Client

	mu      sync.Mutex
	offset  time.Duration // server time − ours
	counter uint64
}

// NewClient makes a client for an enrolled device.
func NewClient(s Server, device string, key *jose.JSONWebKey, now func() time.Time) (*Client, error) {
	s.URL = Canonical(s.URL) // one stored by an older version may not be
	c := &Client{Server: s, Device: device, Key: key, Now: now}
	c.Server.Now = func() time.Time { return c.Now().Add(c.Offset()) }
	var err error
	c.http, err = c.Server.HTTP()
	return c, err
}

// Offset is how far the server's clock is ahead of ours. It is only learnt when it is needed.
func (c *Client) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// Close drops the kept connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Sign returns the bearer token for a request of this device.
func (c *Client) Sign(method, path string, body []byte) (string, error) {
	c.mu.Lock()
	at := c.Now().Add(c.offset)
	c.mu.Unlock()
	return protocol.SignRequest(c.Key, c.Device, method, path, body, at)
}

// HTTPClient is the client's own, for the push socket: the same trust, the same proxy.
func (c *Client) HTTPClient() *http.Client { return c.http }

// maxTries of one exchange: the first, one after learning the clock, one after learning the counter.
const maxTries = 3

// Exchange sends a report. It numbers the report, and tries again if the server only disagrees about the clock or the
// counter, or if this machine's clock is too wrong to check the server's certificate.
func (c *Client) Exchange(ctx context.Context, r protocol.Report) (protocol.Answer, error) {
	return c.exchange(ctx, c.http, r)
}

// ExchangeAnew is Exchange on a new connection that is closed afterwards: only that proves that a connection can be
// made now.
func (c *Client) ExchangeAnew(ctx context.Context, r protocol.Report) (protocol.Answer, error) {
	h, err := c.Server.HTTP()
	if err != nil {
		return protocol.Answer{}, err
	}
	defer h.CloseIdleConnections()
	return c.exchange(ctx, h, r)
}

// exchange sends a report, with up to maxTries attempts.
func (c *Client) exchange(ctx context.Context, h *http.Client, r protocol.Report) (protocol.Answer, error) {
	var a protocol.Answer
	for try := 0; ; try++ {
		r.Counter = c.nextCounter()
		err := c.post(ctx, h, protocol.Base+"/devices/"+c.Device+"/checkin", r, &a)
		if err == nil || try == maxTries-1 {
			return a, err
		}
		if err = c.mend(ctx, err); err != nil {
			return a, err
		}
	}
}

// nextCounter always grows, also over restarts, without being stored. It follows the clock; a server that has seen a
// higher counter says so.
func (c *Client) nextCounter() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counter = max(c.counter+1, uint64(max(c.Now().UnixMilli(), 0)))
	return c.counter
}

// mend learns what a failure says about the clock or the counter. It returns nil if another try is worth it.
func (c *Client) mend(ctx context.Context, failure error) error {
	var s *StatusError
	if errors.As(failure, &s) && c.learn(s) {
		return nil
	}
	if misjudged(failure) && c.Trusted != nil {
		if err := c.askTime(ctx); err != nil {
			return fmt.Errorf("%w (this machine's clock says %s; the server's time could not be had: %v)", failure,
				c.Now().UTC().Format(time.DateTime), err)
		}
		return nil
	}
	return failure
}

// maxCounter is the highest counter that a device accepts from a server; the server itself accepts higher ones.
const maxCounter = 1 << 52

// learn takes the server's clock from an error that reports a clock difference.
func (c *Client) learn(s *StatusError) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.Problem.Code == protocol.CodeClock && s.Problem.ServerTime != nil:
		if protocol.Plausible(*s.Problem.ServerTime, s.notBefore, s.notAfter) != nil {
			return false
		}
		c.offset = s.Problem.ServerTime.Sub(c.Now())
	case s.Problem.Code == protocol.CodeCounter && s.Problem.Counter < maxCounter:
		c.counter = s.Problem.Counter
	default:
		return false
	}
	return true
}

// Put sends bytes other than a report, signed in the same way.
func (c *Client) Put(ctx context.Context, path string, body []byte) error {
	for try := 0; ; try++ {
		token, err := c.Sign(http.MethodPut, path, body)
		if err != nil {
			return err
		}
		err = do(ctx, c.http, http.MethodPut, c.Server.URL, path, token, body, &struct{}{})
		if err == nil || try == maxTries-1 {
			return err
		}
		if err = c.mend(ctx, err); err != nil {
			return err
		}
	}
}

// post sends JSON, signed, and decodes the answer.
func (c *Client) post(ctx context.Context, h *http.Client, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	token, err := c.Sign(http.MethodPost, path, body)
	if err != nil {
		return err
	}
	return do(ctx, h, http.MethodPost, c.Server.URL, path, token, body, out)
}

// do makes one request with a bounded answer.
func do(ctx context.Context, h *http.Client, method, base, path, token string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["User-Agent"] = nil
	req.Header.Set("Accept-Encoding", "identity")
	res, err := h.Do(req)
	if err != nil {
		return fmt.Errorf("cannot reach the server: %w", err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, protocol.MaxResponse+1))
	if err != nil {
		return fmt.Errorf("cannot read the server's answer: %w", err)
	}
	if len(raw) > protocol.MaxResponse {
		return fmt.Errorf("%w: more than %d bytes", ErrGarbage, protocol.MaxResponse)
	}
	if res.StatusCode/100 != 2 {
		return statusError(res, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%w: %d %q", ErrGarbage, res.StatusCode, beginning(raw))
	}
	return nil
}

// statusError decodes an answer that is not 2xx.
func statusError(res *http.Response, raw []byte) error {
	e := &StatusError{Code: res.StatusCode}
	var p protocol.Problem
	if json.Unmarshal(raw, &p) == nil && p.Error != nil {
		e.Problem = *p.Error
	} else {
		e.Body = beginning(raw)
	}
	if res.TLS != nil && len(res.TLS.PeerCertificates) > 0 {
		e.notBefore, e.notAfter = res.TLS.PeerCertificates[0].NotBefore, res.TLS.PeerCertificates[0].NotAfter
	}
	e.RetryAfter = retryAfter(res.Header.Get("Retry-After"), res.Header.Get("Date"))
	return e
}

// retryAfter reads both forms (RFC 9110, 10.2.3), limited to a day. A date is compared with the server's clock, if the
// answer has it, because this machine's may be wrong.
func retryAfter(v, date string) time.Duration {
	const most = 24 * time.Hour
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(min(max(n, 0), int64(most/time.Second))) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(date)
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), most)
}

func beginning(b []byte) string { return string(b[:min(len(b), 120)]) }

// Enroll registers this machine. If pin ("sha256:…" of the authority's certificate) is given, only the server's own
// authority is trusted from then on; otherwise the system's authorities have to vouch for the server.
func Enroll(ctx context.Context, s Server, pin, token string, key *jose.JSONWebKey, host protocol.Host,
	machine string) (protocol.EnrollResponse, Server, error) {
	var out protocol.EnrollResponse
	u, err := CheckURL(s.URL)
	if err != nil {
		return out, s, err
	}
	s.URL = u.String()
	if pin != "" && u.Scheme == "https" {
		if s.CA, err = s.fetchCA(ctx, u, pin); err != nil {
			return out, s, err
		}
	}
	h, err := s.HTTP()
	if err != nil {
		return out, s, err
	}
	defer h.CloseIdleConnections()
	pub := key.Public()
	jwk, err := json.Marshal(pub)
	if err != nil {
		return out, s, err
	}
	body, err := json.Marshal(protocol.EnrollRequest{PublicKey: jwk, Device: host, Machine: machine})
	if err != nil {
		return out, s, err
	}
	err = do(ctx, h, http.MethodPost, s.URL, protocol.Base+"/devices/enroll", token, body, &out)
	if err == nil && (out.DeviceID == "" || len(out.PolicyKeys) == 0) {
		err = fmt.Errorf("%w: no device id or no policy keys", ErrGarbage)
	}
	return out, s, err
}

// errShown ends a connection after its certificates were seen.
var errShown = errors.New("the certificates were shown")

// fetchCA finds the certificate with the pinned fingerprint in the chain that the server shows. It uses the same path
// as later requests: through the proxy, if there is one. Nothing is sent to the server before the certificate is found,
// and everything afterwards is verified against it.
func (s Server) fetchCA(ctx context.Context, u *url.URL, pin string) (string, error) {
	want := strings.ToLower(strings.TrimPrefix(pin, "sha256:"))
	if raw, err := hex.DecodeString(want); err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("ca-pin %q must be sha256: and 64 hex digits", pin)
	}
	h, err := s.HTTP()
	if err != nil {
		return "", err
	}
	var found *x509.Certificate
	// The chain is not trusted here: it is only searched for the pinned certificate, and the connection ends.
	t, err := unjudged(h, u, nil, func(state tls.ConnectionState) error {
		for _, cert := range state.PeerCertificates {
			sum := sha256.Sum256(cert.Raw)
			if hex.EncodeToString(sum[:]) == want && cert.IsCA {
				found = cert
			}
		}
		return errShown
	})
	if err != nil {
		return "", err
	}
	defer t.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Scheme+"://"+u.Host+"/healthz", nil)
	if err != nil {
		return "", err
	}
	res, err := t.RoundTrip(req)
	if err == nil {
		_ = res.Body.Close()
	}
	if !errors.Is(err, errShown) {
		return "", fmt.Errorf("cannot reach the server: %w", err)
	}
	if found == nil {
		return "", fmt.Errorf("the server at %s shows no certificate authority with the pinned fingerprint", u.Host)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: found.Raw})), nil
}

// unjudged is a client's transport for one request, in which judge sees the server's certificates instead of their
// being verified. A proxy reached over TLS is verified as usual, by the given roots (nil: the system's).
func unjudged(h *http.Client, to *url.URL, roots *x509.CertPool, judge func(tls.ConnectionState) error) (*http.Transport, error) {
	t := h.Transport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	proxy, err := t.Proxy(&http.Request{URL: to})
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	shaken := false
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			if proxy == nil || proxy.Scheme != "https" || shaken {
				return judge(state)
			}
			shaken = true
			return verified(state, proxy.Hostname(), roots, time.Time{})
		}}
	return t, nil
}

// verified verifies a chain as crypto/tls does, at a given time; the zero time is now.
func verified(state tls.ConnectionState, host string, roots *x509.CertPool, at time.Time) error {
	between := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host, CurrentTime: at})
	return err
}
