package api

import (
	"context"
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

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// admit checks the caller, before the body is read. For a device it returns the hash that the body must have.
func (a *API) admit(q *request) (hash string, err error) {
	if q.route.access == anyone {
		return "", nil
	}
	scheme, bearer, ok := strings.Cut(q.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || len(bearer) > 8<<10 {
		return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "unauthorized",
			message: "an Authorization: Bearer token is needed"})
	}
	q.bearer = strings.TrimSpace(bearer)
	switch q.route.access {
	case viewer, admin:
		by, role, _, err := a.Keys.Admin(q.bearer, q.route.facade, q.now)
		if err != nil {
			return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "unauthorized", message: err.Error()})
		}
		if q.route.access == admin && role != "admin" {
			return "", &problem{status: http.StatusForbidden, code: "forbidden",
				message: "this needs the role admin; the token has " + role}
		}
		q.by, q.role = by, role
	case device:
		return a.admitDevice(q)
	case token:
		return "", a.admitToken(q)
	}
	return "", nil
}

// admitToken rate-limits unknown enrollment tokens before the database look-up. A token that this node knows is never
// delayed.
func (a *API) admitToken(q *request) error {
	if strings.Count(q.bearer, ".") == 2 {
		return invalid(policy.Errors{{Field: "Authorization",
			Message: "must be an enrollment token (wte_…), and this is an administrator's or a device's", Received: "a signed token"}})
	}
	if a.tickets.has(q.bearer) || !a.limit.exhausted(q.Request) || a.limit.spare.Allow() {
		return nil
	}
	if a.tickets.again(q.Context(), a) && a.tickets.has(q.bearer) { // another process made it a moment ago
		return nil
	}
	return a.limit.failed(q.Request, &problem{status: http.StatusForbidden, code: "bad_enrollment", message: store.ErrUsed.Error()})
}

// admitDevice verifies a device's token; it returns the hash that the body must have.
func (a *API) admitDevice(q *request) (string, error) {
	id := q.PathValue("id")
	unknown := &problem{status: http.StatusUnauthorized, code: "unknown_device", message: "this device is not enrolled here"}
	if len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		return "", a.limit.failed(q.Request, unknown)
	}
	if _, known := a.people.Number(id); !known && !a.book.knows(id) && a.limit.exhausted(q.Request) && !a.limit.spare.Allow() {
		return "", a.limit.failed(q.Request, unknown) // rate-limit unknown tokens before the database look-up
	}
	e, err := a.book.find(q.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return "", a.limit.failed(q.Request, unknown)
	}
	if err != nil {
		return "", err
	}
	hash, err := protocol.VerifyRequest(q.bearer, e.key, e.id, q.Method, q.URL.Path, q.now)
	if errors.Is(err, protocol.ErrClock) {
		at := q.now.UTC()
		return "", &detailed{http.StatusUnauthorized, protocol.Problem{Error: &protocol.ProblemBody{
			Code: protocol.CodeClock, Message: "the request expires at a time that is not within 60 s of the server's clock",
			ServerTime: &at,
		}}}
	}
	if err != nil {
		return "", a.limit.failed(q.Request, &problem{status: http.StatusUnauthorized, code: "bad_signature", message: err.Error()})
	}
	q.sender = e
	return hash, nil
}

// take locks the device that signed for the rest of the request.
func (a *API) take(q *request) error {
	e := q.sender
	if err := e.take(q.Context()); err != nil {
		return err
	}
	q.known = e
	if time.Since(e.loaded) > entryLife {
		if err := a.book.load(q.Context(), e); err != nil {
			return err
		}
	}
	if e.d.State == store.Cloned {
		return &problem{status: http.StatusForbidden, code: protocol.CodeCloned,
			message: "two machines use this device's key: enroll each of them again"}
	}
	return nil
}

// failures limits guessing: an address that failed too often has to wait. A valid request is never delayed, so that
// nobody behind the same address is locked out: administrators' tokens and devices' signatures are always verified, and
// this node knows the existing devices and enrollment tokens. Only unknown ids cost a database look-up. An address with
// failures gets few of these, and all of them together share spare: enough for what another node has just created, or
// for a node that has just started.
type failures struct {
	spare   *rate.Limiter
	mu      sync.Mutex
	seen    *expirable.LRU[netip.Addr, *rate.Limiter]
	trusted []netip.Prefix
}

// The rate at which an address may fail: a burst, then one every few seconds.
const (
	failBurst = 20
	failEvery = 3 * time.Second

	spareRate  = 100 // per second
	spareBurst = 200
)

// init parses the trusted proxies' addresses.
func (f *failures) init(trusted []string) error {
	f.spare = rate.NewLimiter(spareRate, spareBurst)
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

// limiter is the one for a request's address; for IPv6, for its /64.
func (f *failures) limiter(q *http.Request) (*rate.Limiter, netip.Addr) {
	addr := f.client(q)
	key := addr
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			key = p.Addr()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.seen.Get(key)
	if !ok {
		l = rate.NewLimiter(rate.Every(failEvery), failBurst)
		f.seen.Add(key, l)
	}
	return l, addr
}

// exhausted reports whether an address has failed too often for another look-up.
func (f *failures) exhausted(q *http.Request) bool {
	l, _ := f.limiter(q)
	return l.Tokens() < 1
}

// failed counts a failure and returns 401 or, past the limit, 429.
func (f *failures) failed(q *http.Request, p *problem) error {
	l, addr := f.limiter(q)
	if l.Allow() {
		return p
	}
	return &problem{status: http.StatusTooManyRequests, code: "too_many_failures",
		message: "too many failed authentications from " + addr.String()}
}

// client is the address that a request comes from: the last one that a trusted proxy did not write itself.
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

// trusts reports whether an address is a trusted proxy's.
func (f *failures) trusts(a netip.Addr) bool {
	for _, p := range f.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// later is a Retry-After that spreads the refused callers.
func (a *API) later() string { return strconv.Itoa(5 + rand.IntN(20)) } //nolint:gosec // no secret

// tickets are the usable enrollment tokens, as this node knows them.
type tickets struct {
	mu     sync.Mutex
	hashes map[string]bool
	asked  time.Time // when they were last read for an unknown one
}

// again reads them again, at most once a second, and reports whether it did.
func (t *tickets) again(ctx context.Context, a *API) bool {
	t.mu.Lock()
	due := time.Since(t.asked) > time.Second
	if due {
		t.asked = time.Now()
	}
	t.mu.Unlock()
	return due && t.read(context.WithoutCancel(ctx), a) == nil
}

// has reports whether a token is known to be usable.
func (t *tickets) has(token string) bool {
	h := store.Hash(token)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hashes[h]
}

// read reads them from the database.
func (t *tickets) read(ctx context.Context, a *API) error {
	list, err := a.Store.Usable(ctx, a.Now())
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hashes = list
	return nil
}
