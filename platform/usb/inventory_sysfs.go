//go:build linux && !(cgo && gousb)

package usb

import (
	"context"
	"fmt"
	"strconv"

	"github.com/warderd/warder/enforce/fact"
)

// InventorySource names what the inventory is read with.
const InventorySource = "sysfs"

// Inventory lists the devices from sysfs.
func Inventory() ([]Item, error) {
	p := &Ports{Root: "/sys"}
	var m fact.Machine
	if err := p.Observe(context.Background(), &m); err != nil {
		return nil, fmt.Errorf("cannot list USB devices: %w", err)
	}
	var out []Item
	for _, u := range m.USB.V {
		d, err := p.open(u.Path)
		if err != nil {
			continue // unplugged meanwhile
		}
		speed, _ := d.text("speed")
		maker, _ := d.text("manufacturer")
		model, _ := d.text("product")
		d.close()
		if _, err := strconv.ParseFloat(speed, 64); err == nil {
			speed += " Mbit/s"
		}
		out = append(out, Item{Bus: u.Bus, Address: u.Number, Vendor: u.Vendor, Product: u.Product,
			Speed: speed, Maker: maker, Model: model, Serial: u.Serial})
	}
	return out, nil
}
