package text

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/text/encoding/charmap"
)

// rtf takes the text out of Rich Text (Microsoft's specification 1.9.1): what is between the control words, without the tables of
// fonts, colors and styles, and without pictures.
func (x *extractor) rtf(r io.Reader) error {
	b := bufio.NewReaderSize(r, piece)
	const deep = 1000
	var skips []bool // of the groups that are open
	skip, skipChars := false, 0
	instead := 1   // characters behind one of Unicode, for readers that do not know it
	first := false // the next word is the first of its group
	put := func(s string) error {
		if skip {
			return nil
		}
		_, err := x.WriteString(s)
		return err
	}
	for {
		c, err := b.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch c {
		case '{':
			if len(skips) < deep {
				skips = append(skips, skip)
			}
			first = true
			continue
		case '}':
			if n := len(skips); n > 0 {
				skip = skips[n-1]
				skips = skips[:n-1]
			}
		case '\r', '\n':
			continue
		case '\\':
			word, number, err := controlWord(b)
			if err != nil {
				return nil //nolint:nilerr // it ends here
			}
			s := ""
			switch word {
			case "par", "line", "row", "nestrow", "fldrslt", "sect", "page":
				s = "\n"
			case "tab", "cell", "nestcell":
				s = "\t"
			case "\\", "{", "}":
				s = word
			case "~":
				s = " "
			case "_":
				s = "-"
			case "uc":
				instead = max(0, min(number, 100))
			case "emdash", "endash":
				s = "-"
			case "'":
				if skipChars > 0 {
					skipChars--
					break
				}
				s = string(charmap.Windows1252.DecodeByte(byte(number))) //nolint:gosec // of two hex digits
			case "u":
				s, skipChars = string(rune(uint16(number))), instead //nolint:gosec // the specification has it signed
			case "*":
				skip = true
			case "fonttbl", "colortbl", "stylesheet", "pict", "themedata", "datastore", "latentstyles", "listtable", "rsidtbl", "generator":
				skip = skip || first
			case "fldinst": // where a link leads
				skip = false
			case "bin":
				if _, err := io.CopyN(io.Discard, b, int64(max(0, number))); err != nil {
					return nil //nolint:nilerr // it ends here
				}
			}
			if s != "" {
				if err := put(s); err != nil {
					return err
				}
			}
		default:
			if skipChars > 0 {
				skipChars--
				break
			}
			if err := put(string(charmap.Windows1252.DecodeByte(c))); err != nil {
				return err
			}
		}
		first = false
	}
}

// controlWord reads one, behind its backslash, with its number; "'" has two hex digits as its number.
func controlWord(b *bufio.Reader) (word string, number int, err error) {
	c, err := b.ReadByte()
	if err != nil {
		return "", 0, err
	}
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	if c == '\'' {
		var hex [2]byte
		if _, err := io.ReadFull(b, hex[:]); err != nil {
			return "", 0, err
		}
		n, err := strconv.ParseUint(string(hex[:]), 16, 8)
		if err != nil {
			return "", 0, nil //nolint:nilerr // no character
		}
		return "'", int(n), nil
	}
	if !letter(c) {
		if c == '\r' || c == '\n' {
			return "par", 0, nil
		}
		return string(rune(c)), 0, nil
	}
	var w, digits strings.Builder
	for ; letter(c) && w.Len() < 32; c, err = b.ReadByte() {
		if err != nil {
			return w.String(), 0, err
		}
		w.WriteByte(c)
	}
	for ; err == nil && (c >= '0' && c <= '9' || c == '-' && digits.Len() == 0) && digits.Len() < 10; c, err = b.ReadByte() {
		digits.WriteByte(c)
	}
	if err == nil && c != ' ' {
		err = b.UnreadByte()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	number, _ = strconv.Atoi(digits.String())
	return w.String(), number, err
}
