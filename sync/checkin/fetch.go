package checkin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// Part is the beginning of a packed list that is here already.
type Part struct {
	ETag string // of the packed list that it is a part of; "" for none
	Size int64
}

// fetchRest is how long a transfer may be silent, and fetchLimit how long it may take: what is here by then is kept.
const (
	fetchRest  = 30 * time.Second
	fetchLimit = 10 * time.Minute
	// maxPacked bounds a packed list: a text that cannot be compressed is a little longer.
	maxPacked = policy.MaxListBytes + 1<<20
)

var etag = regexp.MustCompile(`^"[0-9a-f]{64}"$`)

// FetchList fetches the packed version of a list, from where a part of it ends if the server still has the same. put is called
// with what the bytes that follow belong to, and where they begin; again if the request has to be repeated. What arrives has not been verified.
func (c *Client) FetchList(ctx context.Context, sha256 string, have Part, put func(Part) (io.Writer, error)) error {
	for try := 0; ; try++ {
		err := c.fetchList(ctx, sha256, have, put)
		if err == nil || try == maxTries-1 {
			return err
		}
		if err = c.mend(ctx, err); err != nil {
			return err
		}
	}
}

func (c *Client) fetchList(ctx context.Context, sha256 string, have Part, put func(Part) (io.Writer, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, fmt.Errorf("it took longer than %v; the rest follows later", fetchLimit))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silent := time.AfterFunc(fetchRest, func() { stop(fmt.Errorf("nothing came for %v", fetchRest)) })
	defer silent.Stop()
	path := protocol.ListPath(c.Device, sha256)
	token, err := c.Sign(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Server.URL, "/")+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header["User-Agent"] = nil
	req.Header.Set("Accept-Encoding", "identity")
	if have.Size > 0 && etag.MatchString(have.ETag) {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have.Size))
		req.Header.Set("If-Range", have.ETag)
	}
	h := *c.http
	h.Timeout = 0 // a long list takes longer than a report; silence ends it
	res, err := h.Do(req)
	if err != nil {
		return fmt.Errorf("cannot reach the server: %w", why(ctx, err))
	}
	defer res.Body.Close()
	from := Part{}
	switch res.StatusCode {
	case http.StatusOK:
		if tag := res.Header.Get("ETag"); etag.MatchString(tag) {
			from.ETag = tag
		}
	case http.StatusPartialContent:
		var first, last, size int64
		if n, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil || n != 3 ||
			first != have.Size || req.Header.Get("Range") == "" {
			return fmt.Errorf("%w: a part that was not asked for", ErrGarbage)
		}
		from = have
	case http.StatusRequestedRangeNotSatisfiable:
		if req.Header.Get("Range") == "" {
			return fmt.Errorf("%w: %d", ErrGarbage, res.StatusCode)
		}
		_, err := put(have) // it was here to the end
		return err
	default:
		raw, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		return statusError(res, raw)
	}
	to, err := put(from)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, &patient{io.LimitReader(res.Body, maxPacked-from.Size+1), silent})
	if err != nil {
		return fmt.Errorf("the list stopped after %d bytes: %w", from.Size+n, why(ctx, err))
	}
	if from.Size+n > maxPacked {
		return fmt.Errorf("%w: a list of more than %d bytes", ErrGarbage, int64(maxPacked))
	}
	return nil
}

// Reached reports whether the server itself answers on a connection that is dialed so: a certificate of the authority that is trusted,
// and no other answer than its own. A portal that answers for every name does not pass for it.
func (c *Client) Reached(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit/3)
	defer cancel()
	h, err := c.Server.HTTP()
	if err != nil {
		return err
	}
	defer h.CloseIdleConnections()
	h.Transport.(*http.Transport).DialContext = dial
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Server.URL, "/")+"/healthz", nil)
	if err != nil {
		return err
	}
	res, err := h.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %d", res.StatusCode)
	}
	return nil
}

// why is the reason for which a transfer was ended, if we ended it.
func why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// patient starts the silence timer anew with everything that arrives.
type patient struct {
	io.Reader
	silent *time.Timer
}

// Read reads on.
func (p *patient) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		p.silent.Reset(fetchRest)
	}
	return n, err
}
