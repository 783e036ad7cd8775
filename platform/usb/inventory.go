package usb

// Item is one device of an inventory, whatever it was read with.
type Item struct {
	Bus     int      `json:"bus"`
	Address int      `json:"address"`
	Vendor  uint16   `json:"vendor"`
	Product uint16   `json:"product"`
	Speed   string   `json:"speed"` // low, full, high, super, or what the source calls it
	Maker   string   `json:"maker,omitempty"`
	Model   string   `json:"model,omitempty"`
	Serial  string   `json:"serial,omitempty"`
	Classes []string `json:"classes,omitempty"`
}
