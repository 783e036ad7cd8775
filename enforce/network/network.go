// Package network decides the section "network": which names and addresses may be reached. It is pure: the lists of a
// policy are compiled into Rules once, and Judge then answers for a name in some hundred nanoseconds, without allocating.
// The policy server, and what time and certificates need, can always be reached (essential.go). In this version no back
// end supports any of its settings: each one that a policy manages is reported as unsupported, with that reason, and
// rules are at most in monitor mode, for questions.
package network

import (
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Section answers for every managed setting of "network".
var Section = section.Section{Name: "network", Settings: policy.Section("network"), Decide: section.AllNotYet("network"),
	Compile: func(d *policy.Document, m *fact.Machine) section.Rules { return Compile(d, m) }}
