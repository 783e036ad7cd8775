package protocol

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// An exception code is what support reads out to a person whose machine is offline: "this stick, on this device, for so
// many minutes". It is made with a secret that the device received at enrollment. It does not name its subject: the
// device tries it on everything that is plugged in and refused.
//
//	minutes u16 | hour of issue u24, since 2020 | nonce u16 | the first 9 bytes of HMAC-SHA256
//
// in base32 (RFC 4648), in groups of five characters. The HMAC is over the device, the subject and the seven bytes
// before it.
const (
	codeHead    = 7
	codeMAC     = 9
	codeLetters = 26 // 16 bytes in base32
	// CodeLife is how long after its issue a code can be redeemed, by the device's clock; also how long before, for a
	// clock that is behind.
	CodeLife = 24 * time.Hour
	// MaxException is the longest time that an exception may last.
	MaxException = 30 * 24 * time.Hour
)

var (
	codeEpoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	codeText  = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// Why a code is refused.
var (
	ErrCodeForm  = errors.New("the code must have 26 letters and digits")
	ErrCodeTyped = errors.New("the code was misheard or mistyped")
	ErrCodeWrong = errors.New("the code is not for this device and what was named or is refused here")
	ErrCodeOld   = errors.New("the code was not issued within the last day")
)

// codeSum is the HMAC of a code, cut to its length.
func codeSum(secret []byte, device, subject string, head []byte) []byte {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "warder-exception\n%s\n%s\n", device, subject)
	h.Write(head)
	return h.Sum(nil)[:codeMAC]
}

// NewCode makes a code for a subject (CodeSubject), in whole minutes.
func NewCode(secret []byte, device, subject string, length time.Duration, now time.Time) (string, error) {
	minutes := int(length / time.Minute)
	if minutes < 1 || length > MaxException {
		return "", fmt.Errorf("an exception lasts from a minute to %s", MaxException)
	}
	head := make([]byte, codeHead)
	binary.BigEndian.PutUint16(head, uint16(minutes))
	hours := uint32(now.Sub(codeEpoch) / time.Hour)
	head[2], head[3], head[4] = byte(hours>>16), byte(hours>>8), byte(hours)
	if _, err := rand.Read(head[5:]); err != nil {
		return "", err
	}
	text := codeText.EncodeToString(append(head, codeSum(secret, device, subject, head)...))
	var groups []string
	for len(text) > 5 {
		groups, text = append(groups, text[:5]), text[5:]
	}
	return strings.Join(append(groups, text), "-"), nil
}

// Code is a code as read, before it is verified.
type Code struct {
	Length time.Duration
	Issued time.Time
	ID     string // the same each time this code is read
	head   []byte
	sum    []byte
}

// ParseCode reads a code as a person typed it.
func ParseCode(text string) (Code, error) {
	if len(text) > 100 {
		return Code{}, fmt.Errorf("%w, hyphens and spaces aside (received %d)", ErrCodeForm, len(text))
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == ' ':
			return -1
		case r == '0': // not in the alphabet: a 0 is an O
			return 'O'
		case r == '1':
			return 'I'
		case r == '8':
			return 'B'
		}
		return r
	}, strings.ToUpper(text))
	if n := utf8.RuneCountInString(text); n != codeLetters {
		return Code{}, fmt.Errorf("%w, hyphens and spaces aside (received %d)", ErrCodeForm, n)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r > 'Z' || r < 'A' && (r < '2' || r > '7') }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		return Code{}, fmt.Errorf("%w: there is no %q in a code", ErrCodeTyped, r)
	}
	b, err := codeText.DecodeString(text)
	if err != nil || codeText.EncodeToString(b) != text { // 26 letters have two bits to spare, which are 0
		return Code{}, fmt.Errorf("%w: no code ends in %c", ErrCodeTyped, text[len(text)-1])
	}
	hours := int(b[2])<<16 | int(b[3])<<8 | int(b[4])
	return Code{Length: time.Duration(binary.BigEndian.Uint16(b)) * time.Minute, Issued: codeEpoch.Add(time.Duration(hours) * time.Hour),
		ID: "code-" + strings.ToLower(codeText.EncodeToString(b[2:codeHead])), head: b[:codeHead], sum: b[codeHead:]}, nil
}

// Verify checks that a code was made for a device and a subject, and recently.
func (c Code) Verify(secret []byte, device, subject string, now time.Time) error {
	if len(secret) == 0 || !hmac.Equal(c.sum, codeSum(secret, device, subject, c.head)) {
		return ErrCodeWrong
	}
	if d := now.Sub(c.Issued); d < -CodeLife || d > CodeLife+time.Hour {
		return ErrCodeOld
	}
	return nil
}

// CodeSecret derives a device's secret from the server's.
func CodeSecret(master []byte, device string) []byte {
	h := hmac.New(sha256.New, master)
	h.Write([]byte("warder-code-secret\n" + device))
	return h.Sum(nil)
}
