package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// ErrNoAgent means that nobody answers on the socket.
var ErrNoAgent = errors.New("the agent does not answer")

// ErrUnreachable means that an agent may be running, but this user cannot ask it now.
var ErrUnreachable = errors.New("the agent cannot be reached")

// Client sends requests to a running agent.
type Client struct {
	http *http.Client
}

// NewClient makes a client for a socket.
func NewClient(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", socket)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
				return nil, fmt.Errorf("%w on %s", ErrNoAgent, socket)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
			return c, nil
		},
	}}}
}

// Do sends a request and decodes the answer into out, which may be nil.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	res, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	return decode(res, out)
}

// Upload sends a body that is read while it is sent, and decodes the answer into out.
func (c *Client) Upload(ctx context.Context, path string, header http.Header, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://warder"+path, body)
	if err != nil {
		return err
	}
	req.Header = header
	res, err := c.ask(ctx, req)
	if err != nil {
		return err
	}
	return decode(res, out)
}

func decode(res *http.Response, out any) (err error) {
	defer res.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// Stream calls f with each line until ctx ends or f fails.
func (c *Client) Stream(ctx context.Context, path string, f func(json.RawMessage) error) error {
	res, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := f(raw); err != nil {
			return err
		}
	}
}

// send makes the request, and tells an agent that is not there from one that cannot be asked.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://warder"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, req)
}

func (c *Client) ask(ctx context.Context, req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // the caller knows what was asked, and of whom
	}
	if err != nil && !errors.Is(err, ErrNoAgent) && !errors.Is(err, ErrUnreachable) && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		e := &Error{Status: res.StatusCode}
		if json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(e) != nil || e.Message == "" {
			e.Message = res.Status
		}
		return nil, e
	}
	return res, nil
}
