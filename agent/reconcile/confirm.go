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

func (p Proof) String() string {
	return [...]string{Unprovable: "unprovable", Proved: "proved", Refuted: "refuted"}[p%3]
}

// Prover asks it.
type Prover func(context.Context) Proof

// Verdict of a confirmation: only Refuted reverts, and that serial is not tried again.
type Confirmation struct {
	Proof  Proof
	Revert bool
}

// Confirm asks the prover once the policy is applied.
func Confirm(ctx context.Context, ask Prover) Confirmation {
	p := ask(ctx)
	return Confirmation{Proof: p, Revert: p == Refuted}
}

// Probes builds a prover of two probes: governed goes the way every program of this machine goes,
// exempt the way that our own rules always let pass.
func Probes(governed, exempt func(context.Context) error) Prover {
	return func(ctx context.Context) Proof {
		if governed(ctx) == nil {
			return Proved
		}
		if exempt(ctx) == nil {
			// Once more: the server may have come back between the two.
			if governed(ctx) == nil {
				return Proved
			}
			return Refuted
		}
		return Unprovable
	}
}
