package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/warderd/warder/platform/usb"
	"github.com/warderd/warder/platform/volume"
)

// releaser is how the guard empties a disk: in a child of platform/volume.
func releaser(r volume.Releaser, log *slog.Logger) usb.Release {
	return func(ctx context.Context, dir string, step func(string)) (usb.Released, func()) {
		begun := time.Now()
		out, finish := r.Release(ctx, dir, func(s string) {
			log.Debug("emptying a disk", "device", filepath.Base(dir), "step", s, "after", time.Since(begun))
			step(s)
		})
		log.Info("disk emptied", "device", filepath.Base(dir), "took", time.Since(begun), "clean", out.Clean)
		return usb.Released{Forced: out.Forced != "", Note: out.String()}, finish
	}
}
