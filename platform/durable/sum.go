package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Sum is the checksum of a JSON text: SHA-256 in hex, of the text without its spaces. It detects damage; it does not
// prove who wrote it. It is "" for invalid JSON.
func Sum(text []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, text) != nil {
		return ""
	}
	h := sha256.Sum256(compact.Bytes())
	return hex.EncodeToString(h[:])
}
