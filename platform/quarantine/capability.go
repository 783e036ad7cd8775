package quarantine

import (
	"context"
	"os"

	"github.com/warderd/warder/platform"
)

// Capability lends the store to the capabilities that take files.
func Capability(h platform.Host) platform.Capability {
	s := Open(h.Quarantine, Default)
	return platform.Capability{
		Name: "quarantine", Start: s.Sweep,
		Provides: []platform.Port{platform.Lend(platform.PortKeep, platform.KeepFile(s.keep))},
	}
}

// keep keeps a file for another capability.
func (s *Store) keep(ctx context.Context, f *os.File, about func() platform.Kept, undisturbed func() bool) (string, func(), error) {
	x, err := s.Keep(ctx, f, func(x *Item) error {
		k := about()
		x.Path, x.Place, x.Setting, x.Reason = k.Path, k.Place, string(k.Setting), k.Reason
		return describe(f, x)
	}, undisturbed)
	if err != nil {
		return "", nil, err
	}
	return x.ID, func() { _ = s.Purge(x.ID) }, nil
}
