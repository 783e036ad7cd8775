package wso2

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
)

// how says what becomes of a value.
type how uint8

const (
	allows    how = iota // true allows, false forbids: both were asked for
	forbids              // true forbids; false is how the console writes "not configured"
	requires             // true requires, false does not
	number               // between low and high
	list                 // names of programs, with their packages
	word                 // one of a few
	connects             // a connection: no section for it yet, and it may have secrets
	nothing              // a laptop has nothing like it
	forbidden            // nothing that a policy may bring about
)

// Row is a line of the catalogue: what a field of a feature's content asks for.
type Row struct {
	Code    string
	Field   string          // of the content; "" is the whole content
	Setting enforce.Setting // "": none has it
	Later   bool            // the setting's section is not there yet
	Partial string          // what of it a laptop cannot do, or does beyond it

	how       how
	low, high int64
	list      string // what programs in a list are: "block: "
}

// name is what it is called for people.
func (r *Row) name() string {
	if r.Field == "" || r.Field == enabled {
		return r.Code
	}
	return r.Code + "." + r.Field
}

// Catalogue lists what becomes of what.
func Catalogue() (out []dialect.Entry) {
	for _, r := range Rows {
		e := dialect.Entry{Name: r.name(), Setting: r.Setting, Result: dialect.ResultTranslated, Why: r.Partial}
		switch {
		case r.how == forbidden:
			e.Result, e.Why = dialect.ResultNever, never
		case r.how == nothing:
			e.Result = dialect.ResultNone
		case r.Later:
			e.Result = dialect.ResultLater
		case r.Partial != "":
			e.Result = dialect.ResultPartial
		}
		out = append(out, e)
	}
	return out
}

const never = "a policy does not wipe, lock, restart, release or update a device"

// enabled is the field that nearly all features have.
const enabled = "enabled"

