package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// digest is SHA-256 over policy_data and the modes as received, each followed by a newline; an
// absent part is empty. It is never taken from a re-encoding: an agent that does not know a
// setting must not differ from its server for ever. A rename changes no digest.
func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
		h.Write([]byte{'\n'})
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// DigestOf is the digest of a policy object that need not decode: a device names with it what it
// refused. It is empty where the bytes are not even an object.
func DigestOf(data []byte) string {
	var raw struct {
		Data    json.RawMessage `json:"policy_data"`
		Mode    json.RawMessage `json:"compliance"`
		Section json.RawMessage `json:"section_compliance"`
	}
	if json.Unmarshal(data, &raw) != nil {
		return ""
	}
	return digest(raw.Data, raw.Mode, raw.Section)
}
