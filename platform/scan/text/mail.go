package text

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // what is not UTF-8 becomes it
)

// isMail tells an e-mail by its name, or by the header fields that it begins with.
func isMail(head []byte, name string) bool {
	named := false
	switch strings.ToLower(path.Ext(name)) {
	case ".eml", ".mbox", ".mht", ".mhtml":
		named = true
	}
	head = bytes.TrimLeft(head, "\xef\xbb\xbf \t\r\n\x00")
	if bytes.HasPrefix(head, []byte("From ")) { // a box of them
		if line := bytes.IndexByte(head, '\n'); line > 0 {
			head = head[line+1:]
		}
	}
	known := 0
	for line := range bytes.Lines(head) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		field, _, ok := bytes.Cut(line, []byte(":"))
		if !ok || bytes.ContainsAny(field, " \t") {
			return false
		}
		if slices.Contains([]string{"received", "return-path", "mime-version", "message-id", "from", "to", "subject", "date", "delivered-to", "x-mozilla-status"}, strings.ToLower(string(field))) {
			known++
		}
	}
	return known >= 3 || named && known > 0
}

// mail takes the text out of e-mails: their header fields, their texts and what is attached. More than one are a box.
func (x *extractor) mail(r io.Reader, depth int) {
	b := bufio.NewReaderSize(r, piece)
	for x.err == nil {
		if first, _ := b.Peek(5); string(first) == "From " { // the line between two: it is text, too
			for more := true; more; {
				line, err := b.ReadSlice('\n')
				_, _ = x.Write(line)
				more = errors.Is(err, bufio.ErrBufferFull)
			}
		}
		for { // what is no header field
			c, err := b.ReadByte()
			if err != nil {
				break
			}
			if bytes.IndexByte([]byte("\xef\xbb\xbf \t\r\n\x00"), c) < 0 {
				_ = b.UnreadByte()
				break
			}
		}
		one := &oneMail{b: b, start: true}
		x.broken(guarded(func() error { return x.message(one, depth, 0) }))
		x.copy(one) // what the reader of e-mails left of it
		if !one.more {
			return
		}
		x.apart()
	}
}

// oneMail is one of a box: it ends before a line that begins with "From ", behind an empty one.
type oneMail struct {
	b           *bufio.Reader
	start, more bool // at the beginning of a line; another one follows
	empty       bool // the last line was
	left        []byte
	err         error
}

func (o *oneMail) Read(p []byte) (int, error) {
	for len(o.left) == 0 {
		if o.err != nil {
			return 0, o.err
		}
		if o.start && o.empty {
			if next, _ := o.b.Peek(5); string(next) == "From " {
				o.more, o.err = true, io.EOF
				continue
			}
		}
		line, err := o.b.ReadSlice('\n')
		o.empty = o.start && len(bytes.TrimRight(line, "\r\n")) == 0
		o.start = len(line) > 0 && line[len(line)-1] == '\n'
		o.left = append(o.left[:0], line...)
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // as it is
			o.err = err
		}
	}
	n := copy(p, o.left)
	o.left = o.left[n:]
	return n, nil
}

// message takes the text out of one.
func (x *extractor) message(r io.Reader, depth, level int) error {
	e, err := message.Read(r)
	if e == nil {
		return err
	}
	if message.IsUnknownEncoding(err) {
		x.unread(Foreign)
	}
	return x.entity(e, depth, level)
}

const maxParts = 20 // parts inside parts of an e-mail

func (x *extractor) entity(e *message.Entity, depth, level int) error {
	for fields := e.Header.Fields(); fields.Next(); {
		s, err := fields.Text()
		if err != nil {
			s = fields.Value()
		}
		if _, err := x.Write([]byte(fields.Key() + ": " + s + "\n")); err != nil {
			return nil //nolint:nilerr // it is kept
		}
	}
	x.apart()
	if level > maxParts {
		x.unread(TooDeep)
		return nil
	}
	if parts := e.MultipartReader(); parts != nil {
		for x.err == nil {
			part, err := parts.NextPart()
			if part == nil {
				if err == io.EOF { //nolint:errorlint // as it is
					err = nil
				}
				return err
			}
			if x.members++; x.members > x.limits.Members {
				x.unread(TooMany)
				x.err = errEnough
				return nil
			}
			if message.IsUnknownEncoding(err) {
				x.unread(Foreign)
			}
			if err := x.entity(part, depth, level+1); err != nil {
				return err
			}
		}
		return nil
	}
	kind, params, _ := e.Header.ContentType()
	_, with, _ := e.Header.ContentDisposition()
	name := with["filename"]
	if name == "" {
		name = params["name"]
	}
	switch {
	case kind == "message/rfc822":
		return x.message(e.Body, depth, level+1)
	case strings.HasSuffix(kind, "pkcs7-mime"), kind == "application/ms-tnef", kind == "application/pgp-encrypted":
		x.unread(Encrypted)
		x.inner(e.Body, name, depth+1)
	case kind == "text/html":
		x.broken(guarded(func() error { return x.html(counted{x, e.Body}) }))
	case strings.HasPrefix(kind, "text/") && name == "":
		x.copy(counted{x, e.Body})
	default:
		x.inner(e.Body, name, depth+1)
	}
	x.apart()
	return nil
}
