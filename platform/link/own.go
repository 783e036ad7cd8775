package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"sync"
)

// Where our own resolver listens. The port is privileged, so that nobody but root can take its place, and it is not 53, so
// that another resolver on this machine is not in the way.
var (
	Resolver4 = netip.MustParseAddrPort("127.0.0.83:353")
	Resolver6 = netip.MustParseAddrPort("[::1]:353")
)

// ProofDomain ends the names by which the firewall finds out whether questions reach our resolver. No network answers
// below "invalid" (RFC 2606).
const ProofDomain = ".proof.warder.invalid."

// secret is known to this process alone.
var secret = sync.OnceValue(func() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return b
})

// ProofText is the answer that only this process can give for such a name, while it judges by these lists.
func ProofText(name, lists string) string {
	m := hmac.New(sha256.New, secret())
	m.Write([]byte(name + " " + lists))
	return hex.EncodeToString(m.Sum(nil)[:16])
}
