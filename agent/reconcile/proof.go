package reconcile

import "context"

// Proof answers whether this machine can still be managed under the policy just applied.
type Proof uint8

const (
	// Unprovable: there is no link, or the server is down. The policy stays, unconfirmed: switching the Wi-Fi off must
	// not be a way around a policy.
	Unprovable Proof = iota
	// Proved: a check-in passed.
	Proved
	// Refuted: the probe that our own rules exempt passes, and the governed one fails.
	Refuted
)

// Probe compares two probes: governed takes the path of every program on this machine, exempt the path that our own
// rules always allow.
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
