package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/volume"
)

// releaseDisk is the child in which the agent empties a disk; nobody calls it by hand.
func (a *app) releaseDisk() *cobra.Command {
	return &cobra.Command{
		Use: "release-disk DIR", Short: "Empty the disks of a device (the agent does)", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error { return volume.Main(args[0], os.Stdin, os.Stdout) },
	}
}
