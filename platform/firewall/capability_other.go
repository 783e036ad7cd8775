//go:build !linux

package firewall

import "github.com/warderd/warder/platform"

// Capability only claims: there is no back end for this system.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: "firewall", Claims: nameClaims()}
}

// SwitchCapability only claims, too.
func SwitchCapability(platform.Host) platform.Capability {
	return platform.Capability{Name: "switch", Claims: vpnClaims()}
}
