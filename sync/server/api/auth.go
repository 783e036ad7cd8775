package api

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/time/rate"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// admit checks who calls, before the body is read. For a device it gives the hash that the body
// must have, and the device stays locked until the request is done.
func (a *API) admit(q *request) (hash string, err error) {
	scheme, bearer, ok := strings.Cut(q.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || len(bearer) > 8<<10 {
		return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "unauthorized", message: "an Authorization: Bearer token is needed"})
	}
	q.bearer = strings.TrimSpace(bearer)
	switch q.route.access {
	case viewer, admin:
		by, role, err := a.Keys.Admin(q.bearer, q.now)
		if err != nil {
			return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "unauthorized", message: err.Error()})
		}
		if q.route.access == admin && role != "admin" {
			return "", &problem{status: http.StatusForbidden, code: "forbidden", message: "this needs the role admin; the token has " + role}
		}
		q.by = by
	case device:
		return a.admitDevice(q)
	}
	return "", nil
}

func (a *API) admitDevice(q *request) (string, error) {
	e, err := a.book.find(q.Context(), q.PathValue("id"))
	if errors.Is(err, store.ErrNotFound) {
		return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "unknown_device", message: "this device is not enrolled here"})
	}
	if err != nil {
		return "", err
	}
	hash, err := protocol.VerifyRequest(q.bearer, e.key, e.d.ID, q.Method, q.URL.Path, q.now)
	if errors.Is(err, protocol.ErrClock) {
		at := q.now.UTC()
		return "", &detailed{http.StatusUnauthorized, protocol.Problem{Error: &protocol.ProblemBody{
			Code: protocol.CodeClock, Message: "the request expires at a time that is not within 60 s of the server's clock", ServerTime: &at,
		}}}
	}
	if err != nil {
		return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "bad_signature", message: err.Error()})
	}
	if e.d.State == store.Cloned {
		return "", &problem{status: http.StatusForbidden, code: protocol.CodeCloned, message: "two machines use this device's key: enrol each of them anew"}
	}
	e.mu.Lock()
	q.known = e
	return hash, nil
}

// failures limits guessing: who failed too often from one address is told to wait. A valid token is
// never kept waiting, so that nobody behind the same address is locked out.
type failures struct {
	mu      sync.Mutex
	seen    *expirable.LRU[netip.Addr, *rate.Limiter]
	trusted []netip.Prefix
}

// The rate at which an address may fail: a burst, then one every few seconds.
const (
	failBurst = 20
	failEvery = 3 * time.Second
)

func (f *failures) init(trusted []string) error {
	f.seen = expirable.NewLRU[netip.Addr, *rate.Limiter](10_000, nil, 10*time.Minute)
	for _, t := range trusted {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			a, aerr := netip.ParseAddr(t)
			if aerr != nil {
				return fmt.Errorf("trusted proxy %q is neither an address nor a CIDR", t)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		f.trusted = append(f.trusted, p)
	}
	return nil
}

// failed counts a failure, and gives 401 or, past the limit, 429.
func (f *failures) failed(q *http.Request, p *problem) error {
	addr := f.client(q)
	f.mu.Lock()
	l, ok := f.seen.Get(addr)
	if !ok {
		l = rate.NewLimiter(rate.Every(failEvery), failBurst)
		f.seen.Add(addr, l)
	}
	f.mu.Unlock()
	if l.Allow() {
		return p
	}
	return &problem{status: http.StatusTooManyRequests, code: "too_many_failures", message: "too many failed authentications from " + addr.String()}
}

// client is the address that a request comes from: the last one that a trusted proxy did not write
// itself.
func (f *failures) client(q *http.Request) netip.Addr {
	host, _, _ := net.SplitHostPort(q.RemoteAddr)
	addr, _ := netip.ParseAddr(host)
	addr = addr.Unmap()
	hops := strings.Split(strings.Join(q.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && f.trusts(addr); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = hop.Unmap()
	}
	return addr
}

func (f *failures) trusts(a netip.Addr) bool {
	for _, p := range f.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// later is a Retry-After that spreads those who are sent away.
func (a *API) later() string { return strconv.Itoa(5 + rand.IntN(20)) } //nolint:gosec // no secret
