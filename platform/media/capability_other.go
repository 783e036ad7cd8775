//go:build !linux

package media

import "github.com/warderd/warder/platform"

// Capability reports that this system's external disks are not refused by this package.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: name, Claims: claims()}
}

// FileSize reports that this system's files are not limited by this package.
func FileSize(platform.Host) platform.Capability {
	return platform.Capability{Name: sizeName, Claims: sizeClaims()}
}

// Main fails: nothing is loaded on this system.
func Main(...string) error {
	return platform.Unsupported{Feature: "refusing external disks", Need: "Linux"}
}
