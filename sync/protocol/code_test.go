package protocol

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCode(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 34, 0, 0, time.UTC)
	secret, other := CodeSecret([]byte("master"), "device-1"), CodeSecret([]byte("master"), "device-2")
	const stick = "0951:1666:0019e06B"
	text, err := NewCode(secret, "device-1", stick, 90*time.Minute, now)
	if err != nil || len(text) != 31 || strings.Count(text, "-") != 5 {
		t.Fatalf("%q %v", text, err)
	}
	c, err := ParseCode(strings.ToLower(strings.ReplaceAll(text, "-", "")))
	if err != nil || c.Length != 90*time.Minute || c.ID == "" {
		t.Fatalf("%+v %v", c, err)
	}
	if err := c.Verify(secret, "device-1", stick, now.Add(23*time.Hour)); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another device": c.Verify(other, "device-2", stick, now), "another stick": c.Verify(secret, "device-1", "0951:1666:0019E06B", now),
		"without the serial": c.Verify(secret, "device-1", "0951:1666", now), "no secret": c.Verify(nil, "device-1", stick, now),
	} {
		if !errors.Is(err, ErrCodeWrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, at := range []time.Time{now.Add(26 * time.Hour), now.Add(-26 * time.Hour)} {
		if err := c.Verify(secret, "device-1", stick, at); !errors.Is(err, ErrCodeOld) {
			t.Errorf("at %s: %v", at, err)
		}
	}
	// Every single letter counts.
	for i := range text {
		if text[i] == '-' {
			continue
		}
		wrong := []byte(text)
		wrong[i] = 'A' + (wrong[i]-'A'+1)%26
		if c, err := ParseCode(string(wrong)); err == nil && c.Verify(secret, "device-1", stick, now) == nil {
			t.Errorf("%s passes for %s", wrong, text)
		}
	}
	for _, length := range []time.Duration{0, 30 * time.Second, -time.Hour, MaxException + time.Minute} {
		if _, err := NewCode(secret, "d", stick, length, now); err == nil {
			t.Errorf("an exception for %s", length)
		}
	}
}

func FuzzParseCode(f *testing.F) {
	secret := CodeSecret([]byte("m"), "d")
	good, _ := NewCode(secret, "d", "0951:1666", time.Hour, time.Now())
	f.Add(good)
	f.Add("AAAAA-BBBBB")
	f.Add("0O1I8B")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCode(text)
		if err != nil {
			return
		}
		if c.Length < 0 || c.Length > 1<<16*time.Minute || c.ID == "" {
			t.Fatalf("%q: %+v", text, c)
		}
		if c.Verify(secret, "other", "0951:1666", time.Now()) == nil {
			t.Fatalf("%q passes for another device", text)
		}
	})
}

// A code with a wrong letter is refused with that letter; one that is too short, with its length.
func TestMistypedCode(t *testing.T) {
	for text, want := range map[string]string{
		"ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-Z":      "no code ends in Z",
		"ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-":       "must have 26 letters and digits, hyphens and spaces aside (received 25)",
		"ABCDE-FGHIJ-KLMNO-PQRST-UVWX9-A":      `there is no '9' in a code`,
		"ABCDE-FGHIJ-KLMNO-PQRST-UVWX\u00e4-A": `there is no 'Ä' in a code`,
	} {
		if _, err := ParseCode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := ParseCode("abcde fghij klmno pqrst uvwxy a"); err != nil {
		t.Errorf("as a person types it: %v", err)
	}
}
