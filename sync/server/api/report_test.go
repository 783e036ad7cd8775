package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// aReport is one as an agent writes it.
func aReport(events int, whole bool) []byte {
	at := time.Date(2026, 11, 26, 20, 30, 0, 123456789, time.UTC)
	r := protocol.Report{Counter: 7, Policy: protocol.PolicyState{ID: "policy-default", Version: 3, Digest: strings.Repeat("ab", 32),
		Serial: 12,
		State:  "active"},
		Agent:  protocol.Agent{Version: "0.6.0", StartedAt: at, Machine: strings.Repeat("m", 64), Run: "r1"},
		Pinned: "pinned", DeviceDigest: strings.Repeat("cd", 32), FindingsDigest: strings.Repeat("ef", 32), LookedAt: &at, Epoch: "e1"}
	if whole {
		m := fact.Machine{Controllers: fact.Is([]string{"usb1", "usb2"}), Inputs: fact.Is(fact.Inputs{}),
			Capable: map[string]fact.Capability{"usb.allowed": {Level: fact.Enforced}}}
		m.USB = fact.Is([]fact.USB{{Path: "1-1", Number: 2, Vendor: 0x46d, Product: 0xc077, Name: "Maus “größer”",
			Interfaces: []fact.Interface{{Class: 3, SubClass: 1, Protocol: 1}}, Authorized: fact.Is(true)}})
		f := protocol.FactsOf(&m)
		f.Host = protocol.Host{Name: "laptop", OS: "linux", OSVersion: "Debian GNU/Linux 13", Arch: "amd64", Serial: "S1"}
		r.Device = &f
	}
	if whole || events > 0 {
		var list []enforce.Finding
		for _, s := range policy.Names()[:8] {
			list = append(list, enforce.Finding{Setting: s, Mode: enforce.Monitor, Compliance: enforce.Compliant,
				Enforcement: enforce.Observed, Reason: `it says "so" – and 1 < 2`,
				Evidence: []enforce.Evidence{{Key: "usb.default/usb1", State: enforce.Present, Value: "0",
					How: "/sys/bus/usb/devices/usb1/authorized_default"}}})
		}
		r.Findings = &list
	}
	for i := range events {
		r.Events = append(r.Events, enforce.Event{Seq: uint64(i) + 1, At: at, Setting: "usb.allowed_classes", Mode: enforce.Enforce,
			Kind:    enforce.Denied,
			Subject: "usb 1-2 0951:1666 0019E06B9C85 (Kingston DataTraveler)",
			Reason:  `mass_storage is not in usb.allowed_classes; to allow it: add "0951:1666:0019E06B9C85" to usb.whitelist`,
			Facts: `{"path":"1-2","number":9,"vendor":2385,"product":5734,"serial":"0019E06B9C85","interfaces":[{"class":8,` +
				`"subclass":6,"protocol":80}],"authorized":{"value":false,"known":true}}`,
			By: &enforce.Program{PID: 12, Name: "bash"}})
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return b
}

// Reports as agents write them take the short path, unusual ones the long one, and both give the same result.
func TestPlainReports(t *testing.T) {
	for _, c := range []struct{ events, whole int }{{0, 0}, {0, 1}, {1, 0}, {10, 1}} {
		body := aReport(c.events, c.whole == 1)
		if receivePlain(body) == nil {
			t.Errorf("%+v takes the long way", c)
		}
		alikeReports(t, body)
	}
	whole := string(aReport(3, true))
	for name, body := range map[string]string{
		"white space":               whole + " ",
		"white space inside":        strings.Replace(whole, `"events":`, `"events": `, 1),
		"a name twice":              strings.Replace(whole, `{"counter":7,`, `{"counter":7,"counter":8,`, 1),
		"a name twice in an event":  strings.Replace(whole, `{"seq":1,`, `{"seq":1,"seq":1,`, 1),
		"a name twice in the facts": strings.Replace(whole, `"device":{`, `"device":{"hold":"a","hold":"b",`, 1),
		"another spelling":          strings.Replace(whole, `"events"`, `"Events"`, 1),
		"another spelling inside":   strings.Replace(whole, `{"seq":1,`, `{"Seq":1,`, 1),
		"an escaped name":           strings.Replace(whole, `{"seq":1,`, `{"\u0073eq":1,`, 1),
		"a long word":               strings.Replace(whole, `"kind":"`, `"kind":"`+strings.Repeat("k", 65), 1),
		"a control character":       strings.Replace(whole, `(Kingston`, `\u001b[2J(Kingston`, 1),
		"a character that turns":    strings.Replace(whole, `(Kingston`, "\u202e(Kingston", 1),
		"a long text":               strings.Replace(whole, `(Kingston`, strings.Repeat("x", maxText), 1),
		"a long event":              strings.Replace(whole, `"path":"1-2"`, `"path":["`+strings.Repeat(`x","`, maxEvent/4)+`"]`, 1),
		"no object":                 `[]`,
		"an event that is none":     `{"events":[1]}`,
		"no list":                   `{"events":{}}`,
		"no value":                  `{"counter"}`,
		"no name":                   `{:"x"}`,
		"a number for a name":       `{"events":[{1:"x"}]}`,
		"two values":                `{}{}`,
		"deep":                      `{"device":{"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}}`,
		"not UTF-8":                 "{\"epoch\":\"\xff\"}",
	} {
		if receivePlain([]byte(body)) != nil {
			t.Errorf("%s takes the short way", name)
		}
	}
	for _, body := range []string{whole, strings.Replace(whole, "Kingston", "Кингстон", 1),
		strings.Replace(whole, `{"seq":1,`, `{"seq":1,"news":{"a":[1,2e9,null,true]},`, 1)} {
		if receivePlain([]byte(body)) == nil {
			t.Error("a report with words of a newer agent, or of another alphabet, takes the long way")
		}
	}
}

// alikeReports compares the result of the short path with that of the long one.
func alikeReports(t *testing.T, body []byte) {
	t.Helper()
	got := receivePlain(body)
	if got == nil {
		return
	}
	want, err := receiveStrictly(body)
	if err != nil {
		t.Fatalf("refused by the long way: %v\n%s", err, body)
	}
	if d := cmp.Diff(want.Report, got.Report); d != "" {
		t.Fatalf("%s\n%s", d, body)
	}
	same := func(what string, a, b json.RawMessage) {
		x, _ := policy.ParseAtMost(a, protocol.MaxRequest)
		y, _ := policy.ParseAtMost(b, protocol.MaxRequest)
		if (a == nil) != (b == nil) || a != nil && (x == nil || !cmp.Equal(x, y)) {
			t.Fatalf("%s: %s\nwant %s", what, b, a)
		}
	}
	if want.Device != nil {
		same("device", want.device, got.device)
	}
	same("findings", want.findings, got.findings)
	if len(want.events) != len(got.events) {
		t.Fatalf("%d events, want %d", len(got.events), len(want.events))
	}
	for i := range want.events {
		same(fmt.Sprintf("events[%d]", i), want.events[i], got.events[i])
	}
}

// Reports with a random edit or two: whatever still takes the short path gives the same on the long one.
func TestEditedReports(t *testing.T) {
	whole := aReport(2, true)
	odd := []string{``, `21000000000000000000`, `"2026/11/26T20:30:00Z"`, `"2026-11-26T20:30:00+24:00"`, ` `, `"`, `,`, `:`, `{`, `}`, `[`,
		`]`, `{}`, `[]`, `null`, `true`, `tru`, `0`, `01`, `-`, `-0`, `1e9`, `1e999`, `1.`, `.5`, `18446744073709551616`, `NaN`, `"a":1,`,
		`"A":1,`, `,"a":{}`,
		`"seq":3,`, `"events":[],`, `"findings":null,`, `"device":{},`, `\\`, `\u0041`, `\ud800`, `\ud83d\ude00`, `\n`, `\x`, "\n", "\x00",
		"\x7f", "é", "\u2028", "\xff", `"2026-11-26T20:30:00Z"`, `"2026-02-30T20:30:00Z"`, `"2026-11-26"`}
	rnd := rand.New(rand.NewPCG(1, 1))
	plainly := 0
	for range 5_000 {
		body := slices.Clone(whole)
		for range rnd.IntN(2) + 1 {
			from := rnd.IntN(len(body))
			if rnd.IntN(2) == 0 { // where a value or a name begins
				if i := bytes.IndexAny(body[from:], `:,{[`); i >= 0 {
					from += i + 1
				}
			}
			to := min(from+rnd.IntN(4)*rnd.IntN(5), len(body))
			body = slices.Concat(body[:from], []byte(odd[rnd.IntN(len(odd))]), body[to:])
		}
		if receivePlain(body) != nil {
			plainly++
		}
		alikeReports(t, body)
	}
	if plainly < 500 {
		t.Errorf("only %d took the short way", plainly)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(aReport(0, false))
	f.Add(aReport(2, true))
	f.Add([]byte(`{"counter":1,"agent":{"started_at":"2026-11-26T20:30:00+01:00"},"findings":[],"events":[{"seq":1,"facts":"text",` +
		`"users":[1]}]}`))
	f.Add([]byte(`{"events":[{"verdict":{"guard":"last_input","would_mode":"x"},"done":{"state":"absent"},"mode":"warn"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) { alikeReports(t, body) })
}

func BenchmarkReceive(b *testing.B) {
	for _, events := range []int{0, 10} {
		body := aReport(events, false)
		for name, f := range map[string]func([]byte) (*received, error){"strictly": receiveStrictly, "plain": receive} {
			b.Run(fmt.Sprintf("%d-events/%s", events, name), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := f(body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// Values that a quick JSON reader accepts and a strict one does not, or the other way round: both paths agree, and what
// is accepted can be read again from the database.
func TestBothWaysAgree(t *testing.T) {
	var bodies []string
	for _, number := range []string{"21000000000000000000", "18446744073709551616", "9223372036854775808", "-9223372036854775809",
		"4294967296", "1.0", "1e3", "-0", "01", "+1", "null", `"1"`} {
		for _, form := range []string{`{"counter":%}`, `{"sequence":%}`, `{"policy":{"version":%}}`, `{"events":[{"seq":%}]}`,
			`{"events":[{"seq":1,"count":%}]}`,
			`{"events":[{"seq":1,"by":{"pid":%}}]}`, `{"events":[{"seq":1,"users":[%]}]}`} {
			bodies = append(bodies, strings.ReplaceAll(form, "%", number))
		}
	}
	for _, moment := range []string{"2026/11/26T20:30:00Z", "2026-11-26U20;30;00Z", "2026-11-26T20:30:00,5Z", "2026-11-26T2:30:00Z",
		"2026-11-26T20:30:60Z", "2026-11-26T20:30:00+24:00",
		"2026-11-26T20:30:00+01:60", "2026-11-26 20:30:00Z", "2026-11-26T20:30:00.1234567891234Z", "2026-02-30T20:30:00Z",
		"0000-01-01T00:00:00Z", "20261-1-26T20:30:00Z", "2026-11-26T20:30:00z", ""} {
		for _, form := range []string{`{"events":[{"seq":1,"at":"%"}]}`, `{"findings":[{"since":"%"}]}`, `{"findings":[{"read_at":"%"}]}`,
			`{"findings":[{"evidence":[{"at":"%"}]}]}`,
			`{"agent":{"started_at":"%"}}`, `{"looked_at":"%"}`} {
			bodies = append(bodies, strings.ReplaceAll(form, "%", moment))
		}
	}
	plain := 0
	for _, body := range bodies {
		quickly := receivePlain([]byte(body))
		strictly, err := receiveStrictly([]byte(body))
		if quickly == nil {
			continue
		}
		plain++
		if err != nil {
			t.Errorf("%s is taken plainly, and refused strictly: %v", body, err)
			continue
		}
		if a, b := fmt.Sprintf("%+v", quickly.Report), fmt.Sprintf("%+v", strictly.Report); a != b {
			if x, _ := json.Marshal(quickly.Report); string(x) != func() string {
				y, _ := json.Marshal(strictly.Report)
				return string(y)
			}() {
				t.Errorf("%s is read as %s and as %s", body, a, b)
			}
		}
		var list []enforce.Finding
		if quickly.findings != nil && json.Unmarshal(quickly.findings, &list) != nil {
			t.Errorf("%s: the findings cannot be read again", body)
		}
		for _, e := range quickly.events {
			var x enforce.Event
			if json.Unmarshal(e, &x) != nil {
				t.Errorf("%s: the event cannot be read again", body)
			}
		}
	}
	if plain < 20 || plain == len(bodies) {
		t.Errorf("%d of %d were read plainly", plain, len(bodies))
	}
}

// Both paths apply the bound of what is stored to the same bytes.
func TestSameSize(t *testing.T) {
	body := []byte(`{"findings":[{"setting":"usb.allowed","reason":"` + strings.Repeat("<&>", 100) + `"}]}`)
	quickly := receivePlain(body)
	strictly, err := receiveStrictly(body)
	if quickly == nil || err != nil || string(quickly.findings) != string(strictly.findings) {
		t.Errorf("%v\n%s\n%s", err, quickly.findings, strictly.findings)
	}
}
