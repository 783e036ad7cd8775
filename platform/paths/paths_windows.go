package paths

import (
	"os"
	"path/filepath"
)

var system = func() Paths {
	data := os.Getenv("ProgramData")
	if data == "" {
		data = `C:\ProgramData`
	}
	d := filepath.Join(data, "Warder")
	return Paths{State: d, Run: filepath.Join(d, "run"), Config: d}
}()
