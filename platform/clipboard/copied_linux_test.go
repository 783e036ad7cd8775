package clipboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// judging are a section's rules about sensitive data: in enforce mode, or below.
type judging struct {
	ruled
	mode enforce.Mode
	free bool
}

func (r judging) SensitiveMode() enforce.Mode { return r.mode }
func (r judging) HoldsSensitive() bool        { return r.mode == enforce.Enforce }
func (r judging) SensitiveKey() string        { return fmt.Sprint(r.mode, r.free) }
func (r judging) Sensitive(x *fact.Sensitive) enforce.Verdict {
	bad := len(x.Found) > 0 || x.Late && !r.free
	return enforce.Verdict{Allow: !bad || r.mode < enforce.Enforce, WouldDeny: bad && r.mode < enforce.Enforce, WouldMode: r.mode}
}
func (r judging) SensitiveReason(enforce.Verdict, *fact.Sensitive) (string, string) {
	return "why", "how"
}

// asks is a guard whose scanner finds "guilty", and what it has told.
func asks(t *testing.T, r ruler) (*Guard, *[]platform.Decision, *[]string) {
	t.Helper()
	var told []platform.Decision
	var names []string
	g := newGuard(&oneDesk{})
	g.rules = r
	g.Listen(func(d platform.Decision) { told = append(told, d) }, func(bool) {})
	g.look = func(ctx context.Context, f *os.File, name string) (platform.Seen, error) {
		if ctx.Err() != nil {
			return platform.Seen{Late: true}, nil
		}
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 32<<20))
		if err != nil {
			return platform.Seen{}, err
		}
		names = append(names, name)
		if bytes.Contains(b, []byte("crash")) {
			return platform.Seen{}, errors.New("the scanner ended")
		}
		seen := platform.Seen{Kind: "text", Late: bytes.Contains(b, []byte("slow"))}
		if n := bytes.Count(b, []byte("guilty")); n > 0 {
			seen.Found = []fact.SensitiveFound{{Pattern: "guilt", Setting: "dlp.patterns", Count: n, Mark: "m"}}
		}
		if bytes.Contains(b, []byte("sealed")) {
			seen.Unread = []string{"encrypted"}
		}
		return seen, nil
	}
	return g, &told, &names
}

func (g *Guard) question(c Copied) (Judged, error) {
	body, kind := c.Encode()
	v, err := g.lookInto(context.Background(), platform.Desk{ID: "2", UID: 1000, Type: "x11"}, kind, body)
	g.pace = pace{}
	if err != nil {
		return Judged{}, err
	}
	return v.(Judged), nil
}

// What a helper asks is answered and told by what the rules say.
func TestLookInto(t *testing.T) {
	text := func(s string) Copied {
		return Copied{Program: "writer", Forms: []Form{{"UTF8_STRING", []byte(s)}, {"text/html", []byte("<b>" + s + "</b>")}}}
	}
	for _, c := range []struct {
		what    string
		r       judging
		c       Copied
		refused bool
		told    int
		count   int
		late    bool
	}{
		{"harmless", judging{mode: enforce.Enforce}, text("harmless"), false, 0, 0, false},
		{"found", judging{mode: enforce.Enforce}, text("guilty, guilty"), true, 1, 2, false},
		{"found, in warn mode", judging{mode: enforce.Warn}, text("guilty"), false, 1, 1, false},
		{"found, in monitor mode", judging{mode: enforce.Monitor}, text("guilty"), false, 1, 1, false},
		{"late", judging{mode: enforce.Enforce}, text("slow"), true, 1, 0, true},
		{"late, and that is free", judging{mode: enforce.Enforce, free: true}, text("slow"), false, 1, 0, true},
		{"late, and found", judging{mode: enforce.Enforce, free: true}, text("slow and guilty"), true, 1, 1, false},
		{"not all of it can be read", judging{mode: enforce.Enforce}, text("sealed"), false, 1, 0, false},
		{"it ends the scanner", judging{mode: enforce.Enforce}, text("crash"), true, 1, 0, true},
	} {
		g, told, names := asks(t, c.r)
		for range 2 { // told once
			if v, err := g.question(c.c); err != nil || v.Refused != c.refused {
				t.Errorf("%s: %+v, %v", c.what, v, err)
			}
		}
		if len(*told) != c.told {
			t.Fatalf("%s: %+v", c.what, *told)
		}
		if !slices.Contains(*names, platform.AsIs) || !slices.Contains(*names, "copied.html") {
			if c.what != "it ends the scanner" {
				t.Errorf("%s: %q", c.what, *names)
			}
		}
		if c.told == 0 {
			continue
		}
		d := (*told)[0]
		x := d.Fact.(*fact.Sensitive)
		if x.Where != fact.InClipboard || x.Place != "writer" || x.Late != c.late || d.Taken != c.refused || !strings.Contains(d.Note, "in session 2") {
			t.Errorf("%s: %+v %+v", c.what, d, x)
		}
		if sealed := strings.Contains(c.what, "can be read"); sealed != slices.Equal(x.Unread, []string{"encrypted"}) || sealed != strings.Contains(d.Note, "not read: encrypted") {
			t.Errorf("%s: %q, %s", c.what, x.Unread, d.Note)
		}
		if c.count > 0 && (len(x.Found) != 1 || x.Found[0].Count != c.count) { // what is there in two forms is there once
			t.Errorf("%s: %+v", c.what, x.Found)
		}
		if b, err := json.Marshal(x); err != nil || bytes.Contains(b, []byte("guilty")) {
			t.Errorf("%s: %s, %v", c.what, b, err)
		}
	}
}

