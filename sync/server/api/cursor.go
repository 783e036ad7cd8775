package api

import (
	"encoding/base64"
	"encoding/json"
	"math"

	"github.com/warderd/warder/sync/server/roster"
)

// A cursor is a position in a list, for reading on: unlike a page number, it stays valid while the list changes. It is
// opaque to callers: its contents may change.

// cursorOf encodes a position for an answer.
func cursorOf(m roster.Mark) string {
	b, _ := json.Marshal(m)
	return base64.RawURLEncoding.EncodeToString(b)
}

// cursor decodes the one in a request; the zero position if there is none. of is the order that it has to belong to.
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
