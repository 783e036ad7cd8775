// Package text takes the text out of documents: of plain files in any of the usual encodings, of office documents, PDFs, archives and
// e-mails, and of whatever else it is the strings. It reads what others wrote, perhaps against it: everything has a bound, and it runs
// in the program warder-scan alone, which may end at any time.
package text

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/warderd/warder/enforce/fact"
)

// Limits bound what is taken out of one document.
type Limits struct {
	Text    int64 // bytes of text, all together
	Packed  int64 // bytes that come out of archives and streams, all together
	Whole   int64 // bytes of a document inside another that must be kept in memory to be read
	Depth   int   // archives inside archives
	Members int   // files in archives, all together
}

// Usual are the limits of warder-scan.
var Usual = Limits{Text: 512 << 20, Packed: 512 << 20, Whole: 32 << 20, Depth: 3, Members: 20_000}

// Report says what a document was, and what of it was not read.
type Report struct {
	Kind   string   // of the document itself, such as "docx"
	Unread []string // why parts of it were not read, each once; in plain words, without anything that is in the document
}

// Reasons for not reading something.
const (
	Encrypted  = fact.UnreadEncrypted
	TooDeep    = fact.UnreadTooDeep
	TooLarge   = fact.UnreadTooLarge
	TooMany    = fact.UnreadTooMany
	Broken     = fact.UnreadBroken
	Foreign    = fact.UnreadForeign
	Unlettered = fact.UnreadUnlettered
)

// Source is a document.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Extract writes the text of a document. The name, which may be empty, helps to tell what it is. An error is the writer's: what a
// document does not want to be read is in the report.
func Extract(s Source, name string, w io.Writer, l Limits) (Report, error) {
	x := &extractor{limits: l, out: w}
	x.document(s, name, 0)
	if errors.Is(x.err, errEnough) { // what was found until then counts
		x.err = nil
	}
	return x.report, x.err
}

// AsIs writes what can be read as text in a document, whatever it is.
func AsIs(s Source, w io.Writer, l Limits) (Report, error) {
	x := &extractor{limits: l, out: w}
	x.strings(reader(s))
	if errors.Is(x.err, errEnough) {
		x.err = nil
	}
	return x.report, x.err
}

// extractor is the work on one document.
type extractor struct {
	buf     []byte // for reading, used again and again
	half    []byte // a character that has not come whole
	plainly []byte // text as it is looked at, used again and again
	side    []byte // what is beside the text of a paragraph: it comes after it
	limits  Limits
	report  Report
	out     io.Writer
	text    int64 // written so far
	packed  int64
	members int
	err     error // of the writer, or errEnough
}

var errEnough = errors.New("enough")

// unread notes why something is not read.
func (x *extractor) unread(why string) {
	if !slices.Contains(x.report.Unread, why) {
		x.report.Unread = append(x.report.Unread, why)
	}
}

// kind notes what the document itself is.
func (x *extractor) kind(depth int, k string) {
	if depth == 0 && x.report.Kind == "" {
		x.report.Kind = k
	}
}

// Write takes text. Characters that look like those of a keyboard become these: spaces, dashes and digits of all kinds; those that
// cannot be seen go. Programs for texts write them by themselves.
func (x *extractor) Write(b []byte) (int, error) {
	n := len(b)
	if len(x.half) > 0 || !ascii(b) {
		b = x.simple(b)
	}
	if err := x.put(b); err != nil {
		return 0, err
	}
	return n, nil
}

// put hands text on.
func (x *extractor) put(b []byte) error {
	if x.err != nil {
		return x.err
	}
	if x.text += int64(len(b)); x.text > x.limits.Text {
		x.unread(TooLarge)
		x.err = errEnough
		return x.err
	}
	_, x.err = x.out.Write(b)
	return x.err
}

