package namelist

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/warderd/warder/sync/protocol"
)

func text(t testing.TB, l *List) string {
	t.Helper()
	r, err := protocol.UnpackList(strings.NewReader(string(l.Packed)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Lists as they are found: each form is read, comments are passed over, and every bad line is told with its number.
func TestRead(t *testing.T) {
	l, err := Read(strings.NewReader("\ufeff# a comment\r\n! another\r\n[Adblock Plus 2.0]\r\n\r\nTracker.Example.\r\nads.example # why\r\n" +
		"*.below.example\n=only.example\n||blocked.example^\n0.0.0.0 one.example two.example\n127.0.0.1\tlocalhost\n" +
		"::1 ip6-localhost ip6-loopback\nfe80::1%lo0 localhost\n127.0.0.1 three.example # here\n:: four.example\nbücher.example\nads.example\n" +
		"||page.example/x^\n@@||good.example^\n##.banner\n192.168.1.5 printer.example\ntwo words\n10.0.0.0/8\nexample.com$important\n" +
		"a..b\n" + strings.Repeat("x", 70_000) + "\n\xff\xfe\nlast.example"))
	if err != nil {
		t.Fatal(err)
	}
	want := "*.below.example\n=four.example\n=one.example\n=only.example\n=three.example\n=two.example\nads.example\nblocked.example\n" +
		"last.example\ntracker.example\nxn--bcher-kva.example\n"
	if got := text(t, l); got != want || l.Names != strings.Count(want, "\n") || l.Bytes != len(want) {
		t.Errorf("%d names, %d bytes:\n%s", l.Names, l.Bytes, got)
	}
	var bad []string
	for _, b := range l.Bad {
		bad = append(bad, fmt.Sprint(b.Line))
		if len(b.Text) > 100 || strings.ContainsAny(b.Text, "\r\n\x1b") {
			t.Errorf("%+v", b)
		}
	}
	if got := strings.Join(bad, " "); got != "18 19 21 22 23 24 25 26 27" || l.BadLines != 9 || l.Lines != 28 {
		t.Errorf("bad lines %s; %d of %d", got, l.BadLines, l.Lines)
	}
	again, err := Read(strings.NewReader(want))
	if err != nil || again.SHA256 != l.SHA256 || again.BadLines != 0 {
		t.Errorf("what was made is read as another list: %v %+v", err, again)
	}
}

// The bounds: names, bytes, and how many bad lines are described.
func TestBounds(t *testing.T) {
	l, err := Read(strings.NewReader(strings.Repeat("no name\n", 30_000)))
	if err != nil || l.BadLines != 30_000 || len(l.Bad) != MaxBad {
		t.Errorf("%v: %d bad lines, %d described", err, l.BadLines, len(l.Bad))
	}
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "%d.x\n", i)
	}
	for _, x := range []struct {
		names, bytes int
		ok           bool
	}{{1000, 10_000, true}, {999, 10_000, false}, {400, 10_000, false}, {1000, 5000, false}, {1000, 1000, false}} {
		if _, err := read(strings.NewReader(b.String()), x.names, x.bytes); (err == nil) != x.ok || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	// The same name again and again is one name.
	if l, err := read(strings.NewReader(strings.Repeat("a.example\n", 15)), 10, 100); err != nil || l.Names != 1 {
		t.Errorf("%v", err)
	}
}

// FuzzRead: no upload panics, and what is made of it is the canonical form of itself.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"a.example\n||b^\n0.0.0.0 c d\n# x\n", "\ufeffa\r\n", "||\n", "::1 localhost\n", "=A\n*.b\n", "a #b\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Read(strings.NewReader(s))
		if err != nil {
			return
		}
		made := text(t, l)
		again, err := Read(strings.NewReader(made))
		if err != nil || again.SHA256 != l.SHA256 || again.BadLines > 0 || again.Names != l.Names {
			t.Fatalf("%q becomes %q, and that %q (%v)", s, made, text(t, again), again.Bad)
		}
	})
}
