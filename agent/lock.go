package agent

import (
	"fmt"
	"path/filepath"

	"github.com/warderd/warder/platform/paths"
)

// lock prevents two agents on one machine, which would undo each other's changes. The kernel releases it when the
// process ends in any way.
func (a *Agent) lock() (unlock func(), err error) {
	unlock, err = paths.Lock(filepath.Join(a.o.Paths.Run, "lock"))
	if err != nil {
		return nil, fmt.Errorf("another agent runs on this machine: %w", err)
	}
	return unlock, nil
}
