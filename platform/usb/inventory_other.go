//go:build !linux && !(cgo && gousb)

package usb

// InventorySource names what the inventory is read with.
const InventorySource = "none"

// Inventory needs libusb on this system, and this build has none.
func Inventory() ([]Item, error) { return nil, unsupported }
