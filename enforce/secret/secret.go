// Package secret has the types of values that must not be shown: printing, logging or encoding them gives "***". Only
// Reveal returns the value, so that every use can be found. The package also removes passwords from texts. It stores
// nothing.
package secret

import (
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

const stars = "***"

// Text is entirely secret: a token, a key.
type Text string

// Reveal returns the value.
func (t Text) Reveal() string { return string(t) }

// String hides the value; an empty one is shown as empty.
func (t Text) String() string {
	if t == "" {
		return ""
	}
	return stars
}

// Format hides the value from every verb of fmt.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue hides the value from log/slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the value from every encoder.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText stores the value.
func (t *Text) UnmarshalText(b []byte) error {
	*t = Text(b)
	return nil
}

// URL is an address that may contain a password. Everything but the password is shown.
type URL string

// maxURL bounds an address.
const maxURL = 2048

// ParseProxy checks the address of a proxy. Its errors contain no password.
func ParseProxy(raw string) (URL, error) {
	// The input is not repeated: if an address cannot be read, nobody knows which part of it is secret.
	bad := func(why string) (URL, error) {
		return "",
			fmt.Errorf("must be a URL like http://proxy.example.com:3128 (%s; %d bytes were received, which may contain a password and "+
				"are not shown)", why, len(raw))
	}
	if len(raw) > maxURL {
		return "", fmt.Errorf("must have at most %d bytes (received %d)", maxURL, len(raw))
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return bad("it cannot be read")
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" && u.Scheme != "socks5h":
		return bad("the scheme is not http, https or socks5")
	case u.Hostname() == "":
		return bad("it names no host")
	}
	return URL(raw), nil
}

// Reveal returns the value, with the password.
func (u URL) Reveal() string { return string(u) }

// String shows the address without its password.
func (u URL) String() string { return Redact(string(u)) }

// Format hides the password from every verb of fmt.
func (u URL) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(u.String())) }

// LogValue hides the password from log/slog.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText hides the password from every encoder.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads the address of a proxy; "" is none.
func (u *URL) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*u = ""
		return nil
	}
	v, err := ParseProxy(string(b))
	if err != nil {
		return err
	}
	*u = v
	return nil
}

// Redact hides user and password of one address, which may be malformed: everything from the scheme to the last @
// before the path.
func Redact(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		if i := strings.LastIndex(address, "@"); i >= 0 {
			return stars + address[i:]
		}
		return address
	}
	i := strings.LastIndex(rest, "@")
	if i < 0 {
		return address
	}
	return scheme + "://" + stars + rest[i:]
}

// Scrub hides the passwords of all addresses in a text, such as a library's error that repeats one.
func Scrub(text string) string {
	if !strings.Contains(text, "@") || !strings.Contains(text, "://") {
		return text
	}
	var out strings.Builder
	for {
		i := strings.Index(text, "://")
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		out.WriteString(text[:i+3])
		text = text[i+3:]
		end := strings.IndexAny(text, " \t\n\"'<>")
		if end < 0 {
			end = len(text)
		}
		if at := strings.LastIndex(text[:end], "@"); at >= 0 {
			out.WriteString(stars)
			text = text[at:]
		}
	}
}