// In another mode the same is told again.
func TestLookIntoModes(t *testing.T) {
	g, told, _ := asks(t, nil)
	for i, mode := range []enforce.Mode{enforce.Monitor, enforce.Warn, enforce.Enforce} {
		g.rules = judging{mode: mode}
		for range 2 {
			if _, err := g.question(Copied{Forms: []Form{{"STRING", []byte("guilty")}}}); err != nil {
				t.Fatal(err)
			}
		}
		if len(*told) != i+1 {
			t.Errorf("%s: %d are told", mode, len(*told))
		}
	}
}

// What is late is counted for its session, whoever looks at the same moment.
func TestLookIntoLate(t *testing.T) {
	g, _, _ := asks(t, judging{mode: enforce.Enforce, free: true})
	d := platform.Desk{ID: "2", UID: uint32(os.Getuid()), Type: "x11", Helper: true, Taken: true, Said: json.RawMessage(`{"kept":true,"type":"x11","looks":true,"late":3}`)}
	g.desks = &oneDesk{desk: d}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			if _, err := g.question(Copied{Forms: []Form{{"STRING", []byte("slow")}}}); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 50 {
		_ = g.sessions(false)
	}
	<-done
	if x := g.sessions(false)[0]; !x.Looked || x.LookedLate != 53 {
		t.Errorf("%+v", x)
	}
	for said, why := range map[string]string{`{"kept":true,"type":"x11"}`: "its helper does not", `{"kept":true,"type":"x11","looks":true,"blind":true}`: "the agent has not answered", `{"kept":false,"why":"display"}`: "the X server"} {
		g.desks = &oneDesk{desk: platform.Desk{ID: "2", UID: d.UID, Type: "x11", Helper: true, Taken: true, Said: json.RawMessage(said)}}
		if x := g.sessions(false)[0]; x.Looked || x.LookedNever || !strings.Contains(x.LookedWhy, why) {
			t.Errorf("%s: %+v", said, x)
		}
	}
	for _, x := range []struct {
		said          string // "": there is no helper
		looked, never bool
		why           string
	}{
		{"", false, false, "does not run"},
		{"null", false, false, "does not have the rules yet"},
		{`{"type":"wayland","why":"wayland","looks":true}`, true, false, ""},
		{`{"type":"wayland","kept":true,"looks":true}`, true, false, ""},
		{`{"type":"wayland","why":"wayland"}`, false, false, "its helper does not"}, // of before this version
		{`{"type":"wayland","no_look":"no control"}`, false, true, "GNOME"},
		{`{"type":"wayland","no_look":"socket"}`, false, false, "does not answer its helper"},
		{`{"type":"wayland","no_look":"anything"}`, false, false, "its helper does not"},
		{`{"type":"wayland","looks":true,"blind":true}`, false, false, "the agent has not answered"},
		{`{"type":"x11","kept":true,"looks":true}`, false, false, "another kind of session"},
		{`{`, false, false, "cannot be read"},
	} {
		desk := platform.Desk{ID: "4", UID: d.UID, Type: "wayland", Helper: x.said != "", Taken: x.said != "", Said: json.RawMessage(x.said)}
		if x.said == "null" {
			desk.Said = nil
		}
		g.desks = &oneDesk{desk: desk}
		if got := g.sessions(false)[0]; got.Looked != x.looked || got.LookedNever != x.never || !strings.Contains(got.LookedWhy, x.why) || x.looked != (got.LookedWhy == "") {
			t.Errorf("%s: %+v", x.said, got)
		}
	}
}

