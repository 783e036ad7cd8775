package agent

import (
	"fmt"
	"sync/atomic"

	"github.com/warderd/warder/enforce"
)

// gate stands before every write of every back end. Below enforce only a return to the baseline
// passes; what it refuses it counts, and a refusal is a mistake in a plan.
type gate struct {
	passed, refused atomic.Int64
	rests           func(enforce.Key) bool // contended resources
}

func (g *gate) pass(c enforce.Change) error {
	if !c.Baseline && g.rests != nil && g.rests(c.Key) {
		return enforce.ErrContended // the loop leaves it alone, and a guard does, too
	}
	if c.Mode == enforce.Enforce || c.Baseline {
		g.passed.Add(1)
		return nil
	}
	g.refused.Add(1)
	return fmt.Errorf("%s is not written: the setting that asks is in %s mode", c.Key, c.Mode)
}
