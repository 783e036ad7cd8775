package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/warderd/warder/enforce"
)

// evil is what a device may call itself: escapes, the eight-bit forms of them, a line of its own, and
// text that runs backwards.
const evil = "Stick\x1b]0;owned\x07\x1b[2J\u009b31m\x9b\r\nPASSWORD:\u202eevil\x00"

// harmless reports whether nothing in a text controls a terminal, apart from our own colours.
func harmless(out string) bool {
	for _, ours := range []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31;1m"} {
		out = strings.ReplaceAll(out, ours, "")
	}
	return !strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) && !strings.Contains(out, "\nPASSWORD")
}

// answered is an error with somebody else's text.
type answered struct{ error }

func (answered) Foreign() {}

func TestScreen(t *testing.T) {
	for _, on := range []bool{false, true} {
		var out bytes.Buffer
		s := Screen{&out, on}
		s.Printf("%s %-10s %q %v %d %s %s %s\n", evil, enforce.Setting(evil), evil, []string{evil}, 7, s.Warn(evil), errors.New(evil),
			answered{errors.New(evil)})
		if got := strings.Replace(out.String(), "\nPASSWORD", "", 1); !harmless(got) { // an error of our own may have several lines
			t.Errorf("%q", got)
		}
		out.Reset()
		s.Table([]string{"A", "B"}, [][]string{{evil, "x"}, {"x", evil}, {"short"}})
		if !harmless(out.String()) || strings.Count(out.String(), "\n") != 4 {
			t.Errorf("%q", out.String())
		}
		out.Reset()
		type item struct{ Model string }
		if err := s.JSON(item{evil}, false); err != nil || !harmless(out.String()) {
			t.Errorf("%q %v", out.String(), err)
		}
		var back, same item
		want, _ := json.Marshal(item{evil})
		_ = json.Unmarshal(want, &same)
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != same {
			t.Errorf("as JSON it reads %q, %v", back.Model, err)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 events", 1: "1 event", 2: "2 events"} {
		if got := Count(n, "event"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
