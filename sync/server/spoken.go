package server

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/warderd/warder/sync/protocol"
)

// spoken is a listener on whose connections every error has the API's shape. Invalid HTTP (a path such as "/%", headers
// that are too long) is answered by net/http itself, in plain text and without any handler; those answers are rewritten
// here.
type spoken struct{ net.Listener }

// Accept wraps the next connection.
func (s spoken) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &speaker{c}, nil
}

type speaker struct{ net.Conn }

// NetConn is the connection below.
func (s *speaker) NetConn() net.Conn {
	if t, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return s.Conn
}

// plainError is how net/http's own error begins after its status. It is written with one call (badRequestError in
// net/http/server.go). No handler of ours writes text.
const plainError = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"

// Read also answers clients that speak HTTP without TLS.
func (s *speaker) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && httpBegins(record.RecordHeader) {
		_, _ = record.Conn.Write(shaped("HTTP/1.0 400 Bad Request", "tls_needed", "this server speaks https:// alone"))
		_ = record.Conn.Close()
	}
	return n, err
}

// httpBegins reports whether the first bytes are those of a request.
func httpBegins(b [5]byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO", "CONNE", "TRACE", "PROPF", "PRI *"} {
		if string(b[:]) == method {
			return true
		}
	}
	return false
}

// maxPlain is longer than any of these errors.
const maxPlain = 512

// CloseWrite ends sending, but not receiving.
func (s *speaker) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Write rewrites net/http's own plain-text errors.
func (s *speaker) Write(b []byte) (int, error) {
	if len(b) > maxPlain {
		return s.Conn.Write(b)
	}
	if status, rest, is := bytes.Cut(b, []byte(plainError)); is && bytes.HasPrefix(status, []byte("HTTP/1.1 ")) &&
		bytes.IndexByte(status, '\n') < 0 {
		if _, err := s.Conn.Write(inShape(string(status), string(rest))); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	// The only other answer without a handler: an Expect that is not 100-continue.
	if status, _, is := bytes.Cut(b, []byte("\r\n")); is && bytes.HasPrefix(status, []byte("HTTP/1.1 417 ")) {
		if _, err := s.Conn.Write(shaped(string(status), "expectation_failed",
			"this server knows Expect: 100-continue alone")); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	return s.Conn.Write(b)
}

// inShape is one of these errors in the API's shape.
func inShape(status, text string) []byte {
	code, message := "bad_request", "the request cannot be read as HTTP"
	if _, more, is := strings.Cut(text, ": "); is {
		message += ": " + more[:min(len(more), 200)]
	}
	if strings.Contains(status, " 431 ") {
		code, message = "headers_too_large", "the headers are larger than this server takes"
	}
	return shaped(status, code, message)
}

// shaped is a whole HTTP answer with an error.
func shaped(status, code, message string) []byte {
	body, _ := json.Marshal(protocol.Problem{Error: &protocol.ProblemBody{Code: code, Message: message}})
	return fmt.Appendf(nil,
		"%s\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: "+
			"%d\r\nConnection: close\r\n\r\n%s", status, len(body), body)
}
