package agent

import (
	"fmt"
	"path/filepath"

	"github.com/warderd/warder/platform/paths"
)

// lock keeps a second agent from the same machine: two would undo each other. It ends with the
// process, however that ends.
func (a *Agent) lock() (unlock func(), err error) {
	unlock, err = paths.Lock(filepath.Join(a.o.Paths.Run, "lock"))
	if err != nil {
		return nil, fmt.Errorf("another agent runs on this machine: %w", err)
	}
	return unlock, nil
}
