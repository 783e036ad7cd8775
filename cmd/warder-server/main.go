// Command warder-server is the policy server that agents check in with. It holds flags; the server
// is in sync/server.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
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
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "warder-server:", err)
		os.Exit(1)
	}
}
