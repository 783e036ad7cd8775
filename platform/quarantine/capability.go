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
		Name: "quarantine", Start: func() {
			s.Sweep()
			_ = s.tidy() // otherwise something is kept twice
		},
		Provides: []platform.Port{platform.Lend(platform.PortKeep, platform.KeepFile(s.keep)), platform.Lend(platform.PortKeepData, platform.KeepData(s.keepData)),
			platform.Lend(platform.PortExpire, platform.Expire(s.Expire))},
	}
}

// keep keeps a file for another capability.
func (s *Store) keep(ctx context.Context, f *os.File, about func() platform.Kept, undisturbed func() bool) (string, func(), error) {
	id, drop, _, err := s.keepFor(ctx, f, about, undisturbed, false)
	return id, drop, err
}

// keepData keeps one that has sensitive data.
func (s *Store) keepData(ctx context.Context, f *os.File, about func() platform.Kept, undisturbed func() bool) (id string, drop, done func(), err error) {
	return s.keepFor(ctx, f, about, undisturbed, true)
}

func (s *Store) keepFor(ctx context.Context, f *os.File, about func() platform.Kept, undisturbed func() bool, data bool) (id string, drop, done func(), err error) {
	x, err := s.put(ctx, f, func(x *Item) error {
		k := about()
		x.Path, x.Place, x.Setting, x.Reason = k.Path, k.Place, string(k.Setting), k.Reason
		return describe(f, x)
	}, undisturbed, data)
	if err != nil {
		return "", nil, nil, err
	}
	return x.ID, func() { _ = s.Purge(x.ID) }, func() { _ = s.tidy() }, nil
}
