package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// digest is SHA-256 over policy_data and the modes as received, each followed by a newline; an absent part is empty. It
// is never computed from re-encoded data: otherwise an agent that does not know a setting would always differ from its
// server. A rename does not change the digest.
func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
		h.Write([]byte{'\n'})
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// DigestOf is the digest of a policy object that may not decode: a device uses it to name what it refused. It is empty
// if the bytes are not an object.
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
