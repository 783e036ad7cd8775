package agent

import (
	"context"

	"github.com/warderd/warder/platform/usb"
	"github.com/warderd/warder/platform/volume"
)

// releaser is how the guard empties a disk: in a child of platform/volume.
func releaser(r volume.Releaser) usb.Release {
	return func(ctx context.Context, dir string, step func(string)) (usb.Released, func()) {
		out, finish := r.Release(ctx, dir, step)
		return usb.Released{Forced: out.Forced != "", Note: out.String()}, finish
	}
}
