package encryption

import "github.com/warderd/warder/platform"

// Capability detects disk encryption.
func Capability(h platform.Host) platform.Capability {
	return platform.Capability{Name: "encryption", Claims: claims(),
		Observers: []platform.Observer{&Reader{Sys: h.Sysfs, Proc: h.Proc, Dev: "/dev", ask: &kernel{}}}}
}
