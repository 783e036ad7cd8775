package main

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

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
)

// screen is the one way to a person's terminal: what comes from outside (a device's strings, a server's
// words, a person's reason) is made plain in it, so that nothing can be a command to the terminal of
// whoever looks, least of all root's. A test holds every command to it.
type screen struct {
	w io.Writer
	style
}

// painted is text that is plain already, and may have colours of ours in it.
type painted string

func (a *app) screen(cmd *cobra.Command) screen {
	out := cmd.OutOrStdout()
	return screen{out, newStyle(out)}
}

// plain makes text safe. A line's end becomes a dot, too: it could pretend to be a line of ours.
func plain(s string) painted { return painted(enforce.Plain(s)) }

// lines is plain for errors of our own, which may have several lines.
func lines(s string) painted {
	list := strings.Split(s, "\n")
	for i := range list {
		list[i] = enforce.Plain(list[i])
	}
	return painted(strings.Join(list, "\n"))
}

// printf is fmt.Fprintf with every argument made plain that is not painted or a number.
func (s screen) printf(format string, args ...any) {
	_, _ = io.WriteString(s.w, string(s.sprintf(format, args...)))
}

// sprintf gives what printf prints.
func (s screen) sprintf(format string, args ...any) painted {
	safe := make([]any, len(args))
	for i, a := range args {
		safe[i] = safely(a)
	}
	return painted(fmt.Sprintf(format, safe...))
}

func safely(a any) any {
	switch v := a.(type) {
	case nil:
		return "none"
	case painted:
		return string(v)
	case error:
		var answer *localapi.Error
		if errors.As(v, &answer) {
			return string(plain(v.Error())) // in words of whoever answered
		}
		return string(lines(v.Error()))
	case fmt.Stringer:
		return string(plain(v.String()))
	}
	switch v := reflect.ValueOf(a); v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return a
	case reflect.String:
		return string(plain(v.String()))
	}
	return string(plain(fmt.Sprint(a)))
}

// clear begins an empty page.
func (s screen) clear() { _, _ = io.WriteString(s.w, "\x1b[H\x1b[2J") }

// json prints a value for programs, over several lines or in one. What is no printing character is
// escaped, which changes nothing for who reads it as JSON.
func (s screen) json(v any, indent bool) error {
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

// complain prints what went wrong.
func complain(format string, args ...any) {
	screen{w: os.Stderr}.printf(format, args...)
}

// style colours a terminal, and nothing else. What it paints is plain.
type style struct{ on bool }

func newStyle(w io.Writer) style {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return style{}
	}
	info, err := f.Stat()
	return style{err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (s style) paint(code string, text any) painted {
	safe := painted(fmt.Sprint(safely(text)))
	if !s.on {
		return safe
	}
	return "\x1b[" + painted(code) + "m" + safe + "\x1b[0m"
}

func (s style) good(t any) painted { return s.paint("32", t) }
func (s style) bad(t any) painted  { return s.paint("31;1", t) }
func (s style) warn(t any) painted { return s.paint("33", t) }
func (s style) dim(t any) painted  { return s.paint("2", t) }
func (s style) bold(t any) painted { return s.paint("1", t) }
