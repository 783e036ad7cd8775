package agent

import (
	"fmt"
	"sync/atomic"

	"github.com/warderd/warder/enforce"
)

// gate checks every write of every back end. Below enforce mode, only a return to the baseline may pass. It counts what
// it refuses; a refusal means that a plan was wrong.
type gate struct {
	passed, refused atomic.Int64
	rests           func(enforce.Key) bool // contended resources
}

// pass reports whether a change may be made, as an error if not.
func (g *gate) pass(c enforce.Change) error {
	if !c.Baseline && g.rests != nil && g.rests(c.Key) {
		return enforce.ErrContended // loop and guards leave it alone
	}
	if c.Mode == enforce.Enforce || c.Baseline {
		g.passed.Add(1)
		return nil
	}
	g.refused.Add(1)
	return fmt.Errorf("%s is not written: the setting that asks is in %s mode", c.Key, c.Mode)
}
