package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/usb"
)

func (a *app) usb() *cobra.Command {
	return &cobra.Command{
		Use: "usb", Short: "List the USB devices of this machine", Args: cobra.NoArgs, Example: "  sudo warder usb",
		Long: "Lists devices with the strings and speeds that " + usb.InventorySource + " gives.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []usb.Item
			if err := a.client().Do(cmd.Context(), "GET", "/v1/inventory/usb", nil, &list); err != nil {
				return fmt.Errorf("cannot list USB devices: %w", err)
			}
			if a.JSON() {
				return a.screen(cmd).JSON(list, true)
			}
			for _, i := range list {
				a.screen(cmd).Printf("%03d:%03d  %04x:%04x  %-10s %s %s\n", i.Bus, i.Address, i.Vendor, i.Product, i.Speed,
					strings.TrimSpace(i.Maker+" "+i.Model), i.Serial)
			}
			if len(list) == 0 {
				a.screen(cmd).Printf("No USB devices.\n")
			}
			return nil
		},
	}
}
