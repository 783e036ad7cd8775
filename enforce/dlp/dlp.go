// Package dlp decides the section "dlp". In this version no back end supports any of its settings: each one that a
// policy manages is reported as unsupported, with that reason. It is pure.
package dlp

import (
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Section answers for every managed setting of "dlp".
var Section = section.Section{Name: "dlp", Settings: policy.Section("dlp"), Decide: section.AllNotYet("dlp")}
