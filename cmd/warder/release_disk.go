package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/volume"
)

// releaseDisk is the child process in which the agent empties a disk. People do not call it.
func (a *app) releaseDisk() *cobra.Command {
	return &cobra.Command{
		Use: "release-disk DIR", Short: "Empty the disks of a device (the agent does)", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error { return volume.Main(args[0], os.Stdin, os.Stdout) },
	}
}
