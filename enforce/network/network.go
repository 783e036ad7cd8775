// Package network decides the section "network". In this version no back end supports any of its settings: each one
// that a policy manages is reported as unsupported, with that reason. It is pure.
package network

import (
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Section answers for every managed setting of "network".
var Section = section.Section{Name: "network", Settings: policy.Section("network"), Decide: section.AllNotYet("network")}
