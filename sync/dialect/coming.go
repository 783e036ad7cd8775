package dialect

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// Coming are the settings of sections that are not there yet. Other consoles ask for them: their values are read with these bounds, and
// kept, so that they need not be asked for again. A setting leaves this table when its section comes.
var Coming = map[enforce.Setting]policy.Setting{
	"passcode.required":             flag(policy.TrueStricter),
	"passcode.min_length":           number(policy.MoreStricter, 1, 128),
	"passcode.min_classes":          number(policy.MoreStricter, 1, 4),
	"passcode.min_special":          number(policy.MoreStricter, 0, 16),
	"passcode.require_alphanumeric": flag(policy.TrueStricter),
	"passcode.allow_simple":         flag(policy.FalseStricter),
	"passcode.max_age_days":         number(policy.LessStricter, 0, 730),
	"passcode.min_age_days":         number(policy.MoreStricter, 0, 730),
	"passcode.history":              number(policy.MoreStricter, 0, 50),
	"passcode.max_failed_attempts":  number(policy.LessStricter, 1, 100),
	"passcode.lockout_minutes":      number(policy.MoreStricter, 1, 1440),
	"passcode.lock_after_minutes":   number(policy.LessStricter, 0, 240),
	"passcode.lock_grace_minutes":   number(policy.LessStricter, 0, 240),

	"device.camera_allowed":           flag(policy.FalseStricter),
	"device.microphone_allowed":       flag(policy.FalseStricter),
	"device.bluetooth_allowed":        flag(policy.FalseStricter),
	"device.wifi_allowed":             flag(policy.FalseStricter),
	"device.network_config_allowed":   flag(policy.FalseStricter),
	"device.tethering_allowed":        flag(policy.FalseStricter),
	"device.location_allowed":         flag(policy.FalseStricter),
	"device.account_changes_allowed":  flag(policy.FalseStricter),
	"device.software_install_allowed": flag(policy.FalseStricter),
	"device.auto_time_required":       flag(policy.TrueStricter),
	"device.firewall_required":        flag(policy.TrueStricter),

	"apps.mode":      words("block", "allow"),
	"apps.list":      listed,
	"apps.windows":   listed,
	"apps.usage":     listed,
	"apps.open_page": listed,

	"browser.home_page":         {Shape: policy.Shape{Type: "string"}},
	"browser.bookmarks":         listed,
	"browser.url_entry_allowed": flag(policy.FalseStricter),
	"browser.history_allowed":   flag(policy.FalseStricter),
	"browser.search_allowed":    flag(policy.FalseStricter),
	"browser.bookmarks_allowed": flag(policy.FalseStricter),
	"browser.allowed_urls":      listed,
	"browser.blocked_urls":      listed,
	"browser.client_cert_rules": listed,

	"connections.wifi":          listed,
	"connections.vpn":           listed,
	"connections.proxy":         {Shape: policy.Shape{Type: "object"}},
	"connections.trusted_roots": listed,

	"posture.secure_boot_required": flag(policy.TrueStricter),
	"posture.screen_lock_required": flag(policy.TrueStricter),
	"posture.integrity_required":   flag(policy.TrueStricter),
	"posture.min_os_version":       {Shape: policy.Shape{Type: "string"}},
	"posture.on_failure":           words("report", "block_apps"),
}

// never are the settings of which 0 means that there is no limit, and not the strictest one.
var never = map[enforce.Setting]bool{"passcode.max_age_days": true, "passcode.lock_after_minutes": true}

var listed = policy.Setting{Shape: policy.Shape{Type: "array"}}

func flag(o policy.Order) policy.Setting {
	return policy.Setting{Shape: policy.Shape{Type: "boolean"}, Order: o}
}

func words(list ...string) policy.Setting {
	return policy.Setting{Shape: policy.Shape{Type: "string", Enum: list}}
}

func number(o policy.Order, low, high int64) policy.Setting {
	return policy.Setting{Shape: policy.Shape{Type: "integer", Min: low, Max: high}, Order: o}
}

// find is a setting of this version's, or one that is to come.
func find(s enforce.Setting) (row policy.Setting, later, known bool) {
	if row, known = policy.Find(s); known {
		return row, false, true
	}
	row, known = Coming[s]
	return row, true, known
}

// stricter is the stricter of two values of a setting, or ok is false if neither is.
func stricter(s enforce.Setting, before, value any) (v any, ok bool) {
	row, _, _ := find(s)
	switch x := value.(type) {
	case bool:
		b, is := before.(bool)
		switch {
		case !is:
		case row.Order == policy.FalseStricter:
			return x && b, true
		case row.Order == policy.TrueStricter:
			return x || b, true
		}
	case int64:
		b, is := before.(int64)
		switch {
		case !is:
		case never[s] && (x == 0 || b == 0):
			return max(x, b), true
		case row.Order == policy.LessStricter:
			return min(x, b), true
		case row.Order == policy.MoreStricter:
			return max(x, b), true
		}
	}
	return nil, false
}
