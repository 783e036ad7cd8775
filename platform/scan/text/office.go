package text

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zip"
	"golang.org/x/net/html"
)

// zip takes the text out of an archive, or of an office document, which is one. It reports whether it is one at all.
func (x *extractor) zip(s Source, depth int) bool {
	var z *zip.Reader
	if err := guarded(func() (err error) {
		z, err = zip.NewReader(s, s.Size())
		return err
	}); err != nil {
		x.unread(Broken)
		return false
	}
	kind := office(z)
	x.kind(depth, kind)
	if kind == "zip" && depth >= x.limits.Depth {
		x.unread(TooDeep)
		return true
	}
	for _, f := range z.File {
		if x.err != nil {
			break
		}
		switch {
		case f.Flags&1 != 0:
			x.unread(Encrypted)
			continue
		case strings.HasSuffix(f.Name, "/") && f.UncompressedSize64 == 0:
			continue
		}
		err := guarded(func() error {
			r, err := f.Open()
			if err != nil {
				return err
			}
			defer r.Close()
			if kind != "zip" && isMarkup(f.Name) {
				x.members++
				err = x.markup(counted{x, r}, styleOf(f.Name))
				x.apart()
				return err
			}
			x.inner(r, f.Name, depth+1)
			return nil
		})
		switch {
		case errors.Is(err, zip.ErrAlgorithm):
			x.unread(Foreign)
		case err != nil:
			x.broken(err)
		}
		if x.members > x.limits.Members {
			x.unread(TooMany)
			x.err = errEnough
		}
	}
	return true
}

// office tells office documents by the names in them.
func office(z *zip.Reader) string {
	for _, f := range z.File {
		switch {
		case strings.HasPrefix(f.Name, "word/") && isMarkup(f.Name):
			return "docx"
		case strings.HasPrefix(f.Name, "xl/") && isMarkup(f.Name):
			return "xlsx"
		case strings.HasPrefix(f.Name, "ppt/") && isMarkup(f.Name):
			return "pptx"
		case f.Name == "mimetype" && f.UncompressedSize64 < 200:
			r, err := f.Open()
			if err != nil {
				continue
			}
			b, _ := io.ReadAll(io.LimitReader(r, 200))
			_ = r.Close()
			if kind, is := strings.CutPrefix(string(b), "application/vnd.oasis.opendocument."); is {
				switch kind {
				case "text":
					return "odt"
				case "spreadsheet":
					return "ods"
				case "presentation":
					return "odp"
				}
				return "opendocument"
			}
		}
	}
	for _, f := range z.File {
		switch f.Name {
		case "[Content_Types].xml", "content.xml", "META-INF/manifest.xml", "META-INF/container.xml":
			return "office"
		}
	}
	return "zip"
}

// styleOf is how a part of an office document is read.
func styleOf(name string) style {
	switch {
	case strings.HasPrefix(name, "docProps/"), strings.Contains(name, "/charts/"), strings.Contains(name, "hreaded"), strings.HasPrefix(name, "customXml/"):
		return elements
	case strings.HasPrefix(name, "xl/worksheets/"):
		return cells
	}
	return lines
}

func isMarkup(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".xml", ".rels", ".vml", ".opf", ".ncx", ".svg":
		return true
	}
	return false
}

// style is how the elements of a document are read.
type style uint8

const (
	lines    style = iota // paragraphs and cells are apart, and whatever else there is belongs together: a number may be written in three colors
	elements              // each element is apart
	cells                 // as lines; what is a number is written out
)

