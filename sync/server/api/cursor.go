package api

import (
	"encoding/base64"
	"encoding/json"
	"math"

	"github.com/warderd/warder/sync/server/roster"
)

// A cursor is a place in a list, for who reads it on: unlike a page's number it stays right while the list changes.
// It is opaque to callers: what it holds may change.

// cursorOf writes a place as it stands in an answer.
func cursorOf(m roster.Mark) string {
	b, _ := json.Marshal(m)
	return base64.RawURLEncoding.EncodeToString(b)
}

// cursor reads the one of a request; the zero place where there is none. of is the order that it must be a place in.
func (q *request) cursor(of string) (m roster.Mark, err error) {
	text := q.params.Get("cursor")
	if text == "" {
		return m, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.N < 1 || m.N == math.MaxInt64 || m.Sort != of {
		return m, badCursor(text)
	}
	return m, nil
}
