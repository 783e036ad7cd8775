package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
)

// seed is the example policy of the Policies API, and the one it shows as invalid.
const seed = `{"id":"550e8400-e29b-41d4-a716-446655440000","organization_id":"org-123","name":"Engineering Team Policy",
"description":"Security policy for engineering devices","policy_data":{"dlp":{"clipboard_sharing":false,"screenshot_allowed":false,"print_allowed":true},
"network":{"vpn_required":true,"allowed_domains":["*.company.com","github.com"]},"usb":{"allowed":false,"whitelist":[]},
"storage":{"encryption_required":true,"external_storage_allowed":false}},"version":3,"active":true,"device_count":45,
"created_at":"2026-01-15T09:00:00Z","updated_at":"2026-02-10T14:30:00Z"}`

func TestSeedDecodes(t *testing.T) {
	d, err := Decode([]byte(seed), Options{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	if d.Version != 3 || d.Name != "Engineering Team Policy" || !d.USB.Allowed.Set || d.USB.Allowed.V {
		t.Errorf("got %+v", d)
	}
	// Absent is not empty.
	if !d.USB.Whitelist.Set || len(d.USB.Whitelist.V) != 0 || d.USB.AllowedClasses.Set {
		t.Errorf("whitelist %+v, classes %+v", d.USB.Whitelist, d.USB.AllowedClasses)
	}
	if d.Mode("usb.allowed") != enforce.Enforce || d.Mode("usb.allowed_classes") != enforce.Off {
		t.Error("modes")
	}
	want := []enforce.Setting{"usb.allowed", "usb.whitelist", "storage.encryption_required", "storage.external_storage_allowed",
		"network.vpn_required", "network.allowed_domains", "dlp.clipboard_sharing", "dlp.screenshot_allowed", "dlp.print_allowed"}
	if got := d.Settings(); !reflect.DeepEqual(got, want) {
		t.Errorf("settings %v", got)
	}
}

// Every error comes at once, as {field, message, received}.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"the seed's own example", `{"policy_data":{"dlp":{"clipboard_sharing":"invalid"}}}`,
			`dlp.clipboard_sharing must be a boolean (received "invalid")`},
		{"null is not absent", `{"policy_data":{"usb":{"allowed":null}}}`, `usb.allowed must be a boolean (received null)`},
		{"all at once", `{"policy_data":{"usb":{"allowed":1,"whitelist":["x"]},"storage":{"max_file_size_mb":-1}}}`,
			`storage.max_file_size_mb must be a whole number`},
		{"an entry is named", `{"policy_data":{"usb":{"whitelist":["046d:c52b","zzzz:1"]}}}`, `usb.whitelist[1] must be`},
		{"a wildcard pins nothing", `{"policy_data":{"usb":{"whitelist":["046d:*:SN"]}}}`, `usb.whitelist[0] must name the product`},
		{"a class", `{"policy_data":{"usb":{"allowed_classes":["teapot"]}}}`, `usb.allowed_classes[0] must be a USB class name`},
		{"a fraction", `{"policy_data":{"storage":{"max_file_size_mb":1.5}}}`, `whole number`},
		{"modes", `{"compliance":"strict","section_compliance":{"usb":"off","wifi":"warn"},"policy_data":{}}`,
			`compliance must be one of enforce, warn, monitor (received "strict")`},
		{"a name twice", `{"policy_data":{"usb":{"allowed":true,"allowed":false}}}`, `usb.allowed must stand only once`},
		{"trailing data", `{"policy_data":{}} {}`, `nothing after it`},
		{"no policy_data", `{"name":"x"}`, `policy_data must be present`},
		{"backtracking", `{"policy_data":{"dlp":{"sensitive_data_patterns":["(a)\\1"]}}}`, `must be RE2 syntax`},
		{"an empty pattern", `{"policy_data":{"dlp":{"sensitive_data_patterns":[""]}}}`, `must not be empty`},
		{"a host", `{"policy_data":{"network":{"allowed_domains":["exa mple.com"]}}}`, `network.allowed_domains[0] must be a domain name`},
		{"a CIDR with host bits", `{"policy_data":{"network":{"blocked_domains":["10.0.0.1/8"]}}}`, `must have no bits set`},
		{"deep", `{"policy_data":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40) + `}`, `nested deeper`},
		{"large", `{"policy_data":{},"description":"` + strings.Repeat("x", MaxBytes) + `"}`, `must be at most`},
		{"not UTF-8", "{\"name\":\"\xff\",\"policy_data\":{}}", `must be UTF-8`},
		{"endpoint port", `{"policy_data":{"network":{"vpn":{"endpoints":["vpn.example.com:0"]}}}}`, `must have a port`},
		{"direction", `{"policy_data":{"dlp":{"clipboard_direction":"up"}}}`, `must be one of`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Decode([]byte(c.in), Options{})
			var errs Errors
			if d != nil || !errors.As(err, &errs) {
				t.Fatalf("got %v, %v", d, err)
			}
			var all []string
			for _, e := range errs {
				all = append(all, e.Error())
			}
			if !strings.Contains(strings.Join(all, "\n"), c.want) {
				t.Errorf("got %q, want %q", all, c.want)
			}
		})
	}
	_, err := Decode([]byte(`{"policy_data":{"usb":{"allowed":1,"whitelist":["x"]},"storage":{"max_file_size_mb":-1}}}`), Options{})
	if n := len(err.(Errors)); n != 3 {
		t.Errorf("%d errors, want 3: %v", n, err)
	}
}

func TestUnknownSettings(t *testing.T) {
	in := []byte(`{"policy_data":{"usb":{"allowed":true,"quantum":1},"wifi":{"ssid":"x"}}}`)
	d, err := Decode(in, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Unknown) != 2 || d.Unknown[0].Setting != "usb.quantum" || d.Unknown[1].Setting != "wifi.ssid" {
		t.Errorf("unknown %v", d.Unknown)
	}
	if _, err := Decode(in, Options{Strict: true}); err == nil {
		t.Error("a strict decoder takes unknown settings")
	}
	_, err = Decode([]byte(`{"policy_data":{"usb":{"alowed":true}}}`), Options{Strict: true})
	if err == nil || !strings.Contains(err.Error(), "did you mean usb.allowed?") {
		t.Errorf("got %v", err)
	}
}

func TestModes(t *testing.T) {
	d, err := Decode([]byte(`{"compliance":"warn","section_compliance":{"storage":"enforce"},
		"policy_data":{"usb":{"allowed":false},"storage":{"external_storage_allowed":false},"dlp":{"print_allowed":true}}}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[enforce.Setting]enforce.Mode{"usb.allowed": enforce.Warn, "storage.external_storage_allowed": enforce.Enforce,
		"dlp.print_allowed": enforce.Warn} {
		if got := d.Mode(s); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
	d, _ = Decode([]byte(`{"policy_data":{"usb":{"allowed":false,"audit_only":true},"storage":{"external_storage_allowed":false}}}`),
		Options{})
	if d.Mode("usb.allowed") != enforce.Monitor || d.Mode("storage.external_storage_allowed") != enforce.Enforce {
		t.Error("audit_only is monitor mode for its own section alone")
	}
}

// The digest is over the bytes received: a rename does not change it, a mode and a setting do, and an unknown setting
// counts like any other.
func TestDigest(t *testing.T) {
	of := func(s string) string {
		d, err := Decode([]byte(s), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := DigestOf([]byte(s)); got != d.Digest {
			t.Errorf("DigestOf %s, Decode %s", got, d.Digest)
		}
		return d.Digest
	}
	base := of(`{"name":"a","policy_data":{"usb":{"allowed":true}}}`)
	if of(`{"name":"b","version":9,"policy_data":{"usb":{"allowed":true}}}`) != base {
		t.Error("a rename changes the digest")
	}
	for _, s := range []string{`{"policy_data":{"usb":{"allowed":false}}}`, `{"policy_data":{"usb":{"allowed": true}}}`,
		`{"compliance":"monitor","policy_data":{"usb":{"allowed":true}}}`,
		`{"section_compliance":{"usb":"warn"},"policy_data":{"usb":{"allowed":true}}}`,
		`{"policy_data":{"usb":{"allowed":true,"new":1}}}`} {
		if of(s) == base {
			t.Errorf("%s has the same digest", s)
		}
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{"GitHub.com.": "github.com", "*.Company.com": "*.company.com", "=Host.example": "=host.example",
		"bücher.example": "xn--bcher-kva.example", "10.0.0.0/8": "10.0.0.0/8", "::1": "::1"} {
		n, err := ParseName(in)
		if err != nil || n.String() != want {
			t.Errorf("%q: %v, %v; want %q", in, n, err, want)
		}
	}
	for _, c := range []struct {
		entry, host string
		want        bool
	}{{"google.com", "docs.google.com", true}, {"google.com", "google.com", true}, {"google.com", "notgoogle.com", false},
		{"*.company.com", "company.com", false}, {"*.company.com", "a.b.company.com", true}, {"=h.example", "x.h.example", false},
		{"=h.example", "h.example", true}} {
		n, err := ParseName(c.entry)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := n.Matches(c.host); ok != c.want {
			t.Errorf("%s covers %s: %v", c.entry, c.host, ok)
		}
	}
}

func TestDiff(t *testing.T) {
	decode := func(s string) *Document {
		d, err := Decode([]byte(s), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a := decode(`{"policy_data":{"usb":{"allowed":false,"whitelist":["046d:c52b"]},"dlp":{"print_allowed":true}}}`)
	b := decode(`{"name":"other","section_compliance":{"usb":"warn"},"policy_data":{"usb":{"allowed":true,"whitelist":["046D:C52B",` +
		`"0951:1666"]}}}`)
	want := []string{"usb.allowed: false → true", "usb.allowed: mode enforce → warn", "usb.whitelist: + 0951:1666",
		"usb.whitelist: mode enforce → warn",
		"dlp.print_allowed: no longer managed (was true)"}
	if got := Diff(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := Diff(nil, a); len(got) != 3 || got[1] != "usb.whitelist: now managed: [046d:c52b] (enforce)" {
		t.Errorf("got %q", got)
	}
	if got := Diff(b, b); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestMerge(t *testing.T) {
	decode := func(s string) *Document {
		d, err := Decode([]byte(s), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	high := decode(`{"id":"high","compliance":"warn","policy_data":{"usb":{"allowed":true}}}`)
	low := decode(`{"id":"low","policy_data":{"usb":{"allowed":false,"whitelist":["046d:*"]}}}`)
	m := Merge(high, low)
	if !m.USB.Allowed.V || m.Mode("usb.allowed") != enforce.Warn || m.Sources["usb.allowed"] != "high" {
		t.Errorf("allowed: %+v by %s", m.USB.Allowed, m.Sources["usb.allowed"])
	}
	if len(m.USB.Whitelist.V) != 1 || m.Mode("usb.whitelist") != enforce.Enforce || m.Sources["usb.whitelist"] != "low" {
		t.Errorf("whitelist: %+v", m.USB.Whitelist)
	}
}

func TestWarnings(t *testing.T) {
	warn := func(data, server string) string {
		t.Helper()
		d, err := Decode([]byte(`{"policy_data":`+data+`}`), Options{Strict: true})
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		var out []string
		for _, w := range Warnings(d, server) {
			out = append(out, w.Field+" "+w.Message)
		}
		return strings.Join(out, "\n")
	}
	for _, c := range []struct{ data, server, want string }{
		{`{"network":{"vpn_always_on":true}}`, "", "network.vpn_always_on names no endpoint"},
		{`{"usb":{"whitelist":["046d:*"]}}`, "", "usb.whitelist[0] allows every device"},
		// What can never match.
		{`{"usb":{"whitelist":["0951:1666","0951:1666:*"]}}`, "", "usb.whitelist[1] matches nothing: serials are compared literally"},
		{`{"usb":{"whitelist":["0951:1666:00??"]}}`, "", "usb.whitelist[0] has a serial with a wildcard"},
		{`{"usb":{"whitelist":["0951:1666:` + strings.Repeat("x", 127) + `"]}}`, "",
			"usb.whitelist[0] matches nothing: a USB serial has at most 126"},
		{`{"usb":{"whitelist":["0951:1666:A\nB"]}}`, "", "usb.whitelist[0] matches nothing"},
		{`{"usb":{"allowed_classes":["hid","hub"]}}`, "", "usb.allowed_classes[1] changes nothing"},
		{`{"network":{"blocked_domains":["10.0.0"]}}`, "", "network.blocked_domains[0] matches nothing: no domain name ends in a number"},
		{`{"network":{"allowed_domains":["0.0.0.0"]}}`, "", "network.allowed_domains[0] matches nothing"},
		{`{"network":{"vpn":{"bootstrap_domains":["x.1"]}}}`, "", "network.vpn.bootstrap_domains[0] matches nothing"},
		{`{"dlp":{"zones":{"work":{"users":["a:b"],"slices":["work"],"executables":["firefox"]}}}}`, "",
			"dlp.zones.work.users[0] matches nobody"},
		{`{"dlp":{"zones":{"work":{"slices":["work"]}}}}`, "", "dlp.zones.work.slices[0] matches nothing"},
		{`{"dlp":{"zones":{"personal":{"executables":["firefox"]}}}}`, "", "dlp.zones.personal.executables[0] matches nothing"},
		{`{"dlp":{"zones":{"work":{"executables":["/opt/x@sha256:12"]}}}}`, "", "dlp.zones.work.executables[0] matches nothing: what follows @sha256: must be 64 hex digits (received \"12\")"},
		{`{"dlp":{"zones":{"personal":{"users":["ann"]}}}}`, "", "dlp.zones names nobody of work"},
		{`{"dlp":{"sensitive_data_patterns":["a$b"]}}`, "", "dlp.sensitive_data_patterns[0] matches no text"},
		{`{"dlp":{"sensitive_data_patterns":["x","a*"]}}`, "", "dlp.sensitive_data_patterns[1] matches the empty text, which is everywhere: it is not looked for"},
		{`{"dlp":{"sensitive_data_patterns":["` + strings.Repeat(".{1000}", 9) + `"]}}`, "", "dlp.sensitive_data_patterns[0] is too large to be looked for"},
		{`{"dlp":{"sensitive_data_patterns":["a[bc]+d"]}}`, "", "dlp.sensitive_data_patterns[0] repeats something without a bound (*, + or {n,}): up to 1000 times is looked for"},
		{`{"dlp":{"patterns":[{"name":"a","regex":"a[bc]+d"}]}}`, "", "dlp.patterns[0] repeats something without a bound"},
		{`{"dlp":{"patterns":[{"name":"a","regex":"abc","window":10}]}}`, "", "dlp.patterns[0] has a window and no min_count"},
		{`{"dlp":{"scan_timeout":"deny"}}`, "", "dlp.scan_timeout has nothing to be about"},
		// What contradicts itself.
		{`{"dlp":{"clipboard_sharing":false,"clipboard_direction":"both"}}`, "",
			"dlp.clipboard_direction is \"both\" beside dlp.clipboard_sharing: false"},
		{`{"dlp":{"clipboard_sharing":true,"clipboard_direction":"none"}}`, "", "dlp.clipboard_sharing is true beside"},
		{`{"network":{"allowed_domains":["a.b","corp.example.com"],"blocked_domains":["Corp.Example.com."]}}`, "",
			"network.allowed_domains[1] is blocked all the same: network.blocked_domains[0]"},
		{`{"network":{"allowed_domains":["*.example.com"],"blocked_domains":["example.com"]}}`, "",
			"network.allowed_domains[0] is blocked all the same"},
		{`{"network":{"allowed_domains":["10.0.0.0/8"],"blocked_domains":["10.0.0.0/8"]}}`, "",
			"network.allowed_domains[0] is blocked all the same"},
		{`{"storage":{"external_storage_allowed":false},"usb":{"allowed_classes":["mass_storage"]}}`, "",
			"usb.allowed_classes[0] lets none in"},
		// What covers this policy server.
		{`{"network":{"blocked_domains":["example.com"]}}`, "policy.example.com", "network.blocked_domains[0] covers this policy server"},
		{`{"network":{"blocked_domains":["example.com"]}}`, "Policy.Example.com:8443",
			"network.blocked_domains[0] covers this policy server"},
		{`{"network":{"blocked_domains":["x.org","10.1.0.0/16"]}}`, "10.1.2.3:8443",
			"network.blocked_domains[1] covers this policy server"},
		{`{"network":{"blocked_domains":["fd00::/8"]}}`, "[fd00::5]:8443", "network.blocked_domains[0] covers this policy server"},
		{`{"network":{"blocked_domains":["::ffff:10.1.2.3"]}}`, "10.1.2.3", "network.blocked_domains[0] covers this policy server"},
		// And nothing else.
		{`{"network":{"blocked_domains":["example.com"],"allowed_domains":["policy.example.com","=example.com","a.example.com"]}}`,
			"policy.example.com:1", ""},
		{`{"network":{"blocked_domains":["*.example.com"],"allowed_domains":["example.com"]}}`, "", ""},
		{`{"usb":{"whitelist":["0951:1666:A*"]}}`, "", "usb.whitelist[0] has a serial with a wildcard"},
		{
			`{"usb":{"whitelist":["0951:1666:0019E06B9C85","0951:1666"]},"dlp":{"sensitive_data_patterns":["^a|b$","(?m)^x$"],` +
				`"zones":{"work":{"users":["anna"],"slices":["work.slice"],"executables":["/usr/bin/firefox","C:\\\\x.exe"]}}}}`, "", ""},
	} {
		got := warn(c.data, c.server)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s from %q:\n%s\nwant %s", c.data, c.server, got, c.want)
		}
	}
	// Each kind is listed a few times, and then counted: a long list does not make an answer of megabytes.
	list := make([]string, 60_000)
	for i := range list {
		list[i] = fmt.Sprintf("%04x:*", i)
	}
	b, _ := json.Marshal(list)
	got := warn(`{"usb":{"whitelist":`+string(b)+`}}`, "")
	if n := len(got); n > 4096 || !strings.Contains(got, "usb.whitelist 59980 more entries: allows a whole vendor") {
		t.Errorf("%d bytes: …%s", n, got[max(0, n-200):])
	}
}

// What can be looked up is matched, even if nobody could register it.
func TestLookedUpNames(t *testing.T) {
	for in, want := range map[string]string{
		"_ldap._tcp.corp.example.com": "_ldap._tcp.corp.example.com", "*._tcp.example.com": "*._tcp.example.com",
		"r3---sn-4g5e6nsz.googlevideo.com": "r3---sn-4g5e6nsz.googlevideo.com", "-a-.example.com": "-a-.example.com",
		"Example.COM.":   "example.com",
		"bücher.example": "xn--bcher-kva.example", "xn--bcher-kva.example": "xn--bcher-kva.example", "xn--a.example": "xn--a.example",
		"i❤.ws": "xn--i-7iq.ws", "straße.de": "xn--strae-oqa.de", "=faß.de": "=xn--fa-hia.de", "例え。テスト": "xn--r8jz45g.xn--zckzah",
		"::ffff:10.0.0.1": "10.0.0.1", "::ffff:10.0.0.0/104": "10.0.0.0/8", "1.0.0.0/8": "1.0.0.0/8", "localhost": "localhost",
	} {
		if n, err := ParseName(in); err != nil || n.String() != want {
			t.Errorf("%q: %v %v, want %s", in, n, err, want)
		}
	}
	for _, in := range []string{"", ".", "a..b", "a b.c", "https://a.b", "a.b:443", "a.b/c", "*.*.a", "a.*.b", "=*.a", "a.b\x00", "a@b.c",
		strings.Repeat("a", 64) + ".b", "a.b..", "user%41.com", "10.0.0.1/8", "fe80::1%eth0"} {
		if n, err := ParseName(in); err == nil {
			t.Errorf("%q is taken for %s", in, n)
		}
	}
}

// Names are shown safely: nothing in them controls a terminal, or reverses the line.
func TestControlCharacters(t *testing.T) {
	for _, field := range []string{"name", "organization_id", "id", "description"} {
		for _, c := range []string{"\u0000", "\u001b[31m", "\u007f", "\u009b31m", "\u202e", "\u2066", "\u2028", "\n", "\t"} {
			b, _ := json.Marshal(map[string]any{field: "a" + c + "b", "policy_data": map[string]any{}})
			_, err := Decode(b, Options{Strict: true})
			if multiline := field == "description" && (c == "\n" || c == "\t"); (err == nil) != multiline {
				t.Errorf("%s with %q: %v", field, c, err)
			}
			if _, err := Decode(b, Options{}); err != nil {
				t.Errorf("a device refuses what an older server has stored: %s with %q: %v", field, c, err)
			}
		}
	}
}

func large(n int) []byte {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%04x:%04x", i/7, i%65536)
		if i%10 == 0 {
			list[i] += fmt.Sprintf(":SERIAL%d", i)
		}
	}
	b, _ := json.Marshal(map[string]any{"policy_data": map[string]any{"usb": map[string]any{"whitelist": list}}})
	return b
}

func BenchmarkDecode10000(b *testing.B) {
	doc := large(10_000)
	for b.Loop() {
		if _, err := Decode(doc, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(seed))
	f.Add([]byte(`{"policy_data":{"usb":{"whitelist":["046d:*",1]}}}`))
	f.Add([]byte(`{"compliance":"warn","policy_data":{"network":{"vpn":{"endpoints":["[::1]:1"]}},` +
		`"dlp":{"zones":{"work":{"users":["a"]}}}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := Decode(in, Options{})
		if err != nil {
			errs, ok := err.(Errors)
			if !ok || len(errs) == 0 {
				t.Fatalf("an error without its list: %v", err)
			}
			if _, jerr := json.Marshal(errs); jerr != nil {
				t.Fatal(jerr)
			}
			return
		}
		if d.Digest != DigestOf(in) {
			t.Fatal("two digests of one document")
		}
		if len(Diff(d, d)) != 0 {
			t.Fatalf("a document differs from itself: %v", Diff(d, d))
		}
		for _, s := range d.Settings() {
			if d.Mode(s) == enforce.Off {
				t.Fatalf("%s is set and has no mode", s)
			}
		}
		// Strict never accepts what lax refuses.
		if s, err := Decode(in, Options{Strict: true}); err == nil && s.Digest != d.Digest {
			t.Fatal("strict and lax disagree")
		}
	})
}
