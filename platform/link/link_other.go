//go:build !linux

package link

import "context"

// Watch has no notice here; check-ins run on their interval and back-off alone.
func Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }
