package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// No way of printing or encoding a secret shows its value.
func TestNothingShowsASecret(t *testing.T) {
	type secrets struct {
		Token Text
		Proxy URL
		Inner struct{ Key *Text }
	}
	key := Text("hunter2")
	h := secrets{Token: "hunter2", Proxy: "http://ann:hunter2@proxy.example.com:3128"}
	h.Inner.Key = &key
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("x", "token", h.Token, "proxy", h.Proxy, "all", h)
	}
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{log.String(), string(b), fmt.Sprint(h),
		fmt.Sprintf("%v %+v %#v %s %q %x", h, h, h, h.Token, h.Proxy, h.Token),
		fmt.Sprintf("%d %x %X %v", h.Token, h.Proxy, h.Token, &h.Proxy), fmt.Errorf("x: %v", h.Proxy).Error()} {
		if strings.Contains(out, "hunter2") || strings.Contains(out, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("%q shows it", out)
		}
	}
	if !strings.Contains(string(b), "proxy.example.com:3128") {
		t.Errorf("%s does not show which proxy", b)
	}
	if h.Token.Reveal() != "hunter2" || !strings.Contains(h.Proxy.Reveal(), "hunter2") {
		t.Error("Reveal does not reveal")
	}
}

func TestParseProxy(t *testing.T) {
	for raw, want := range map[string]string{
		"http://p:3128": "", "https://u:secret@p": "", "socks5://p:1080": "",
		"p:3128": "scheme", "http://u:sec ret@p:1": "cannot be read", "http://u:secret@": "no host", "ftp://u:secret@p": "scheme",
		"http://u:secret@p:99999999999x": "cannot be read", "http://u:secret": "cannot be read", "u:secret@p": "",
		"http://" + strings.Repeat("x", 3000): "at most",
	} {
		_, err := ParseProxy(raw)
		if raw == "u:secret@p" {
			want = "scheme"
		}
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") ||
			strings.Contains(err.Error(), "sec ret")) {
			t.Errorf("%.40q: %v, want %q", raw, err, want)
		}
	}
}

func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		`proxyconnect: invalid proxy address "http://ann:hunter2@p:1": port`: `proxyconnect: invalid proxy address "http://***@p:1": port`,
		"http://a:b@c@p/x and https://d:e@q":                                 "http://***@p/x and https://***@q",
		"no address, ann@example.com":                                        "no address, ann@example.com",
		"https://policy.example.com/x":                                       "https://policy.example.com/x",
		"ends with ://":                                                      "ends with ://",
	} {
		if got := Scrub(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("http://ann:hunter2@p:1")
	f.Fuzz(func(t *testing.T, in string) {
		if got := Scrub(in); len(got) > len(in)+3*(strings.Count(in, "://")+1) {
			t.Fatalf("%q grew to %q", in, got)
		}
		_, _ = ParseProxy(in)
		_ = Redact(in)
	})
}
