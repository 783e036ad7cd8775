package text

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"strings"

	"github.com/ledongthuc/pdf"
)

// pdf takes the text out of a PDF. One that the library cannot read is taken apart without its tables.
func (x *extractor) pdf(s Source) {
	p := pdfText{x: x}
	err := guarded(func() error {
		r, err := pdf.NewReader(header{s}, s.Size())
		if err != nil {
			return err
		}
		p.pages(r.Trailer().Key("Root").Key("Pages"), 0)
		for _, key := range []string{"Info", "Root"} { // titles, forms, attachments
			if err := guarded(func() error { p.walk(r.Trailer().Key(key), 0); return nil }); err != nil {
				p.failed = err
			}
		}
		if p.count == 0 {
			return errors.New("it has no pages")
		}
		return p.failed
	})
	switch {
	case x.err != nil:
	case errors.Is(err, pdf.ErrInvalidPassword):
		x.unread(Encrypted)
	case err != nil:
		x.unread(Broken)
	}
	if x.err == nil && (err != nil || p.inline) { // what is left is looked for without the library
		x.loosePDF(s)
	}
}

// header makes every PDF one of a version that the library takes. What is in it is the same.
type header struct{ Source }

func (h header) ReadAt(b []byte, at int64) (int, error) {
	n, err := h.Source.ReadAt(b, at)
	const want = "%PDF-1.7\n"
	if at == 0 && n >= len(want) && bytes.HasPrefix(b, []byte("%PDF-")) {
		copy(b, want)
	}
	return n, err
}

// pdfText takes the text out of pages.
type pdfText struct {
	x      *extractor
	count  int  // pages
	nodes  int  // of the tree of pages, and of what else there is
	drawn  int  // forms
	inline bool // there are pictures inside the text of a page, which the library takes for text
	failed error
}

const (
	maxPages = 20_000
	maxNodes = 50_000
	maxForms = 5_000
	maxTree  = 40 // levels of the tree of pages, and of forms inside forms
)

// pages walks the tree of pages.
func (p *pdfText) pages(v pdf.Value, level int) {
	if p.nodes++; level > maxTree || p.count >= maxPages || p.nodes > maxNodes || p.x.err != nil {
		p.x.unread(TooMany)
		return
	}
	kids := v.Key("Kids")
	if kids.Kind() != pdf.Array {
		p.count++
		if err := guarded(func() error {
			resources := pdf.Page{V: v}.Resources()
			p.content(v.Key("Contents"), resources, p.fonts(resources.Key("Font")), 0)
			p.x.apart()
			p.walk(v.Key("Annots"), 0)
			return nil
		}); err != nil {
			p.failed = err
		}
		p.x.apart()
		return
	}
	for i := range min(kids.Len(), maxPages) {
		p.pages(kids.Index(i), level+1)
	}
}

// walk takes the texts out of what is beside the pages: titles, notes, fields of forms and what is in them, and files that are
// attached.
func (p *pdfText) walk(v pdf.Value, level int) {
	if p.nodes++; p.nodes > maxNodes || level > 16 || p.x.err != nil {
		return
	}
	switch v.Kind() {
	case pdf.String:
		if s := v.Text(); s != "" {
			_, _ = p.x.WriteString(s)
			p.x.apart()
		}
	case pdf.Array:
		for i := range v.Len() {
			p.walk(v.Index(i), level+1)
		}
	case pdf.Dict, pdf.Stream:
		for _, key := range v.Keys() {
			switch key {
			case "Parent", "P", "Pages", "Prev", "Last", "Popup", "Dest", "StructTreeRoot", "Resources", "Font", "Length", "Filter", "DecodeParms", "ID", "OutputIntents":
				continue
			case "AP": // how a note looks
				p.appearance(v.Key(key), 0)
				continue
			}
			p.walk(v.Key(key), level+1)
		}
		if v.Kind() == pdf.Stream && v.Key("Subtype").Name() != "Form" && v.Key("Subtype").Name() != "Image" {
			if err := guarded(func() error {
				r := v.Reader()
				defer r.Close()
				p.x.inner(r, "", 1)
				return nil
			}); err != nil {
				p.failed = err
			}
		}
	}
}

// appearance takes the text out of how a note looks.
func (p *pdfText) appearance(v pdf.Value, level int) {
	if p.nodes++; p.nodes > maxNodes || level > 3 {
		return
	}
	switch v.Kind() {
	case pdf.Stream:
		resources := v.Key("Resources")
		p.content(v, resources, p.fonts(resources.Key("Font")), 1)
		p.x.apart()
	case pdf.Dict:
		for _, key := range v.Keys() {
			p.appearance(v.Key(key), level+1)
		}
	}
}

// loosePDF looks at every stream by itself, and at the texts in it. It knows nothing of fonts: it finds what is written in letters of
// ASCII, as most of it is.
func (x *extractor) loosePDF(s Source) {
	whole, err := io.ReadAll(io.LimitReader(reader(s), x.limits.Whole))
	if err != nil {
		x.broken(err)
	}
	if int64(len(whole)) == x.limits.Whole {
		x.unread(TooLarge)
	}
	for x.err == nil {
		at := bytes.Index(whole, []byte("stream"))
		if at < 0 {
			break
		}
		x.literals(whole[:at])
		whole = bytes.TrimLeft(whole[at+len("stream"):], "\r\n")
		end := bytes.Index(whole, []byte("endstream"))
		if end < 0 {
			end = len(whole)
		}
		body := whole[:end]
		whole = whole[min(len(whole), end+len("endstream")):]
		if z, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
			body, _ = io.ReadAll(io.LimitReader(counted{x, z}, 8<<20)) // what came before the damage counts
		}
		x.literals(body)
		x.apart()
	}
	x.literals(whole)
}

// literals writes the texts in round brackets, which pieces of a line are in.
func (x *extractor) literals(b []byte) {
	var out []byte
	depth := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case depth == 0:
			if c == '(' {
				depth = 1
			} else if c == 'T' && i+1 < len(b) && strings.IndexByte("dDm*", b[i+1]) >= 0 {
				out = append(out, '\n')
			}
		case c == '\\' && i+1 < len(b):
			i++
			switch b[i] {
			case 'n', 'r':
				out = append(out, '\n')
			case 't':
				out = append(out, '\t')
			default:
				out = append(out, b[i])
			}
		case c == '(':
			depth++
			out = append(out, c)
		case c == ')':
			if depth--; depth > 0 {
				out = append(out, c)
			}
		default:
			out = append(out, c)
		}
		if len(out) >= piece {
			_, _ = x.Write(out)
			out = out[:0]
		}
	}
	_, _ = x.Write(out)
}
