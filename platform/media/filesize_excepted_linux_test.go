package media

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/platform/mountinfo"
)

// climbs goes up from a file as the kernel's programs do.
func (s stairs) climbs(file string, dev uint32, turn uint64) bool {
	at := uint32(0)
	for _, name := range slices.Backward(strings.Split(file, "/")) {
		x := step{At: at}
		copy(x.Name[:], name)
		next, is := s[x]
		if !is {
			return false
		}
		at = next
	}
	return s[step{Turn: turn, Dev: dev, At: at}] == arrived
}

// Of files that share names, each is let pass, and no mixture of them.
func TestStairs(t *testing.T) {
	s := stairs{}
	type place struct {
		file string
		dev  uint32
		turn uint64
	}
	in := []place{{"a/talk.mp4", 1, 7}, {"b/talk.mp4", 2, 8}, {"talk.mp4", 3, 9}, {"a/a/talk.mp4", 3, 9}, {"a/film", 1, 7}, {strings.Repeat("d/", maxDepth-1) + "x", 1, 7}}
	for _, x := range in {
		if err := s.add(strings.Split(x.file, "/"), x.dev, x.turn); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range in {
		for _, y := range in {
			if got, want := s.climbs(x.file, y.dev, y.turn), slices.Contains(in, place{x.file, y.dev, y.turn}); got != want {
				t.Errorf("%s on %d in turn %d: %v", x.file, y.dev, y.turn, got)
			}
		}
		if s.climbs(x.file, x.dev, x.turn+1) || s.climbs("c/"+x.file, x.dev, x.turn) || s.climbs(x.file+"/"+"c", x.dev, x.turn) {
			t.Errorf("%s: others", x.file)
		}
	}
	if s.climbs("b/film", 2, 8) || s.climbs("a", 1, 7) || s.climbs("", 1, 7) {
		t.Error("a mixture")
	}
	for _, bad := range []string{strings.Repeat("d/", maxDepth) + "x", strings.Repeat("n", 256)} {
		before := len(s)
		if err := s.add(strings.Split(bad, "/"), 1, 7); err == nil || len(s) != before {
			t.Errorf("%.20s is added: %d steps, before %d", bad, len(s), before)
		}
	}
	for i := range maxSteps {
		_ = s.add([]string{fmt.Sprint(i)}, 1, 7)
	}
	if len(s) > maxSteps {
		t.Errorf("%d steps", len(s))
	}
}

// The mount on which a file is: the nearest, and of several at one place the last.
func TestPlaceOf(t *testing.T) {
	all := []mountinfo.Mount{{Point: "/", ID: 1}, {Point: "/media/card", ID: 2}, {Point: "/media/card", ID: 3}, {Point: "/media/cardinal", ID: 4}}
	for file, want := range map[string]int{"/etc/x": 1, "/media/card/x": 3, "/media/card/a/b": 3, "/media/cardinal/x": 4, "/media/card": 1} {
		if m, ok := placeOf(file, all); !ok || m.ID != want {
			t.Errorf("%s: %+v", file, m)
		}
	}
	if _, ok := placeOf("/x", nil); ok {
		t.Error("a mount of nothing")
	}
}
