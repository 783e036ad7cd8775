package volume

import (
	"context"
	"path/filepath"
	"time"

	"github.com/warderd/warder/platform"
)

const name = "volume"

// Capability provides the emptying of disks to capabilities that take devices away. It claims no setting.
func Capability(h platform.Host) platform.Capability {
	s := newStarter(h)
	if h.Early != nil {
		return platform.Capability{
			Name: name, Early: true, Observers: []platform.Observer{s},
			Provides: []platform.Port{
				platform.Lend[platform.ReleaseDisks](platform.PortRelease, drop),
				platform.Lend[platform.CarriesSystem](platform.PortCarries, s.Carries),
			},
		}
	}
	return platform.Capability{
		Name: name, Early: true, Note: s.Note,
		Provides: []platform.Port{
			platform.Lend(platform.PortRelease, Releaser{Keep: h.Run}.lend(h)),
			platform.Lend[platform.CarriesSystem](platform.PortCarries, Carries),
		},
		Start: func() { Resume(h.Run) },
	}
}

// lend is Release in the form that others use.
func (r Releaser) lend(h platform.Host) platform.ReleaseDisks {
	return func(ctx context.Context, dir string, step func(string)) (platform.Released, func()) {
		begun := time.Now()
		out, finish := r.Release(ctx, dir, func(s string) {
			h.Log.Debug("emptying a disk", "device", filepath.Base(dir), "step", s, "after", time.Since(begun))
			step(s)
		})
		h.Log.Info("disk emptied", "device", filepath.Base(dir), "took", time.Since(begun), "clean", out.Clean)
		return platform.Released{Forced: out.Forced != "", Note: out.String()}, finish
	}
}
