package service

import (
	"strings"

	"github.com/warderd/warder/platform/durable"
)

// earlyPath is the path of the early start's unit if no package brought it.
const earlyPath = "/etc/systemd/system/warder-early.service"

// installEarly installs the early start's unit beside the agent's, which wants it.
func installEarly(exe string) error {
	if !systemd() {
		return nil
	}
	// As systemd quotes a command (systemd.service(5)); checkExecutable refuses unusual characters.
	quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(exe) + `"`
	return durable.Write(earlyPath, []byte(strings.ReplaceAll(EarlyUnit, "{{Path | cmdEscape}}", quoted)), 0o644)
}

func removeEarly() error { return durable.Remove(earlyPath) }