// Rows is the catalogue. What is in none of it is named, too.
var Rows = []Row{
	{Code: "PASSCODE_POLICY", Field: "forcePIN", Setting: "passcode.required", Later: true, how: requires},
	{Code: "PASSCODE_POLICY", Field: "allowSimple", Setting: "passcode.allow_simple", Later: true, how: allows},
	{Code: "PASSCODE_POLICY", Field: "requireAlphanumeric", Setting: "passcode.require_alphanumeric", Later: true, how: requires},
	{Code: "PASSCODE_POLICY", Field: "minLength", Setting: "passcode.min_length", Later: true, how: number, low: 1, high: 128},
	{Code: "PASSCODE_POLICY", Field: "minComplexChars", Setting: "passcode.min_special", Later: true, how: number, low: 0, high: 16},
	{Code: "PASSCODE_POLICY", Field: "maxPINAgeInDays", Setting: "passcode.max_age_days", Later: true, how: number, low: 0, high: 730},
	{Code: "PASSCODE_POLICY", Field: "pinHistory", Setting: "passcode.history", Later: true, how: number, low: 0, high: 50},
	{Code: "PASSCODE_POLICY", Field: "maxFailedAttempts", Setting: "passcode.max_failed_attempts", Later: true, how: number, low: 1, high: 100},
	{Code: "PASSCODE_POLICY", Field: "maxInactivity", Setting: "passcode.lock_after_minutes", Later: true, how: number, low: 0, high: 240},
	{Code: "PASSCODE_POLICY", Field: "maxTimeToLock", Setting: "passcode.lock_after_minutes", Later: true, how: number, low: 0, high: 240},
	{Code: "PASSCODE_POLICY", Field: "maxGracePeriod", Setting: "passcode.lock_grace_minutes", Later: true, how: number, low: 0, high: 240},

	{Code: "CAMERA", Field: enabled, Setting: "device.camera_allowed", Later: true, how: allows},
	{Code: "ENCRYPT_STORAGE", Field: "encrypted", Setting: "storage.encryption_required", how: requires},
	{Code: "DISALLOW_MOUNT_PHYSICAL_MEDIA", Field: enabled, Setting: "storage.external_storage_allowed", how: forbids},
	{Code: "DISALLOW_USB_FILE_TRANSFER", Field: enabled, Setting: "storage.external_storage_allowed", how: forbids,
		Partial: "it also stops USB sticks and cards"},
	{Code: "DISALLOW_CROSS_PROFILE_COPY_PASTE", Field: enabled, Setting: "dlp.clipboard_sharing", how: forbids,
		Partial: "a laptop has no work profile: without dlp.zones, users are kept apart"},
	{Code: "SET_SCREEN_CAPTURE_DISABLED", Field: enabled, Setting: "dlp.screenshot_allowed", how: forbids},
	{Code: "RESTRICTION", Field: "allowScreenShot", Setting: "dlp.screenshot_allowed", how: allows},
	{Code: "RESTRICTION", Field: "allowCloudDocumentSync", Setting: "storage.cloud_sync_allowed", how: allows},
	{Code: "RESTRICTION", Field: "allowCamera", Setting: "device.camera_allowed", Later: true, how: allows},

	{Code: "DISALLOW_BLUETOOTH", Field: enabled, Setting: "device.bluetooth_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_CONFIG_BLUETOOTH", Field: enabled, Setting: "device.bluetooth_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_BLUETOOTH_SHARING", Field: enabled, Setting: "device.bluetooth_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_CONFIG_WIFI", Field: enabled, Setting: "device.network_config_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_CONFIG_VPN", Field: enabled, Setting: "device.network_config_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_NETWORK_RESET", Field: enabled, Setting: "device.network_config_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_CONFIG_TETHERING", Field: enabled, Setting: "device.tethering_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_ADD_USER", Field: enabled, Setting: "device.account_changes_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_REMOVE_USER", Field: enabled, Setting: "device.account_changes_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_MODIFY_ACCOUNTS", Field: enabled, Setting: "device.account_changes_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_INSTALL_APPS", Field: enabled, Setting: "device.software_install_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_UNINSTALL_APPS", Field: enabled, Setting: "device.software_install_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_INSTALL_UNKNOWN_SOURCES", Field: enabled, Setting: "device.software_install_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_SHARE_LOCATION", Field: enabled, Setting: "device.location_allowed", Later: true, how: forbids},
	{Code: "DISALLOW_UNMUTE_MICROPHONE", Field: enabled, Setting: "device.microphone_allowed", Later: true, how: forbids},
	{Code: "AUTO_TIME", Field: enabled, Setting: "device.auto_time_required", Later: true, how: requires},

	{Code: "APP-RESTRICTION", Field: "restriction-type", Setting: "apps.mode", Later: true, how: word},
	{Code: "APP-RESTRICTION", Field: "restricted-applications", Setting: "apps.list", Later: true, how: list},
	{Code: "BLACKLIST_APPLICATIONS", Field: "appIdentifiers", Setting: "apps.list", Later: true, how: list, list: "block: "},
	{Code: "KIOSK_APPS", Field: "whitelistedApplications", Setting: "apps.list", Later: true, how: list, list: "allow: "},

	{Code: "WIFI", Setting: "connections.wifi", Later: true, how: connects},
	{Code: "VPN", Setting: "connections.vpn", Later: true, how: connects},
	{Code: "GLOBAL_PROXY", Setting: "connections.proxy", Later: true, how: connects},
	{Code: "INSTALL_CERT", Setting: "connections.trusted_roots", Later: true, how: connects},

	{Code: "DISALLOW_OUTGOING_CALLS", how: nothing},
	{Code: "DISALLOW_SMS", how: nothing},
	{Code: "DISALLOW_OUTGOING_BEAM", how: nothing},
	{Code: "DISALLOW_CONFIG_CELL_BROADCASTS", how: nothing},
	{Code: "DISALLOW_CONFIG_MOBILE_NETWORKS", how: nothing},
	{Code: "DISALLOW_SAFE_BOOT", how: nothing},
	{Code: "DISALLOW_CREATE_WINDOWS", how: nothing},
	{Code: "SET_STATUS_BAR_DISABLED", how: nothing},
	{Code: "EMAIL", how: nothing},
	{Code: "LDAP", how: nothing},
	{Code: "CALDAV", how: nothing},

	{Code: "WIPE_DATA", how: forbidden},
	{Code: "ENTERPRISE_WIPE", how: forbidden},
	{Code: "FACTORY_RESET", how: forbidden},
	{Code: "DISALLOW_FACTORY_RESET", how: nothing},
	{Code: "UPGRADE_FIRMWARE", how: forbidden},
	{Code: "DEVICE_LOCK", how: forbidden},
	{Code: "DEVICE_RING", how: forbidden},
	{Code: "DEVICE_REBOOT", how: forbidden},
	{Code: "DISENROLL", how: forbidden},
	{Code: "SYSTEM_UPDATE_POLICY", how: forbidden},
	{Code: "CHANGE_LOCK_CODE", how: forbidden},
	{Code: "CLEAR_PASSWORD", how: forbidden},
}
