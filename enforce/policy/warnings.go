package policy

import "fmt"

// Warning is what is legal and probably not meant.
type Warning struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Warnings reads a valid document with an administrator's eyes. server is the host name that
// devices reach the policy server by, or "".
func Warnings(d *Document, server string) []Warning {
	var out []Warning
	add := func(field, format string, args ...any) {
		out = append(out, Warning{field, fmt.Sprintf(format, args...)})
	}
	n := d.Network
	if n.VPNAlwaysOn.Or(false) && len(n.VPN.V.Endpoints) == 0 {
		add("network.vpn_always_on", "names no endpoint in network.vpn.endpoints: devices that cannot learn one from their VPN report it unsupported and stay open")
	}
	if server != "" && n.BlockedDomains.Set {
		if best, blocked := longest(n.BlockedDomains.V, server), longest(n.AllowedDomains.V, server); best > 0 && best >= blocked {
			add("network.blocked_domains", "covers this policy server (%s), which stays reachable all the same", server)
		}
	}
	for i, e := range d.USB.Whitelist.V {
		if e.AnyProduct {
			add(fmt.Sprintf("usb.whitelist[%d]", i), "allows every device that claims vendor %04x; vendor and product can be forged", e.Vendor)
		}
	}
	if d.USB.AuditOnly.Or(false) {
		add("usb.audit_only", "puts the usb section in monitor mode: nothing is refused")
	}
	if d.USB.Allowed.Set && !d.USB.Allowed.V && !d.USB.Whitelist.Set && !d.USB.AllowedClasses.Set {
		add("usb.allowed", "refuses every USB device but hubs and guarded inputs; name keyboards and pointers in usb.allowed_classes")
	}
	if d.USB.Allowed.Set && d.USB.AllowedClasses.Set {
		add("usb.allowed", "is not reached: usb.allowed_classes decides both ways")
	}
	if d.Storage.ExternalStorageAllowed.Set && !d.Storage.ExternalStorageAllowed.V {
		for i, e := range d.USB.Whitelist.V {
			if e.Serial == "" {
				add(fmt.Sprintf("usb.whitelist[%d]", i), "does not pin a serial: if it is a storage device, storage.external_storage_allowed refuses it")
				break
			}
		}
	}
	if d.DLP.ClipboardDirection.Set && !d.DLP.Zones.Set {
		switch d.DLP.ClipboardDirection.V {
		case "work_to_personal", "personal_to_work":
			add("dlp.clipboard_direction", "needs dlp.zones to tell work from personal; devices report it unsupported")
		}
	}
	return out
}

// longest is the length of the most specific entry that covers a host, or 0.
func longest(list []Name, host string) int {
	best := 0
	for _, n := range list {
		if l, ok := n.Matches(host); ok {
			best = max(best, l)
		}
	}
	return best
}
