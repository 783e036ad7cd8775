//go:build linux

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/session"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/dlp"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/clipboard"
	"github.com/warderd/warder/platform/seat"
)

// direct is the local API as the helper of a session meets it, past the socket, which would say that a test is no session.
type direct struct {
	agent *atomic.Pointer[Agent]
	uid   uint32
	id    string
}

func (d direct) Do(ctx context.Context, method, _ string, in, out any) error {
	a := d.agent.Load()
	if a == nil {
		return localapi.ErrNoAgent
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if method == "PUT" {
		var s session.Said
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		return a.helpers.hears(d.uid, d.id, &s)
	}
	var t session.Turn
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	answer, err := a.helpers.turn(ctx, d.uid, d.id, t)
	if err != nil {
		return err
	}
	answer.Version = "test"
	if b, err = json.Marshal(answer); err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

func (d direct) Upload(ctx context.Context, path string, header http.Header, body io.Reader, out any) error {
	a := d.agent.Load()
	if a == nil {
		return localapi.ErrNoAgent
	}
	v, err := a.helpers.ask(ctx, d.uid, d.id, header.Get(session.RunHeader), strings.TrimPrefix(path, session.Path+"/"), header.Get("Content-Type"), body)
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// bare is a desktop that shows notices to nobody.
type bare struct{}

func (bare) Ready(context.Context) error                { return nil }
func (bare) Show(context.Context, string, string) error { return nil }

// fixed is a part that says what it is told to.
type fixed struct{ says string }

func (f *fixed) Run(ctx context.Context, _ func()) { <-ctx.Done() }
func (f *fixed) Load(json.RawMessage)              {}
func (f *fixed) State() json.RawMessage            { return json.RawMessage(f.says) }

// From a policy to a paste that is refused, and back: the agent, the helpers, and a real X server.
func TestClipboard(t *testing.T) {
	for _, p := range []string{"Xvfb", "xclip", "xsel"} {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	display := xserver(t)
	self := uint32(os.Getuid())
	l := newLab(t)
	var logins atomic.Pointer[[]seat.Login]
	ours, theirs := seat.Login{ID: "2", UID: self, User: "ann", Type: "x11", Active: true}, seat.Login{ID: "3", UID: self + 1, User: "bob", Type: "x11"}
	logins.Store(&[]seat.Login{})
	l.logins = func() []seat.Login { return *logins.Load() }
	looks := func(platform.Host) platform.Capability {
		return platform.Capability{Name: "looks", Provides: []platform.Port{platform.Lend(platform.PortLook, platform.LookInto(func(context.Context, *os.File, string) (platform.Seen, error) {
			return platform.Seen{}, errors.New("nothing is looked for")
		}))}}
	}
	l.capabilities = []func(platform.Host) platform.Capability{looks, clipboard.Capability}
	l.start()
	var agent atomic.Pointer[Agent]
	agent.Store(l.agent)
	l.enroll()
	helper := func(uid uint32, id string, p session.Part) (end func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		h := session.Helper{Agent: direct{&agent, uid, id}, Desktop: bare{}, Words: session.Language("en"), State: session.State{Version: "test"}, Pause: 100 * time.Millisecond,
			Forsaken: 4 * time.Second, Parts: map[string]session.Part{clipboard.Name: p}}
		go func() { _ = h.Run(ctx); close(done) }()
		end = func() { cancel(); <-done }
		t.Cleanup(end)
		return end
	}
	found := func(what string, compliance enforce.Compliance, enforcement enforce.Enforcement, reason string) {
		t.Helper()
		begun := time.Now()
		l.until(what, func(s Status) bool {
			return slices.ContainsFunc(s.Findings, func(f enforce.Finding) bool {
				return f.Setting == "dlp.clipboard_sharing" && f.Compliance == compliance && f.Enforcement == enforcement && strings.Contains(f.Reason, reason)
			})
		})
		t.Logf("%s: after %s", what, time.Since(begun).Round(time.Millisecond))
	}
	xclip, err := exec.LookPath("xclip")
	if err != nil {
		t.Fatal(err)
	}
	rules := `"policy_data":{"dlp":{"clipboard_sharing":false,"zones":{"work":{"executables":["` + xclip + `"]}}}}}`
	enforced := `{"compliance":"enforce",` + rules
	l.admin("PUT", "/policies/policy-default", enforced)
	found("nobody there", enforce.Compliant, enforce.Enforced, "no desktop session, as systemd-logind says")
	logins.Store(&[]seat.Login{ours})
	found("no helper", enforce.Uncertain, enforce.NotEnforced, "session 2 (x11): its helper (warder session) does not run")
	part := &clipboard.Part{Type: "x11", Display: display, Self: self, Decode: func(b json.RawMessage) (clipboard.Rules, error) { return dlp.DecodeClipboard(b) }}
	end := helper(self, "2", part)
	found("kept", enforce.Compliant, enforce.Partial, "kept in 1 session(s)")

	desk := append(os.Environ(), "DISPLAY="+display)
	copies := func(text string) {
		t.Helper()
		c := exec.Command("xclip", "-i", "-quiet", "-selection", "clipboard")
		c.Env, c.Stdin = desk, strings.NewReader(text)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	pastes := func(name string, args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, name, args...)
		c.Env = desk
		out, _ := c.Output()
		return string(out)
	}
	work := func() string { return pastes("xclip", "-o", "-selection", "clipboard") }
	private := func() string { return pastes("xsel", "-o", "-b") }
	until := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %q %q", what, work(), private())
			}
		}
	}
	copies("secret")
	until("work has it, and nobody else", func() bool { return work() == "secret" && private() == "" })
	if !slices.ContainsFunc(l.events(string(enforce.Denied)), func(e enforce.Event) bool { return e.Subject == "clipboard of session 2" }) {
		l.until("it is recorded", func(Status) bool { return len(l.events(string(enforce.Denied))) > 0 })
	}
	for range 5 {
		_ = private()
	}
	list := l.events(string(enforce.Denied))
	if len(list) != 1 || list[0].Setting != "dlp.clipboard_sharing" || !strings.Contains(list[0].Reason, "nothing is copied from work to personal") ||
		!strings.Contains(list[0].Reason, "what was copied in xclip was not pasted in xsel") || string(list[0].Facts) != `{"clipboard_from":"work","clipboard_to":"personal"}` {
		t.Errorf("%+v", list)
	}

	var x Explanation
	if err := l.api.Do(t.Context(), "POST", "/v1/explain", ExplainRequest{Section: "dlp", Subject: json.RawMessage(`{"clipboard":true}`)}, &x); err != nil || x.Now != "session 2 (x11): kept" {
		t.Errorf("%+v %v", x, err)
	}

	// Who lies is believed about their own session, and about no other.
	logins.Store(&[]seat.Login{ours, theirs})
	found("another session without a helper", enforce.Uncertain, enforce.NotEnforced, "session 3 (x11)")
	for _, x := range []struct{ says, reason string }{{`"\u001b[31m"`, "what the helper says cannot be read"}, {`{"kept":true,"why":"no"}`, "session 3 (x11): its helper does not, and does not say why in words of ours"}, {`{"kept":true,"why":"display"}`, "session 3 (x11): the X server does not answer its helper"},
		{`{"kept":false,"refused":[` + strings.Repeat(`{},`, 20) + `{}]}`, "refused pastes: 21, of which at most 16"}, {`{"kept":true,"never":true,"why":"` + strings.Repeat("x", session.MaxPart) + `"}`, "rules yet"}} {
		over := helper(theirs.UID, "3", &fixed{x.says})
		found(x.says[:min(len(x.says), 40)], enforce.Uncertain, enforce.NotEnforced, x.reason)
		over()
	}
	over := helper(theirs.UID, "3", &fixed{`{"kept":true,"refused":[{"n":1,"from":"work","to":"work"},{"n":2,"from":"personal","to":"work","copied_in":"\u001b[31m"},{"n":3,"from":"x","to":"y"}]}`})
	found("one that lies", enforce.Compliant, enforce.Partial, "kept in 2 session(s)")
	l.until("what it says of its own session is recorded", func(Status) bool { return len(l.events(string(enforce.Denied))) == 2 })
	over()
	logins.Store(&[]seat.Login{ours})
	found("alone again", enforce.Compliant, enforce.Partial, "kept in 1 session(s)")

	// Over a new start of the agent, all of it stays.
	begun := time.Now()
	agent.Store(nil)
	l.stop()
	leaked := make(chan bool, 1)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				leaked <- false
				return
			default:
				if private() != "" {
					leaked <- true
					return
				}
			}
		}
	}()
	l.start()
	agent.Store(l.agent)
	found("after a new start", enforce.Compliant, enforce.Partial, "kept in 1 session(s)")
	close(stop)
	if <-leaked {
		t.Errorf("it was pasted while the agent was started anew, which took %s", time.Since(begun))
	}
	// An agent that is gone for good is forsaken.
	agent.Store(nil)
	l.stop()
	until("nothing is kept any more", func() bool { return private() == "secret" })
	l.start()
	agent.Store(l.agent)
	found("kept again", enforce.Compliant, enforce.Partial, "kept in 1 session(s)")
	until("what is there is kept, too", func() bool { return private() == "" && work() == "secret" })

	// Exceptions, from the server and by code.
	device := l.status().DeviceID
	x1 := l.admin("POST", "/devices/"+device+"/exceptions", `{"section":"dlp","subject":"clipboard","minutes":60,"reason":"moving to another program"}`)
	found("an exception", enforce.Compliant, enforce.Enforced, "copying is allowed by an exception")
	copies("moved")
	until("everybody has it", func() bool { return private() == "moved" && work() == "moved" })
	l.admin("DELETE", "/devices/"+device+"/exceptions/"+x1["id"].(string), "")
	found("it is over", enforce.Compliant, enforce.Partial, "kept in 1 session(s)")
	until("what is there is kept again", func() bool { return private() == "" && work() == "moved" })
	// Warn and monitor mode keep nothing.
	for _, mode := range []string{"warn", "monitor"} {
		l.admin("PUT", "/policies/policy-default", `{"compliance":"`+mode+`",`+rules)
		l.until(mode, func(s Status) bool {
			return slices.ContainsFunc(s.Findings, func(f enforce.Finding) bool { return f.Mode.String() == mode })
		})
		found(mode, enforce.Noncompliant, enforce.Observed, "nothing keeps the clipboard of session 2 apart")
		copies(mode)
		until("everybody has it", func() bool { return private() == mode && work() == mode })
	}
	l.admin("PUT", "/policies/policy-default", enforced)
	found("kept again", enforce.Compliant, enforce.Partial, "kept in 1 session(s)")
	end()
	found("a helper that has ended", enforce.Uncertain, enforce.NotEnforced, "does not run")
	wayland := ours
	wayland.Type = "wayland"
	logins.Store(&[]seat.Login{wayland})
	end = helper(self, "2", &clipboard.Part{Type: "wayland", Self: self, Decode: part.Decode})
	found("wayland", enforce.Uncertain, enforce.Unsupported, "session 2 (wayland): Wayland does not tell")
	end()
	code := l.admin("POST", "/devices/"+device+"/exceptions", `{"section":"dlp","subject":"clipboard","minutes":5,"reason":"x","offline":true}`)["code"].(string)
	if err := l.api.Do(t.Context(), "POST", "/v1/exceptions", ExceptionRequest{Code: code}, nil); err != nil {
		t.Error(err)
	}
	found("an exception by code", enforce.Compliant, enforce.Enforced, "copying is allowed by an exception")
}

// xserver starts an X server for a test.
func xserver(t *testing.T) (display string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x := exec.Command("Xvfb", "-displayfd", "3", "-noreset", "-nolisten", "tcp")
	x.ExtraFiles = []*os.File{w}
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { _ = x.Process.Kill(); _ = x.Wait() })
	var all []byte
	for !bytes.HasSuffix(all, []byte("\n")) {
		b := make([]byte, 16)
		n, err := r.Read(b)
		if err != nil && err != io.EOF || n == 0 {
			t.Fatal("Xvfb does not start: ", err)
		}
		all = append(all, b[:n]...)
	}
	return ":" + strings.TrimSpace(string(all))
}