func ascii(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// simple makes the characters of a text simple. One that has not come whole waits for the rest.
func (x *extractor) simple(b []byte) []byte {
	if len(x.half) > 0 {
		b = append(slices.Clone(x.half), b...)
		x.half = x.half[:0]
	}
	out := x.plainly[:0]
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r < utf8.RuneSelf:
			out = append(out, b[0])
		case r == utf8.RuneError && n == 1 && !utf8.FullRune(b):
			x.half = append(x.half, b...)
			n = len(b)
		case r == utf8.RuneError && n == 1:
			out = append(out, b[0])
		case unicode.Is(unicode.Zs, r):
			out = append(out, ' ')
		case unicode.Is(unicode.Pd, r), r == 0x2212: // a minus
			out = append(out, '-')
		case unicode.Is(unicode.Cf, r): // without a width
		case unicode.Is(unicode.Nd, r):
			out = append(out, digit(r))
		default:
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	x.plainly = out
	return out
}

// digit is what a decimal digit of any script stands for: Unicode has them in tens, from zero on.
func digit(r rune) byte {
	for d := byte(0); d < 9; d++ {
		if !unicode.Is(unicode.Nd, r-1-rune(d)) {
			return '0' + d
		}
	}
	if r >= 0x1d7ce && r <= 0x1d7ff { // the mathematical ones follow each other
		return byte('0' + (r-0x1d7ce)%10)
	}
	for _, t := range unicode.Nd.R16 {
		if rune(t.Lo) <= r && r <= rune(t.Hi) {
			return byte('0' + (r-rune(t.Lo))%10)
		}
	}
	for _, t := range unicode.Nd.R32 {
		if rune(t.Lo) <= r && r <= rune(t.Hi) {
			return byte('0' + (r-rune(t.Lo))%10)
		}
	}
	return '0'
}

// WriteString takes text.
func (x *extractor) WriteString(s string) (int, error) { return x.Write([]byte(s)) }

// apart ends a part of a document: what comes after it is not the same text.
func (x *extractor) apart() {
	x.half = x.half[:0]
	_ = x.put([]byte("\n"))
	x.besides()
}

// beside takes text that is not of the line in which it comes: an attribute, a field's instruction.
func (x *extractor) beside(b []byte) {
	x.along(b)
	x.along([]byte{'\n'})
}

// along takes a piece of it. There is a bound to how much waits.
func (x *extractor) along(b []byte) {
	if x.side = append(x.side, b...); len(x.side) > piece {
		x.apart()
	}
}

// besides writes it.
func (x *extractor) besides() {
	if len(x.side) > 0 {
		s := x.side
		x.side = nil
		_, _ = x.Write(s)
		x.side = s[:0]
	}
}

// counted is a stream that was packed: it counts against the limit, and ends there.
type counted struct {
	x *extractor
	r io.Reader
}

func (c counted) Read(b []byte) (int, error) {
	if c.x.err != nil {
		return 0, c.x.err
	}
	n, err := c.r.Read(b)
	if c.x.packed += int64(n); c.x.packed > c.x.limits.Packed {
		c.x.unread(TooLarge)
		c.x.err = errEnough
		return 0, c.x.err
	}
	return n, err
}

// document takes the text out of one that can be read at any place.
func (x *extractor) document(s Source, name string, depth int) {
	defer x.apart()
	head := make([]byte, 4096)
	n, _ := s.ReadAt(head, 0)
	head = head[:n]
	whole := func() io.Reader { return reader(s) }
	switch {
	case isZip(head), zipEnd(s):
		if !x.zip(s, depth) {
			x.kind(depth, "binary")
			x.strings(whole())
		} else if !isZip(head) { // there is something before it
			x.apart()
			x.single(s, head, name, depth)
		}
	default:
		x.single(s, head, name, depth)
	}
}

// single takes the text out of what is no archive of files.
func (x *extractor) single(s Source, head []byte, name string, depth int) {
	if isPDF(head) {
		x.kind(depth, "pdf")
		x.pdf(s)
		return
	}
	x.stream(reader(s), head, name, depth)
}

// inner takes the text out of something inside a document: a file in an archive, an attachment.
func (x *extractor) inner(r io.Reader, name string, depth int) {
	if x.err != nil {
		return
	}
	if x.members++; x.members > x.limits.Members {
		x.unread(TooMany)
		x.err = errEnough
		return
	}
	_, _ = x.WriteString(name) // it is seen before what is inside
	x.apart()
	b := bufio.NewReaderSize(counted{x, r}, 8<<10)
	head, err := b.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) {
		x.broken(err)
	}
	if isZip(head) || isPDF(head) {
		if depth > x.limits.Depth {
			x.unread(TooDeep)
			return
		}
		whole, err := io.ReadAll(io.LimitReader(b, x.limits.Whole+1))
		switch {
		case err != nil:
			x.broken(err)
			x.strings(bytes.NewReader(whole))
		case int64(len(whole)) > x.limits.Whole:
			x.unread(TooLarge)
			x.strings(io.MultiReader(bytes.NewReader(whole), b))
		default:
			x.document(bytes.NewReader(whole), name, depth)
		}
		return
	}
	x.stream(b, head, name, depth)
	x.apart()
}

// broken notes that something could not be read to its end.
func (x *extractor) broken(err error) {
	if err != nil && x.err == nil && !errors.Is(err, errEnough) {
		x.unread(Broken)
	}
}

// stream takes the text out of what can be read once, of which the beginning is known.
func (x *extractor) stream(r io.Reader, head []byte, name string, depth int) {
	deeper := func(kind string, open func() (io.Reader, error)) {
		x.kind(depth, kind)
		if depth >= x.limits.Depth {
			x.unread(TooDeep)
			return
		}
		in, err := open()
		if err != nil {
			x.unread(Broken)
			return
		}
		x.inner(in, strings.TrimSuffix(name, "."+kind), depth+1)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		deeper("gz", func() (io.Reader, error) { return gzip.NewReader(r) })
	case bytes.HasPrefix(head, []byte("BZh")) && len(head) > 3 && head[3] >= '1' && head[3] <= '9':
		deeper("bz2", func() (io.Reader, error) { return bzip2.NewReader(r), nil })
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		deeper("zst", func() (io.Reader, error) {
			z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(32<<20), zstd.WithDecoderMaxWindow(32<<20))
			if err != nil {
				return nil, err
			}
			return z.IOReadCloser(), nil
		})
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		deeper("xz", func() (io.Reader, error) { return xz.NewReader(r) })
	case len(head) > 262 && string(head[257:262]) == "ustar":
		x.kind(depth, "tar")
		x.tar(r, depth)
	case isMail(head, name):
		x.kind(depth, "mail")
		x.mail(r, depth)
	case bytes.HasPrefix(head, []byte("{\\rtf")):
		x.kind(depth, "rtf")
		x.broken(guarded(func() error { return x.rtf(r) }))
	case isHTML(head, name) && !isBinary(head):
		x.kind(depth, "html")
		x.broken(guarded(func() error { return x.html(decoded(r, head)) }))
	case isFlat(head):
		x.kind(depth, "office")
		x.broken(guarded(func() error { return x.markup(decoded(r, head), lines) }))
	case isXML(head):
		x.kind(depth, "xml")
		x.broken(guarded(func() error { return x.markup(decoded(r, head), elements) }))
	default:
		x.plain(r, head, depth)
	}
}

// guarded runs something that may not be up to what it reads.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it broke the reader: %T", p) // not the value: it may have text of the document in it
		}
	}()
	return f()
}
