//go:build cgo && gousb

package usb

import (
	"fmt"
	"sort"

	"github.com/google/gousb"
)

// InventorySource names what the inventory is read with.
const InventorySource = "libusb"

// Inventory lists the devices through libusb. Strings can only be read from devices that can be opened: they are empty
// for an unprivileged caller, or for a device that is not authorised.
func Inventory() ([]Item, error) {
	c := gousb.NewContext()
	defer c.Close()
	var out []Item
	devices, err := c.OpenDevices(func(d *gousb.DeviceDesc) bool {
		out = append(out, itemOf(d))
		return d.Class != gousb.ClassHub
	})
	for _, d := range devices {
		for i := range out {
			if out[i].Bus == d.Desc.Bus && out[i].Address == d.Desc.Address {
				out[i].Maker, _ = d.Manufacturer()
				out[i].Model, _ = d.Product()
				out[i].Serial, _ = d.SerialNumber()
			}
		}
		_ = d.Close()
	}
	if len(out) > 0 {
		err = nil // devices that could not be opened are listed nevertheless
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list USB devices through libusb: %w", err)
	}
	return out, nil
}

// itemOf describes a device by its descriptor.
func itemOf(d *gousb.DeviceDesc) Item {
	it := Item{Bus: d.Bus, Address: d.Address, Vendor: uint16(d.Vendor), Product: uint16(d.Product), Speed: d.Speed.String()}
	seen := map[string]bool{}
	for _, c := range d.Configs {
		for _, i := range c.Interfaces {
			for _, a := range i.AltSettings {
				seen[fmt.Sprintf("%02x", uint8(a.Class))] = true
			}
		}
	}
	for c := range seen {
		it.Classes = append(it.Classes, c)
	}
	sort.Strings(it.Classes)
	return it
}
