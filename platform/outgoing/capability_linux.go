package outgoing

import (
	"path/filepath"

	"github.com/warderd/warder/platform"
)

// Capability looks into files on their way out of this machine.
func Capability(h platform.Host) platform.Capability {
	g := &Guard{log: h.Log, off: h.Sysfs != "/sys", proc: h.Proc, passwd: "/etc/passwd", homes: "/home", until: filepath.Join(h.Run, "looked-until"),
		finding: make(chan struct{}, 1)}
	return platform.Capability{
		Name: Name, Observers: []platform.Observer{g}, Guards: []platform.Guard{g},
		Uses: []platform.Port{
			platform.Borrow(platform.PortKeepData, func(f platform.KeepData) { g.keep = f }),
			platform.Borrow(platform.PortExpire, func(f platform.Expire) { g.expire = f }),
			platform.Borrow(platform.PortLook, func(f platform.LookInto) { g.look = f }),
			platform.Borrow(platform.PortOutside, func(f platform.Outside) { g.outside = f }),
		},
	}
}
