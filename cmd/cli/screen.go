package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
)

// Screen is the only way to a person's terminal. It removes control characters from text that comes from outside (a
// device's strings, a server's answer, a person's reason), so that such text cannot control the terminal of the reader,
// least of all root's. A test checks that no command prints in any other way.
type Screen struct {
	w  io.Writer
	on bool // whether to use colours
}

// Painted is text that is already safe, and may contain our own colours.
type Painted string

// NewScreen prints to w, in colour if w is a terminal.
func NewScreen(w io.Writer) Screen { return Screen{w, coloured(w)} }

// Plain makes text safe. It also replaces line breaks by dots: otherwise text from outside could add a line that looks
// like ours.
func Plain(s string) Painted { return Painted(enforce.Plain(s)) }

// Foreign is implemented by errors whose text comes from somebody else: none of its lines is shown as one of ours.
type Foreign interface{ Foreign() }

// lines is Plain for errors of our own, which may have several lines.
func lines(s string) Painted {
	list := strings.Split(s, "\n")
	for i := range list {
		list[i] = enforce.Plain(list[i])
	}
	return Painted(strings.Join(list, "\n"))
}

// Printf is fmt.Fprintf, with Plain applied to every argument that is not Painted or a number.
func (s Screen) Printf(format string, args ...any) {
	_, _ = io.WriteString(s.w, string(s.Sprintf(format, args...)))
}

// Sprintf returns what Printf would print.
func (s Screen) Sprintf(format string, args ...any) Painted {
	safe := make([]any, len(args))
	for i, a := range args {
		safe[i] = safely(a)
	}
	return Painted(fmt.Sprintf(format, safe...))
}

// safely makes one argument of Printf safe.
func safely(a any) any {
	switch v := a.(type) {
	case nil:
		return "none"
	case Painted:
		return string(v)
	case error:
		var theirs Foreign
		if errors.As(v, &theirs) {
			return string(Plain(v.Error()))
		}
		return string(lines(v.Error()))
	case fmt.Stringer:
		return string(Plain(v.String()))
	}
	switch v := reflect.ValueOf(a); v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return a
	case reflect.String:
		return string(Plain(v.String()))
	}
	return string(Plain(fmt.Sprint(a)))
}

// Count formats a number with its noun, in the plural if needed.
func Count[N int | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Clear begins an empty page.
func (s Screen) Clear() { _, _ = io.WriteString(s.w, "\x1b[H\x1b[2J") }

// JSON prints a value for programs, indented or on one line. Unprintable characters are escaped, which is still the
// same JSON.
func (s Screen) JSON(v any, indent bool) error {
	var b []byte
	var err error
	if indent {
		b, err = json.MarshalIndent(v, "", "  ")
	} else {
		b, err = json.Marshal(v)
	}
	if err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range string(b) {
		switch {
		case r == '\n' || unicode.IsPrint(r) && r != utf8.RuneError:
			out.WriteRune(r)
		case r < 1<<16:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			r -= 1 << 16
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	_, err = io.WriteString(s.w, out.String()+"\n")
	return err
}

// coloured reports whether w is a terminal that shows colours.
func coloured(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && IsTerminal(w)
}

// IsTerminal reports whether a person at a terminal reads what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// paint adds a colour, if the terminal shows colours.
func (s Screen) paint(code string, text any) Painted {
	safe := Painted(fmt.Sprint(safely(text)))
	if !s.on {
		return safe
	}
	return "\x1b[" + Painted(code) + "m" + safe + "\x1b[0m"
}

// Good paints what is as it should be.
func (s Screen) Good(t any) Painted { return s.paint("32", t) }

// Bad paints what needs attention now.
func (s Screen) Bad(t any) Painted { return s.paint("31;1", t) }

// Warn paints what may need attention.
func (s Screen) Warn(t any) Painted { return s.paint("33", t) }

// Dim paints what matters less.
func (s Screen) Dim(t any) Painted { return s.paint("2", t) }

// Bold paints a heading.
func (s Screen) Bold(t any) Painted { return s.paint("1", t) }
