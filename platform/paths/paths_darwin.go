package paths

var system = Paths{State: "/Library/Application Support/Warder", Run: "/var/run/warder", Config: "/Library/Preferences/Warder"}
