package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/usb"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs, Example: "  warder version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version   string `json:"version"`
				System    string `json:"system"`
				Go        string `json:"go"`
				Inventory string `json:"inventory"`
			}{version, runtime.GOOS + "/" + runtime.GOARCH, runtime.Version(), usb.InventorySource}
			return a.say(cmd, v, "warder %s (%s, %s, USB inventory by %s)\n", v.Version, v.System, v.Go, v.Inventory)
		},
	}
}