// markup takes the text out of XML: what is between the tags, and beside it comments and those attributes that people see or follow. It
// takes whatever it is given, also what no parser would. Pages are read by html.
func (x *extractor) markup(r io.Reader, how style) error {
	b := bufio.NewReaderSize(r, piece)
	if head, _ := b.Peek(4); how != elements {
		if _, is := isUTF16(head); is {
			b = bufio.NewReaderSize(decoded(b, head), piece)
		}
	}
	defer x.besides()
	aside := false // in an element whose text nobody sees in its place
	for {
		chunk, err := b.ReadSlice('<')
		text := chunk
		if err == nil {
			text = chunk[:len(chunk)-1]
		}
		switch {
		case len(text) == 0:
		case aside:
			x.along(entities(text))
		case how == cells && isScientific(text):
			if werr := x.unescape(writtenOut(text)); werr != nil {
				return werr
			}
		default:
			if werr := x.unescape(text); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if start, _ := b.Peek(len(cdata)); bytes.Equal(start, cdata) {
			_, _ = b.Discard(len(cdata))
			if err := x.literally(b); err != nil {
				return err
			}
			continue
		}
		if start, _ := b.Peek(len(comment)); bytes.Equal(start, comment) {
			_, _ = b.Discard(len(comment))
			x.remark(b)
			continue
		}
		if next, _ := b.Peek(1); len(next) == 1 && !beginsTag(next[0]) { // a sign in the text
			if _, err := x.WriteString("<"); err != nil {
				return err
			}
			continue
		}
		tag, err := readTag(b)
		if err != nil { // it does not end, and may be text
			if _, werr := x.Write(tag); werr != nil || errors.Is(err, io.EOF) {
				return werr
			}
			return err
		}
		name := local(tag)
		switch string(name) {
		case "delText", "instrText": // what was there before, and what a field is made by
			aside = !bytes.HasSuffix(tag, []byte("/"))
		case "/delText", "/instrText":
			aside = false
		}
		if werr := x.tag(name, tag, how); werr != nil {
			return werr
		}
	}
}

// literally takes text to the end of a CDATA section.
func (x *extractor) literally(b *bufio.Reader) error {
	for {
		part, err := b.ReadSlice('>')
		end := bytes.HasSuffix(part, []byte("]]>"))
		if _, werr := x.Write(bytes.TrimSuffix(part, []byte("]]>"))); werr != nil {
			return werr
		}
		if end || err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil //nolint:nilerr // it ends here
		}
	}
}

// remark takes a comment to its end: in an office document nobody sees it, and in other files it is there to be read.
func (x *extractor) remark(b *bufio.Reader) {
	var last []byte // what the end may be in pieces of
	for x.err == nil {
		part, err := b.ReadSlice('>')
		last = append(last, part[max(0, len(part)-3):]...)
		last = last[max(0, len(last)-3):]
		x.along(part)
		if bytes.Equal(last, []byte("-->")) || string(last) == ">" || string(last) == "->" || err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	x.along([]byte{'\n'})
}

// isScientific tells a number as spreadsheets keep large ones.
func isScientific(b []byte) bool {
	return len(b) > 4 && len(b) < 30 && bytes.IndexByte(b, 'E') > 0 && bytes.IndexFunc(b, func(r rune) bool { return (r < '0' || r > '9') && r != '.' && r != 'E' && r != '+' }) < 0
}

// writtenOut is it with all its digits.
func writtenOut(b []byte) []byte {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f > 1e20 {
		return b
	}
	return strconv.AppendFloat(nil, f, 'f', -1, 64)
}

// local is a tag's name without its namespace, with the slash of one that closes.
func local(tag []byte) []byte {
	start := 0
	for i, c := range tag {
		switch {
		case c == ':':
			if start = i + 1; tag[0] == '/' { // the slash goes with the name
				start = i
				tag[i] = '/'
			}
		case c == ' ', c == '\n', c == '\r', c == '\t', c == '/' && i > start:
			return tag[start:i]
		}
	}
	return tag[start:]
}

// tag writes what stands for a tag in the text.
func (x *extractor) tag(name, tag []byte, how style) error {
	closes := len(tag) > 0 && tag[len(tag)-1] == '/'
	if len(name) > 0 && name[0] == '/' {
		closes, name = true, name[1:]
	}
	s := ""
	switch {
	case closes && how == elements:
		s = "\n"
	case closes || string(name) == "br" || string(name) == "hr":
		s = between(name)
	}
	if s != "" {
		if _, err := io.WriteString(x, s); err != nil {
			return err
		}
		if s == "\n" {
			x.besides()
		}
	}
	if at := bytes.IndexAny(tag, " \t\r\n"); at > 0 && bytes.IndexByte(tag[at:], '=') > 0 {
		rest := tag[at+1:]
		for _, a := range attributes(rest, how == elements) {
			if isScientific(a) {
				a = writtenOut(a)
			}
			x.beside(entities(a))
		}
	}
	return nil
}

var cdata, comment = []byte("![CDATA["), []byte("!--")

// maxTag is how much of a tag is looked at.
const maxTag = 64 << 10

// beginsTag reports whether a bracket before this is one of a tag.
func beginsTag(c byte) bool {
	return c == '/' || c == '!' || c == '?' || c == '_' || c == ':' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf
}

// closed reports whether what has been read of a tag is outside of its attributes' values.
func closed(tag []byte) bool {
	if bytes.IndexByte(tag, '\'') < 0 && bytes.Count(tag, []byte{'"'})%2 == 0 {
		return true
	}
	var quote, before byte
	for _, c := range tag {
		switch {
		case quote == 0 && before == '=' && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			before = c
		}
	}
	return quote == 0
}

// readTag reads a tag to its end, without the brackets, and is good until the next thing is read. What is not closed ends where the
// text does.
func readTag(b *bufio.Reader) ([]byte, error) {
	part, err := b.ReadSlice('>')
	if err == nil && part[0] != '!' && closed(part) { // nearly every one
		return part[:len(part)-1], nil
	}
	var tag []byte
	for {
		if len(tag) < maxTag {
			tag = append(tag, part[:min(len(part), maxTag-len(tag))]...)
		}
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return tag, err
		case err == nil && (len(tag) >= maxTag || tag[0] == '!' || closed(tag)):
			return bytes.TrimSuffix(tag, []byte(">")), nil
		}
		part, err = b.ReadSlice('>')
	}
}

