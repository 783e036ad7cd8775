package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"sync"
)

// ResolverPort is where our own resolver listens, on every address of this machine and for this machine alone. It is
// privileged, so that nobody but root can take its place (unless net.ipv4.ip_unprivileged_port_start was lowered), and it is
// not 53, so that another resolver on this machine is not in the way.
const ResolverPort = 353

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
