package paths

var system = Paths{State: "/var/lib/warder", Run: "/run/warder", Config: "/etc/warder"}
