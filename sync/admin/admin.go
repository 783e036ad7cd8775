// Package admin is the administrator's side of the wire: a client of the server's API for the command line
// (cmd/warder-server). It only decodes what commands print, so it also works with a newer server. The API itself is
// described by the server's own /openapi.json.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/warderd/warder/sync/checkin"
)

// Server is an address of the API, with credentials.
type Server struct {
	URL   string // "https://policy.example.com:8443"
	CA    string // PEM of the one authority to trust; "" for the system's
	Token string // bearer token
}

// Client calls the API.
type Client struct {
	base, token string
	http        *http.Client
}

// New makes a client. As everywhere, plain HTTP is only accepted for loopback.
func New(s Server) (*Client, error) {
	s.URL = strings.TrimSuffix(checkin.Canonical(s.URL), "/")
	if _, err := checkin.CheckURL(s.URL); err != nil {
		return nil, err
	}
	h, err := checkin.Server{URL: s.URL, CA: s.CA}.HTTP()
	if err != nil {
		return nil, err
	}
	return &Client{base: s.URL + "/api/v1", token: s.Token, http: h}, nil
}

// Error is an answer that is not 2xx, in the API's own form.
type Error struct {
	Status  int
	Code    string
	Message string
	Field   string
	// Errors lists every error by field, if there are several.
	Errors []FieldError
}

// FieldError says what is wrong with one field of a body.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Error is the server's message, with the fields that it names.
func (e *Error) Error() string {
	if len(e.Errors) > 0 {
		var list []string
		for _, f := range e.Errors {
			list = append(list, strings.TrimSpace(f.Field+" "+f.Message))
		}
		return strings.Join(list, "; ")
	}
	if e.Field != "" && !strings.Contains(e.Message, e.Field) {
		return e.Field + " " + e.Message
	}
	return e.Message
}

// Foreign reports that the text is the server's (cli.Foreign).
func (e *Error) Foreign() {}

// maxAnswer bounds one answer; even the longest list comes in pages below it.
const maxAnswer = 16 << 20

// Do calls one operation. path begins below /api/v1. in is nil, or is sent as JSON (json.RawMessage unchanged). out is
// nil, or receives the decoded answer. It returns the answer's ETag.
func (c *Client) Do(ctx context.Context, method, path string, header http.Header, in, out any) (etag string, err error) {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return "", err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return "", err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	if err != nil {
		return "", fmt.Errorf("cannot reach %s: %w", strings.TrimSuffix(c.base, "/api/v1"), err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxAnswer {
		return "", fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if res.StatusCode/100 != 2 {
		return "", failed(res.StatusCode, b)
	}
	if out == nil || len(b) == 0 {
		return res.Header.Get("ETag"), nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return "", fmt.Errorf("the answer is not the API's: %w", err)
	}
	return res.Header.Get("ETag"), nil
}

// Upload sends text of any length to one operation, and decodes the answer.
func (c *Client) Upload(ctx context.Context, method, path string, in io.Reader, out any) error {
	res, err := c.long(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxAnswer:
		return fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	case res.StatusCode/100 != 2:
		return failed(res.StatusCode, b)
	}
	return json.Unmarshal(b, out)
}

// Download writes the answer of one operation as it comes.
func (c *Client) Download(ctx context.Context, path string, to io.Writer) error {
	res, err := c.long(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		return failed(res.StatusCode, b)
	}
	_, err = io.Copy(to, res.Body)
	return err
}

// long makes a request that may take as long as it takes.
func (c *Client) long(ctx context.Context, method, path string, in io.Reader) (*http.Response, error) {
	if in != nil {
		in = io.NopCloser(in) // a file is closed by its owner
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if in != nil {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	h := *c.http
	h.Timeout = 0
	res, err := h.Do(req)
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", strings.TrimSuffix(c.base, "/api/v1"), err)
	}
	return res, nil
}

// maxEntries bounds what is read of one list: no fleet has so many devices.
const maxEntries = 10_000_000

// failed decodes an answer that is not 2xx.
func failed(status int, b []byte) error {
	var in struct {
		Error struct {
			Code    string       `json:"code"`
			Message string       `json:"message"`
			Field   string       `json:"field"`
			Errors  []FieldError `json:"errors"`
		} `json:"error"`
		Errors []FieldError `json:"errors"` // beside it, or alone in the answer of /policies/validate
	}
	e := &Error{Status: status}
	if json.Unmarshal(b, &in) == nil && len(in.Errors) > 0 {
		e.Code, e.Message, e.Errors = in.Error.Code, in.Error.Message, in.Errors
		if e.Code == "" {
			e.Code = "invalid"
		}
		return e
	}
	if json.Unmarshal(b, &in) != nil || in.Error.Message == "" {
		e.Code, e.Message = "not_the_api", fmt.Sprintf("the server answered %d, and not as the API does", status)
		return e
	}
	e.Code, e.Message, e.Field, e.Errors = in.Error.Code, in.Error.Message, in.Error.Field, in.Error.Errors
	return e
}

// List calls each with every entry of a list, page after page, at most the given number; 0 means all. It returns the
// total, if the server says it.
func (c *Client) List(ctx context.Context, path string, query url.Values, most int, each func(json.RawMessage) error) (total int,
	err error) {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	if q.Get("page_size") == "" {
		q.Set("page_size", "100")
	}
	for n := 0; ; {
		var page struct {
			Data  []json.RawMessage `json:"data"`
			Total int               `json:"total"`
			Next  string            `json:"next"`
		}
		if _, err := c.Do(ctx, http.MethodGet, path+"?"+q.Encode(), nil, nil, &page); err != nil {
			return 0, err
		}
		for _, raw := range page.Data {
			if most > 0 && n == most {
				return page.Total, nil
			}
			n++
			if err := each(raw); err != nil {
				return 0, err
			}
		}
		if page.Next == "" || len(page.Data) == 0 {
			return max(page.Total, n), nil
		}
		if page.Next == q.Get("cursor") || n > maxEntries {
			return 0, fmt.Errorf("the list has no end (after %d entries)", n)
		}
		q.Set("cursor", page.Next)
	}
}
