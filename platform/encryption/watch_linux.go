package encryption

import (
	"context"

	"github.com/warderd/warder/platform/mountinfo"
)

// Watch reports mounts, unmounts and changed swaps until ctx ends. Changes beneath a mount (a table of device-mapper, a leg of a
// mirror) give no such signal, and are found by the regular look.
func (r *Reader) Watch(ctx context.Context, changed func()) error {
	return mountinfo.Watch(ctx, changed, r.Proc+"/self/mountinfo", r.Proc+"/swaps")
}
