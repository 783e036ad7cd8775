// Command warder-server is the policy server that agents check in with. It holds flags; the server
// is in sync/server.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/usage"
)

// version is set by the build.
var version = "dev"

func main() {
	root := &cobra.Command{
		Use: "warder-server", Short: "The policy server for Warder", Version: version,
		Example:      "  warder-server serve --data /var/lib/warder-server\n  warder-server token create --data /var/lib/warder-server --role admin",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serve(), token(), enrollment(), keys(), backup(), restore())
	root.CompletionOptions.HiddenDefaultCmd = true
	usage.Mark(root)
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "warder-server:", err)
		if usage.Is(err) {
			os.Exit(usage.Exit)
		}
		os.Exit(1)
	}
}
