package wso2

import "github.com/warderd/warder/sync/dialect"

// enabled is the field that nearly all features have, and programs are where an entry of a list says which one it is.
const (
	enabled     = "enabled"
	restriction = "restriction-type"
)

var (
	programs     = []string{"packageName", "appIdentifier", "appName"}
	restrictions = map[string]string{"black-list": "block", "white-list": "allow"}
)

// Rows is the catalogue. What is in none of it is named, too.
var Rows = called([]dialect.Row{
	{Name: "PASSCODE_POLICY", Field: "forcePIN", Setting: "passcode.required", How: dialect.Requires},
	{Name: "PASSCODE_POLICY", Field: "allowSimple", Setting: "passcode.allow_simple", How: dialect.Allows},
	{Name: "PASSCODE_POLICY", Field: "requireAlphanumeric", Setting: "passcode.require_alphanumeric", How: dialect.Requires},
	{Name: "PASSCODE_POLICY", Field: "minLength", Setting: "passcode.min_length", How: dialect.Number},
	{Name: "PASSCODE_POLICY", Field: "minComplexChars", Setting: "passcode.min_special", How: dialect.Number},
	{Name: "PASSCODE_POLICY", Field: "maxPINAgeInDays", Setting: "passcode.max_age_days", How: dialect.Number},
	{Name: "PASSCODE_POLICY", Field: "pinHistory", Setting: "passcode.history", How: dialect.Number},
	{Name: "PASSCODE_POLICY", Field: "maxFailedAttempts", Setting: "passcode.max_failed_attempts", How: dialect.Number, Partial: "it wipes a phone, and would only lock a laptop's user out for a while"},
	{Name: "PASSCODE_POLICY", Field: "maxInactivity", Setting: "passcode.lock_after_minutes", How: dialect.Number},
	{Name: "PASSCODE_POLICY", Field: "maxTimeToLock", Setting: "passcode.lock_after_minutes", How: dialect.Number},
	{Name: "PASSCODE_POLICY", Field: "maxGracePeriod", Setting: "passcode.lock_grace_minutes", How: dialect.Number},

	{Name: "CAMERA", Field: enabled, Setting: "device.camera_allowed", How: dialect.Allows},
	{Name: "ENCRYPT_STORAGE", Field: "encrypted", Setting: "storage.encryption_required", How: dialect.Requires},
	{Name: "DISALLOW_MOUNT_PHYSICAL_MEDIA", Field: enabled, Setting: "storage.external_storage_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_USB_FILE_TRANSFER", Field: enabled, Setting: "storage.external_storage_allowed", How: dialect.Forbids,
		Whole: "it stops USB sticks and cards, too"},
	{Name: "DISALLOW_CROSS_PROFILE_COPY_PASTE", Field: enabled, Setting: "dlp.clipboard_sharing", How: dialect.Forbids,
		Whole: "a laptop has no work profile: without dlp.zones, its users are kept apart"},
	{Name: "SET_SCREEN_CAPTURE_DISABLED", Field: enabled, Setting: "dlp.screenshot_allowed", How: dialect.Forbids},
	{Name: "RESTRICTION", Field: "allowScreenShot", Setting: "dlp.screenshot_allowed", How: dialect.Allows},
	{Name: "RESTRICTION", Field: "allowCloudDocumentSync", Setting: "storage.cloud_sync_allowed", How: dialect.Allows},
	{Name: "RESTRICTION", Field: "allowCamera", Setting: "device.camera_allowed", How: dialect.Allows},

	{Name: "DISALLOW_BLUETOOTH", Field: enabled, Setting: "device.bluetooth_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_CONFIG_BLUETOOTH", Field: enabled, Setting: "device.bluetooth_allowed", How: dialect.Forbids, Partial: "it would be all of Bluetooth"},
	{Name: "DISALLOW_BLUETOOTH_SHARING", Field: enabled, Setting: "device.bluetooth_allowed", How: dialect.Forbids, Partial: "it would be all of Bluetooth"},
	{Name: "DISALLOW_CONFIG_WIFI", Field: enabled, Setting: "device.network_config_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_CONFIG_VPN", Field: enabled, Setting: "device.network_config_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_NETWORK_RESET", Field: enabled, Setting: "device.network_config_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_CONFIG_TETHERING", Field: enabled, Setting: "device.tethering_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_ADD_USER", Field: enabled, Setting: "device.account_changes_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_REMOVE_USER", Field: enabled, Setting: "device.account_changes_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_MODIFY_ACCOUNTS", Field: enabled, Setting: "device.account_changes_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_INSTALL_APPS", Field: enabled, Setting: "device.software_install_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_UNINSTALL_APPS", Field: enabled, Setting: "device.software_install_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_INSTALL_UNKNOWN_SOURCES", Field: enabled, Setting: "device.software_install_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_SHARE_LOCATION", Field: enabled, Setting: "device.location_allowed", How: dialect.Forbids},
	{Name: "DISALLOW_UNMUTE_MICROPHONE", Field: enabled, Setting: "device.microphone_allowed", How: dialect.Forbids},
	{Name: "AUTO_TIME", Field: enabled, Setting: "device.auto_time_required", How: dialect.Requires},

	{Name: "APP-RESTRICTION", Field: restriction, Setting: "apps.mode", How: dialect.Word, Words: restrictions},
	{Name: "APP-RESTRICTION", Field: "restricted-applications", Setting: "apps.list", How: dialect.Names, Items: programs},
	{Name: "BLACKLIST_APPLICATIONS", Field: "appIdentifiers", Setting: "apps.list", How: dialect.Names, Items: programs},
	{Name: "KIOSK_APPS", Field: "whitelistedApplications", Setting: "apps.list", How: dialect.Names, Items: programs},

	{Name: "WIFI", Setting: "connections.wifi", How: dialect.Secret},
	{Name: "VPN", Setting: "connections.vpn", How: dialect.Secret},
	{Name: "GLOBAL_PROXY", Setting: "connections.proxy", How: dialect.Secret},
	{Name: "INSTALL_CERT", Setting: "connections.trusted_roots", How: dialect.Secret},

	{Name: "DISALLOW_OUTGOING_CALLS", How: dialect.Nothing},
	{Name: "DISALLOW_SMS", How: dialect.Nothing},
	{Name: "DISALLOW_OUTGOING_BEAM", How: dialect.Nothing},
	{Name: "DISALLOW_CONFIG_CELL_BROADCASTS", How: dialect.Nothing},
	{Name: "DISALLOW_CONFIG_MOBILE_NETWORKS", How: dialect.Nothing},
	{Name: "DISALLOW_SAFE_BOOT", How: dialect.Nothing},
	{Name: "DISALLOW_CREATE_WINDOWS", How: dialect.Nothing},
	{Name: "SET_STATUS_BAR_DISABLED", How: dialect.Nothing},
	{Name: "DISALLOW_ADJUST_VOLUME", How: dialect.Nothing},
	{Name: "DISALLOW_APPS_CONTROL", How: dialect.Nothing},
	{Name: "DISALLOW_AUTOFILL", How: dialect.Nothing},
	{Name: "DISALLOW_CONFIG_CREDENTIALS", How: dialect.Nothing},
	{Name: "DISALLOW_DATA_ROAMING", How: dialect.Nothing},
	{Name: "DISALLOW_DEBUGGING_FEATURES", How: dialect.Nothing},
	{Name: "DISALLOW_REMOVE_MANAGEMENT_PROFILE", How: dialect.Nothing},
	{Name: "DISALLOW_SET_USER_ICON", How: dialect.Nothing},
	{Name: "DISALLOW_SET_WALLPAPER", How: dialect.Nothing},
	{Name: "ALLOW_PARENT_PROFILE_APP_LINKING", How: dialect.Nothing},
	{Name: "ENSURE_VERIFY_APPS", How: dialect.Nothing},
	{Name: "BACKUP_SERVICE", How: dialect.Nothing},
	{Name: "COSU_PROFILE", How: dialect.Nothing},
	{Name: "WORK_PROFILE", How: dialect.Nothing},
	{Name: "RUNTIME_PERMISSION_POLICY", How: dialect.Nothing},
	{Name: "ENROLLMENT_APP_INSTALL", How: dialect.Nothing},
	{Name: "APN", How: dialect.Nothing},
	{Name: "DISPLAY_MESSAGE_CONFIGURATION", How: dialect.Nothing},
	{Name: "EMAIL", How: dialect.Nothing},
	{Name: "LDAP", How: dialect.Nothing},
	{Name: "CALDAV", How: dialect.Nothing},

	{Name: "WIPE_DATA", How: dialect.Never},
	{Name: "ENTERPRISE_WIPE", How: dialect.Never},
	{Name: "FACTORY_RESET", How: dialect.Never},
	{Name: "DISALLOW_FACTORY_RESET", How: dialect.Nothing},
	{Name: "UPGRADE_FIRMWARE", How: dialect.Never},
	{Name: "SYSTEM_UPDATE_POLICY", How: dialect.Never},
	{Name: "CHANGE_LOCK_CODE", How: dialect.Never},
	{Name: "SHELL_COMMAND", How: dialect.Never, Why: "a policy runs nothing on a device"},
	{Name: "DEVICE_LOCK", How: dialect.Never},
	{Name: "DEVICE_RING", How: dialect.Never},
	{Name: "DEVICE_REBOOT", How: dialect.Never},
	{Name: "DISENROLL", How: dialect.Never},
	{Name: "CLEAR_PASSWORD", How: dialect.Never},
})

// called leaves out the field that nearly all features have, where people read what a feature is called.
func called(rows []dialect.Row) []dialect.Row {
	for i := range rows {
		if rows[i].Field == enabled {
			rows[i].As = rows[i].Name
		}
	}
	return rows
}
