package main

import (
	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/media"
)

// externalDisks is the child process that loads the programs for external disks. People do not call it.
func (a *app) externalDisks() *cobra.Command {
	return &cobra.Command{
		Use: "external-disks load|try|prove SET [BYTES]", Short: "Load the programs for external disks (the agent does)", Args: cobra.RangeArgs(2, 3), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error { return media.Main(args...) },
	}
}