// between is what stands for the end of an element in the text.
func between(name []byte) string {
	switch string(name) {
	case "p", "h", "br", "div", "li", "ul", "ol", "dd", "dt", "table", "title", "option", "textarea", "h1", "h2", "h3", "h4", "h5", "h6", "head", "body", "row", "tr", "si", "table-row", "line-break", "comment", "txBody", "cr", "hr", "ptab", "f", "annotation", "oddHeader", "oddFooter", "evenHeader", "evenFooter":
		return "\n"
	case "c", "tc", "tab", "table-cell", "td", "th", "cell":
		return "\t"
	case "s": // OpenDocument: spaces
		return " "
	case "noBreakHyphen":
		return "-"
	}
	return ""
}

// attributes are the values that people see or follow, or all of them.
func attributes(b []byte, all bool) (out [][]byte) {
	for len(out) < 100 {
		name, rest, ok := bytes.Cut(b, []byte("="))
		rest = bytes.TrimLeft(rest, " \t\r\n")
		if !ok || len(rest) < 2 || rest[0] != '"' && rest[0] != '\'' {
			return out
		}
		value, after, _ := bytes.Cut(rest[1:], rest[:1])
		name = bytes.TrimSpace(name)
		if at := bytes.IndexByte(name, ':'); at >= 0 {
			name = name[at+1:]
		}
		switch string(name) {
		case "Target", "href", "src", "alt", "content", "placeholder", "descr", "title", "value", "string-value", "author", "name":
			out = append(out, value)
		default:
			if all {
				out = append(out, value)
			}
		}
		b = after
	}
	return out
}

// entities is a text with its entities as what they stand for.
func entities(b []byte) (out []byte) {
	for {
		at := bytes.IndexByte(b, '&')
		if at < 0 {
			return append(out, b...)
		}
		s, n := entity(b[at:])
		out = append(append(out, b[:at]...), s...)
		b = b[at+n:]
	}
}

// unescape writes text with its entities as what they stand for.
func (x *extractor) unescape(b []byte) error {
	for {
		at := bytes.IndexByte(b, '&')
		if at < 0 {
			_, err := x.Write(b)
			return err
		}
		if _, err := x.Write(b[:at]); err != nil {
			return err
		}
		s, n := entity(b[at:])
		if _, err := io.WriteString(x, s); err != nil {
			return err
		}
		b = b[at+n:]
	}
}

// entity is what the one at the beginning stands for, and how long it is.
func entity(b []byte) (string, int) {
	end := bytes.IndexByte(b[:min(len(b), 12)], ';')
	if end < 0 {
		return "&", 1
	}
	switch name := string(b[1:end]); name {
	case "amp":
		return "&", end + 1
	case "lt":
		return "<", end + 1
	case "gt":
		return ">", end + 1
	case "quot":
		return `"`, end + 1
	case "apos":
		return "'", end + 1
	default:
		if r, ok := numbered(name); ok {
			return string(r), end + 1
		}
		if s := html.UnescapeString(string(b[:end+1])); !strings.HasPrefix(s, "&") {
			return s, end + 1
		}
	}
	return "&", 1
}

// numbered reads "#65" and "#x41".
func numbered(name string) (rune, bool) {
	digits, is := strings.CutPrefix(name, "#")
	base := rune(10)
	if hex, x := strings.CutPrefix(strings.ToLower(digits), "x"); x {
		digits, base = hex, 16
	}
	if !is || digits == "" {
		return 0, false
	}
	var n rune
	for _, c := range digits {
		d := rune(strings.IndexRune("0123456789abcdef", c))
		if d < 0 || d >= base {
			return 0, false
		}
		if n = n*base + d; n > 0x10ffff {
			return 0, false
		}
	}
	return n, n != 0
}

// tar takes the text out of an archive.
func (x *extractor) tar(r io.Reader, depth int) {
	if depth >= x.limits.Depth {
		x.unread(TooDeep)
		return
	}
	err := guarded(func() error {
		t := tar.NewReader(r)
		for x.err == nil {
			h, err := t.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if h.Size > 0 && h.Typeflag != tar.TypeDir {
				x.inner(t, h.Name, depth+1)
			}
		}
		return nil
	})
	if err != nil {
		x.broken(err)
	}
}
