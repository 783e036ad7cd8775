package text

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	xunicode "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// piece is how much is read at a time.
const piece = 64 << 10

// plain takes the text out of a file that is text, in whatever encoding, or the strings out of one that is not.
func (x *extractor) plain(r io.Reader, head []byte, depth int) {
	order, utf16 := isUTF16(head)
	kind, why := opaqueKind(head)
	switch {
	case kind != "":
		x.kind(depth, kind)
		x.unread(why)
		x.strings(r)
	case bytes.HasPrefix(head, ole):
		x.kind(depth, "ole")
		x.strings(&seeking{r: r, what: oleEncrypted, found: func() { x.unread(Encrypted) }})
	case bytes.HasPrefix(head, []byte{0xff, 0xfe, 0, 0}), bytes.HasPrefix(head, []byte{0, 0, 0xfe, 0xff}):
		x.kind(depth, "utf-32")
		x.copy(utf32.UTF32(utf32.LittleEndian, utf32.UseBOM).NewDecoder().Reader(r))
	case utf16:
		x.kind(depth, "utf-16")
		x.copy(xunicode.UTF16(order, xunicode.UseBOM).NewDecoder().Reader(r))
	case isBinary(head):
		x.kind(depth, "binary")
		x.strings(r)
	case isLegacy(head):
		x.kind(depth, "text")
		x.copy(charmap.Windows1252.NewDecoder().Reader(r))
	default:
		x.kind(depth, "text")
		x.copy(r)
	}
}

// decoded is a text in UTF-8, of one that is in one of the usual encodings.
func decoded(r io.Reader, head []byte) io.Reader {
	if order, is := isUTF16(head); is {
		return xunicode.UTF16(order, xunicode.UseBOM).NewDecoder().Reader(r)
	}
	if isLegacy(head) {
		return charmap.Windows1252.NewDecoder().Reader(r)
	}
	return r
}

// seeking is a stream in which something is looked for as it passes.
type seeking struct {
	r     io.Reader
	what  []byte
	found func()
	tail  []byte
}

func (s *seeking) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if s.found != nil {
		s.tail = append(s.tail, b[:n]...)
		if bytes.Contains(s.tail, s.what) {
			s.found()
			s.found = nil
		}
		s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-len(s.what)):]...)
	}
	return n, err
}

// copy takes text as it is. Where it has a zero in it, it goes on as something else.
func (x *extractor) copy(r io.Reader) {
	if x.buf == nil {
		x.buf = make([]byte, piece)
	}
	b := x.buf
	for x.err == nil {
		n, err := r.Read(b)
		if zero := bytes.IndexByte(b[:n], 0); zero >= 0 {
			for zero > 0 && b[zero-1] != '\n' { // the line's beginning may be what the zero is about
				zero--
			}
			_, _ = x.Write(b[:zero])
			x.strings(io.MultiReader(bytes.NewReader(slices.Clone(b[zero:n])), r))
			return
		}
		if n > 0 {
			_, _ = x.Write(b[:n])
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				x.broken(err)
			}
			return
		}
	}
}

// isUTF16 tells by the mark at the beginning, or by every other byte being zero.
func isUTF16(head []byte) (xunicode.Endianness, bool) {
	if bytes.HasPrefix(head, []byte{0xff, 0xfe}) {
		return xunicode.LittleEndian, true
	}
	if bytes.HasPrefix(head, []byte{0xfe, 0xff}) {
		return xunicode.BigEndian, true
	}
	var zeros [2]int
	for i, c := range head[:len(head)&^1] {
		if c == 0 {
			zeros[i%2]++
		}
	}
	half := len(head) / 2
	switch {
	case half < 4:
	case zeros[1] > half*7/10 && zeros[0] < half/20+1:
		return xunicode.LittleEndian, true
	case zeros[0] > half*7/10 && zeros[1] < half/20+1:
		return xunicode.BigEndian, true
	}
	return xunicode.LittleEndian, false
}

// isBinary reports whether a file is no text: it has zeros, or many control characters.
func isBinary(head []byte) bool {
	controls := 0
	for _, c := range head {
		if c == 0 {
			return true
		}
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != 0x1b {
			controls++
		}
	}
	return controls*10 > len(head)
}

// isLegacy reports whether a text is in an encoding of before Unicode: for the languages of Western Europe, it is taken as such.
func isLegacy(head []byte) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 {
			return utf8.FullRune(head) // or it ends here by chance
		}
		head = head[n:]
	}
	return false
}

// least is how many characters a string has, to count.
const least = 4

// strings takes what can be read out of anything: characters in UTF-8, and in UTF-16 those of ASCII and Latin-1, as Windows programs
// have them.
func (x *extractor) strings(r io.Reader) {
	b := make([]byte, piece)
	var run, wide []byte // what may become a string
	flush := func(s *[]byte) {
		if utf8.RuneCount(*s) >= least {
			_, _ = x.Write(append(*s, '\n'))
		}
		*s = (*s)[:0]
	}
	kept := 0
	for x.err == nil {
		n, err := r.Read(b[kept:])
		n += kept
		end := errors.Is(err, io.EOF)
		at := 0
		for at < n {
			if !end && n-at < utf8.UTFMax { // it may go on in the next piece
				break
			}
			c := b[at]
			if wideAt(b[at:n], len(wide) > 0) {
				flush(&run)
				wide = utf8.AppendRune(wide, rune(c))
				at += 2
				continue
			}
			if len(wide) > 0 {
				flush(&wide)
			}
			if c < utf8.RuneSelf { // nearly every one
				if c >= ' ' && c < 0x7f || c == '\t' {
					run = append(run, c)
				} else if len(run) > 0 {
					flush(&run)
				}
				at++
				continue
			}
			r, size := utf8.DecodeRune(b[at:n])
			if r == utf8.RuneError && size <= 1 || !printable(r) {
				flush(&run)
			} else {
				run = append(run, b[at:at+size]...)
			}
			at += size
		}
		if len(run) >= piece {
			_, _ = x.Write(run)
			run = run[:0]
		}
		if len(wide) >= piece {
			_, _ = x.Write(wide)
			wide = wide[:0]
		}
		kept = copy(b, b[at:n])
		if err != nil {
			if !end {
				x.broken(err)
			}
			break
		}
	}
	flush(&run)
	flush(&wide)
}

// wideAt reports whether a character of UTF-16 is here: another one follows, or came before.
func wideAt(b []byte, before bool) bool {
	one := func(at int) bool { return at+1 < len(b) && b[at+1] == 0 && printable(rune(b[at])) }
	return one(0) && (before || one(2))
}

func printable(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= ' ' && r < 0x7f || r == '\t'
	}
	return unicode.IsPrint(r)
}