// What is not asked as it should be is refused with the reason, and nothing is told of it.
func TestLookIntoRefuses(t *testing.T) {
	g, told, _ := asks(t, judging{mode: enforce.Enforce})
	ask := func(kind, body string) error {
		_, err := g.lookInto(context.Background(), platform.Desk{ID: "2", UID: 1000}, kind, strings.NewReader(body))
		g.pace = pace{}
		return err
	}
	for what, err := range map[string]error{
		"another type":  ask("application/json", "{}"),
		"no boundary":   ask("multipart/form-data", ""),
		"cut off":       ask("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"form\"\r\n\r\nguilty"),
		"two names":     ask("multipart/form-data; boundary=x", strings.Repeat("--x\r\nContent-Disposition: form-data; name=\"program\"\r\n\r\na\r\n", 2)+"--x--\r\n"),
		"another part":  ask("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"more\"\r\n\r\nguilty\r\n--x--\r\n"),
		"too many":      ask("multipart/form-data; boundary=x", strings.Repeat("--x\r\nContent-Disposition: form-data; name=\"form\"\r\n\r\na\r\n", maxForms+1)+"--x--\r\n"),
		"too large":     ask("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"form\"\r\n\r\n"+strings.Repeat("a", lookHead+1)+"\r\n--x--\r\n"),
		"large headers": ask("multipart/form-data; boundary=x", "--x\r\nA: "+strings.Repeat("a", 12<<20)+"\r\n\r\na\r\n--x--\r\n"),
	} {
		if !errors.Is(err, platform.ErrQuestion) {
			t.Errorf("%s: %v", what, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("%s: %d bytes of error", what, len(err.Error()))
		}
	}
	if len(*told) > 0 {
		t.Errorf("%+v", *told)
	}
	if v, err := g.question(Copied{Program: "a\x1b[31m\n" + strings.Repeat("b", 1000), Forms: []Form{{"text/plain\r\nX: y", []byte("guilty")}}}); err != nil || !v.Refused {
		t.Errorf("%+v, %v", v, err)
	}
	if x := (*told)[0]; len(x.Subject) > 100 || strings.ContainsAny(x.Subject, "\x1b\n") {
		t.Errorf("%q", x.Subject)
	}
	g.rules = judging{mode: enforce.Off}
	if v, err := g.question(Copied{Forms: []Form{{"STRING", []byte("guilty")}}}); err != nil || v.Refused {
		t.Errorf("nothing is looked for: %+v, %v", v, err)
	}
	g.rules = ruled{}
	if v, err := g.question(Copied{Forms: []Form{{"STRING", []byte("guilty")}}}); err != nil || v.Refused {
		t.Errorf("nothing is looked for: %+v, %v", v, err)
	}
}

// Nobody has the scanner for more than half of the time.
func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	p.end(1, now, 300*time.Millisecond)
	if p.wait(1, now.Add(200*time.Millisecond)) != 100*time.Millisecond || p.wait(1, now.Add(300*time.Millisecond)) != 0 || p.wait(2, now) != 0 {
		t.Error("it does not wait as long as it took")
	}
	p.end(1, now, time.Hour)
	if p.wait(1, now.Add(maxRest)) != 0 || p.wait(1, now.Add(-time.Hour)) != 0 {
		t.Error("it waits for long")
	}
	for i := range uint32(1000) {
		p.end(i, now, time.Second)
	}
	if len(p.notBefore) > maxUsers+1 {
		t.Error(len(p.notBefore))
	}
	p.end(1, time.Now(), time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.begin(ctx, 1, time.Now()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What is encoded is decoded as it was.
func TestCopiedCode(t *testing.T) {
	in := Copied{Program: "writer", Forms: []Form{{"text/plain;charset=utf-8", []byte("--x\r\n")}, {"", nil}, {"image/ü", bytes.Repeat([]byte{0, 13, 10, '-'}, 1000)}}}
	body, kind := in.Encode()
	var out Copied
	program, err := decodeCopied(kind, body, func(kind string, data io.Reader) error {
		b, err := io.ReadAll(data)
		out.Forms = append(out.Forms, Form{kind, b})
		return err
	})
	if err != nil || program != "writer" || len(out.Forms) != 3 || out.Forms[0].Type != in.Forms[0].Type || out.Forms[2].Type != "image/_" {
		t.Fatalf("%+v, %q, %v", out, program, err)
	}
	for i := range out.Forms {
		if !bytes.Equal(out.Forms[i].Data, in.Forms[i].Data) {
			t.Errorf("%d: %q", i, out.Forms[i].Data)
		}
	}
}

func FuzzDecodeCopied(f *testing.F) {
	f.Add("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"form\"\r\nContent-Type: text/plain\r\n\r\na\r\n--x--\r\n")
	f.Add("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"program\"\r\n\r\nwriter\r\n--x--\r\n")
	f.Fuzz(func(t *testing.T, kind, body string) {
		n, size := 0, int64(0)
		program, err := decodeCopied(kind, strings.NewReader(body), func(kind string, data io.Reader) error {
			n++
			m, err := io.Copy(io.Discard, data)
			size += m
			if len(kind) > maxType || strings.ContainsAny(kind, "\x1b\n") {
				t.Errorf("%q", kind)
			}
			return err
		})
		if n > maxForms || size > int64(len(body)) || len(program) > maxWord {
			t.Errorf("%d forms of %d bytes, %q, %v", n, size, program, err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%.100q", err.Error())
		}
	})
}
