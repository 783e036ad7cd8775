package reconcile

import "context"

// Proof is the answer to: can this machine still be managed under the policy just applied?
type Proof uint8

const (
	// Unprovable: no link, or the server is down. The policy stays, unconfirmed: cutting the Wi-Fi
	// must not be a way around a policy.
	Unprovable Proof = iota
	// Proved: a check-in passed.
	Proved
	// Refuted: a probe that our own rules exempt passes and the governed one fails.
	Refuted
)

// Probe asks by two probes: governed goes the way every program of this machine goes, exempt the way that
// our own rules always let pass.
func Probe(ctx context.Context, governed, exempt func(context.Context) error) Proof {
	if governed(ctx) == nil {
		return Proved
	}
	if exempt(ctx) != nil {
		return Unprovable
	}
	// Once more: the server may have come back between the two.
	if governed(ctx) == nil {
		return Proved
	}
	return Refuted
}
