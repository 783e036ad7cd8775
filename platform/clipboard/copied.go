package clipboard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/textproto"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// What a helper asks the agent to look into is sent as multipart/form-data (RFC 7578): a part for each form, called formName, with its
// Content-Type as the desktop calls it, and before them one that has the name of the program.

const (
	formName    = "form"
	programName = "program"
	maxForms    = 64
)

// Encode is what is sent, and its content type.
func (c *Copied) Encode() (io.Reader, string) {
	var list []io.Reader
	var head bytes.Buffer
	w := multipart.NewWriter(&head)
	flush := func() {
		list = append(list, bytes.NewReader(bytes.Clone(head.Bytes())))
		head.Reset()
	}
	part := func(name, kind string) io.Writer {
		h := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + name + `"`}}
		if kind != "" {
			h["Content-Type"] = []string{kind}
		}
		to, _ := w.CreatePart(h) // into memory
		return to
	}
	_, _ = io.WriteString(part(programName, ""), c.Program)
	for _, f := range c.Forms[:min(len(c.Forms), maxForms)] {
		part(formName, strings.Map(line, f.Type))
		flush()
		list = append(list, bytes.NewReader(f.Data)) // not copied
	}
	_ = w.Close()
	flush()
	return io.MultiReader(list...), w.FormDataContentType()
}

// line keeps what may stand in a line of a header.
func line(r rune) rune {
	if r < ' ' || r > '~' {
		return '_'
	}
	return r
}

var errQuestion = fmt.Errorf("what was copied cannot be read: %w", platform.ErrQuestion)

// unreadable says why a question could not be read. One that came too slowly may be asked again.
func unreadable(err error) error {
	if slow := (net.Error)(nil); errors.As(err, &slow) && slow.Timeout() {
		return errSlow
	}
	return fmt.Errorf("%w: %s", errQuestion, word(err.Error(), maxType)) // the library repeats what it could not read
}

var errSlow = errors.New("what was copied has not come in time")

// decodeCopied reads what a helper sends, and hands each form on while it comes.
func decodeCopied(contentType string, body io.Reader, form func(kind string, data io.Reader) error) (program string, err error) {
	kind, param, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" || param["boundary"] == "" {
		return "", fmt.Errorf("%w: Content-Type must be multipart/form-data with a boundary (received %q)", errQuestion, enforce.Plain(word(contentType, maxType)))
	}
	r := multipart.NewReader(body, param["boundary"])
	for n, named := 0, false; ; {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return program, nil
		}
		if err != nil {
			return "", unreadable(err)
		}
		switch p.FormName() {
		case programName:
			if named {
				return "", fmt.Errorf("%w: it has more than one %q", errQuestion, programName)
			}
			named = true
			b, err := io.ReadAll(io.LimitReader(p, maxWord+1))
			if err != nil {
				return "", unreadable(err)
			}
			program = word(string(b), maxWord)
		case formName:
			if n++; n > maxForms {
				return "", fmt.Errorf("%w: it has more than %d forms", errQuestion, maxForms)
			}
			if err := form(word(p.Header.Get("Content-Type"), maxType), p); err != nil {
				return "", err
			}
		default:
			return "", fmt.Errorf("%w: a part must be %q or %q (received %q)", errQuestion, programName, formName, word(p.FormName(), maxWord))
		}
	}
}
