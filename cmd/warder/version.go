package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/usb"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			a.screen(cmd).printf("warder %s (%s/%s, %s, inventory by %s)\n", version, runtime.GOOS, runtime.GOARCH, runtime.Version(), usb.InventorySource)
		},
	}
}
