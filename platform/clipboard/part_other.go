//go:build !linux

package clipboard

import (
	"context"
	"encoding/json"
)

// Part does nothing on this system.
type Part struct {
	Decode        func(json.RawMessage) (Rules, error)
	Type, Display string
	Self          uint32
	Look          func(context.Context, *Copied) (Judged, error)
}

// Run waits for the end.
func (p *Part) Run(ctx context.Context, _ func()) { <-ctx.Done() }

// Load takes no rules.
func (p *Part) Load(json.RawMessage) {}

// State says that nothing is kept.
func (p *Part) State() json.RawMessage { return json.RawMessage(`{"kept":false}`) }
