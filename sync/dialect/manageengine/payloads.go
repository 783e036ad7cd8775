package manageengine

import "github.com/warderd/warder/sync/dialect"

// Why some values are not carried, or not as they are.
const (
	wipes     = "it wipes a device there, and would only lock a laptop's user out for a while"
	unsure    = "the vendor does not say what its values mean"
	browsers  = "it is about all programs, not browsers alone"
	alsoStick = "it is about USB sticks and phones, too"
	zones     = "without dlp.zones, users are kept apart; between the programs of one user it goes on"
)

// The vendor's words for flags that are numbers.
var (
	restricts = map[string]bool{"0": false, "1": true}
	camera    = map[string]bool{"1": true, "2": false}
	demands   = map[string]bool{"0": false, "2": true}
)

// Rows is the catalogue: what a field of a payload asks for. What is in none of it is named, too. The names are the vendor's, with their
// misspellings. A payload without fields is looked at as a whole.
var Rows = []dialect.Row{
	{Name: "passcodepolicy", Field: "min_passcode_length", Setting: "passcode.min_length", How: dialect.Number, Low: 1, High: 16},
	{Name: "passcodepolicy", Field: "min_complex_chars", Setting: "passcode.min_special", How: dialect.Number, Low: 1, High: 4},
	{Name: "passcodepolicy", Field: "require_alphanumeric", Setting: "passcode.require_alphanumeric", How: dialect.Requires},
	{Name: "passcodepolicy", Field: "allow_simple_value", Setting: "passcode.allow_simple", How: dialect.Allows},
	{Name: "passcodepolicy", Field: "max_passcode_age", Setting: "passcode.max_age_days", How: dialect.Number, Low: 1, High: 170},
	{Name: "passcodepolicy", Field: "no_of_passcode_maintained", Setting: "passcode.history", How: dialect.Number, Low: 1, High: 50},
	{Name: "passcodepolicy", Field: "max_failed_attempts", Setting: "passcode.max_failed_attempts", How: dialect.Number, Low: 3, High: 9, Partial: wipes},
	{Name: "passcodepolicy", Field: "auto_lock_idle_for", Setting: "passcode.lock_after_minutes", How: dialect.Number, Low: 1, High: 15},
	{Name: "passcodepolicy", Field: "max_grace_period", Setting: "passcode.lock_grace_minutes", How: dialect.Number, Low: 0, High: 240},

	{Name: "macpasscodepolicy", Field: "min_passcode_length", Setting: "passcode.min_length", How: dialect.Number, Zero: true, Low: 1, High: 16},
	{Name: "macpasscodepolicy", Field: "min_complex_chars", Setting: "passcode.min_special", How: dialect.Number, Zero: true, Low: 1, High: 4},
	{Name: "macpasscodepolicy", Field: "require_alphanumeric", Setting: "passcode.require_alphanumeric", How: dialect.Requires},
	{Name: "macpasscodepolicy", Field: "allow_simple_value", Setting: "passcode.allow_simple", How: dialect.Allows},
	{Name: "macpasscodepolicy", Field: "max_passcode_age", Setting: "passcode.max_age_days", How: dialect.Number, Zero: true, Low: 1, High: 730},
	{Name: "macpasscodepolicy", Field: "no_of_passcode_maintained", Setting: "passcode.history", How: dialect.Number, Zero: true, Low: 1, High: 50},
	{Name: "macpasscodepolicy", Field: "max_failed_attempts", Setting: "passcode.max_failed_attempts", How: dialect.Number, Zero: true, Low: 1, High: 100, Partial: wipes},
	{Name: "macpasscodepolicy", Field: "auto_lock_idle_for", Setting: "passcode.lock_after_minutes", How: dialect.Number, Zero: true, Low: 1, High: 15},
	{Name: "macpasscodepolicy", Field: "max_grace_period", Setting: "passcode.lock_grace_minutes", How: dialect.Number, Zero: true, Low: 1, High: 240},

	{Name: "windowspasscodepolicy", Field: "min_pwd_length", Setting: "passcode.min_length", How: dialect.Number, Zero: true, Low: 1, High: 16},
	{Name: "windowspasscodepolicy", Field: "min_pwd_complex_char", Setting: "passcode.min_classes", How: dialect.Number, Low: 1, High: 4},
	{Name: "windowspasscodepolicy", Field: "pwd_expiration", Setting: "passcode.max_age_days", How: dialect.Number, Zero: true, Low: 1, High: 730},
	{Name: "windowspasscodepolicy", Field: "min_pwd_age", Setting: "passcode.min_age_days", How: dialect.Number, Low: 0, High: 730},
	{Name: "windowspasscodepolicy", Field: "pwd_history", Setting: "passcode.history", How: dialect.Number, Low: 0, High: 50},
	{Name: "windowspasscodepolicy", Field: "max_pwd_failed_attempts", Setting: "passcode.max_failed_attempts", How: dialect.Number, Zero: true, Low: 1, High: 100, Partial: wipes},
	{Name: "windowspasscodepolicy", Field: "max_inactivity_time_devlock", Setting: "passcode.lock_after_minutes", How: dialect.Number, Zero: true, Low: 1, High: 240},
	{Name: "windowspasscodepolicy", Field: "pwd_enabled", How: dialect.Nothing, Why: unsure},
	{Name: "windowspasscodepolicy", Field: "allow_simple_pwd", How: dialect.Nothing, Why: unsure},
	{Name: "windowspasscodepolicy", Field: "alphanumeric_pwd_required", How: dialect.Nothing, Why: unsure},

	{Name: "androidpasscodepolicy", Field: "min_passcode_length", Setting: "passcode.min_length", How: dialect.Number, Zero: true, Low: 1, High: 16},
	{Name: "androidpasscodepolicy", Field: "max_passcode_age", Setting: "passcode.max_age_days", How: dialect.Number, Zero: true, Low: 1, High: 730},
	{Name: "androidpasscodepolicy", Field: "no_of_passcode_maintained", Setting: "passcode.history", How: dialect.Number, Zero: true, Low: 1, High: 50},
	{Name: "androidpasscodepolicy", Field: "max_failed_attempts", Setting: "passcode.max_failed_attempts", How: dialect.Number, Zero: true, Low: 1, High: 100, Partial: wipes},
	{Name: "androidpasscodepolicy", Field: "auto_lock_idle_for", Setting: "passcode.lock_after_minutes", How: dialect.Number, Zero: true, Low: 1, High: 14400, Per: 60},
	{Name: "androidpasscodepolicy", Field: "passcode_type", Setting: "passcode.require_alphanumeric", How: dialect.Coded,
		Codes: map[string]bool{"1": false, "2": false, "3": false, "4": true, "5": true}},
	{Name: "androidpasscodepolicy", Field: "grace_period", How: dialect.Nothing, Why: "it is how long a phone may go without a passcode after the policy has come"},

	{Name: "windowsrestrictionpolicy", Field: "enforce_device_encription", Setting: "storage.encryption_required", How: dialect.Requires},
	{Name: "windowsrestrictionpolicy", Field: "disable_sd_card", Setting: "storage.external_storage_allowed", How: dialect.Forbids, Whole: alsoStick},
	{Name: "windowsrestrictionpolicy", Field: "allow_use_of_camera", Setting: "device.camera_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_screen_capture", Setting: "dlp.screenshot_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_copy_paste", Setting: "dlp.clipboard_sharing", How: dialect.Allows, Partial: zones},
	{Name: "windowsrestrictionpolicy", Field: "allow_store", Setting: "device.software_install_allowed", How: dialect.Allows, Partial: "it would be all software, not that of the store alone"},
	{Name: "windowsrestrictionpolicy", Field: "allow_bluetooth", Setting: "device.bluetooth_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_wifi", Setting: "device.wifi_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_manual_wifi_config", Setting: "device.network_config_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_internet_sharing", Setting: "device.tethering_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_location", Setting: "device.location_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_microsoft_account", Setting: "device.account_changes_allowed", How: dialect.Allows},
	{Name: "windowsrestrictionpolicy", Field: "allow_nfc", How: dialect.Nothing},
	{Name: "windowsrestrictionpolicy", Field: "allow_usb", How: dialect.Nothing, Why: "it is about a phone at a computer, and not about what is plugged into one"},
	{Name: "windowsrestrictionpolicy", Field: "allow_cortana", How: dialect.Nothing},
	{Name: "windowsrestrictionpolicy", Field: "allow_telemetry", How: dialect.Nothing},
	{Name: "windowsrestrictionpolicy", Field: "allow_user_reset_phone", How: dialect.Nothing},

	{Name: "macrestrictionspolicy", Field: "allow_use_of_camera", Setting: "device.camera_allowed", How: dialect.Allows},
	{Name: "macrestrictionspolicy", Field: "allow_cloud_document_sync", Setting: "storage.cloud_sync_allowed", How: dialect.Allows},
	{Name: "macrestrictionspolicy", Field: "allow_game_center", How: dialect.Nothing},
	{Name: "macrestrictionspolicy", Field: "allow_modifi_wallpaper", How: dialect.Nothing},

	{Name: "restrictionspolicy", Field: "allow_app_installation", Setting: "device.software_install_allowed", How: dialect.Allows},
	{Name: "restrictionspolicy", Field: "allow_app_removal", Setting: "device.software_install_allowed", How: dialect.Allows},

	{Name: "androidrestrictionspolicy", Field: "allow_screen_capture", Setting: "dlp.screenshot_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_sd_card", Setting: "storage.external_storage_allowed", How: dialect.Coded, Codes: restricts, Whole: alsoStick},
	{Name: "androidrestrictionspolicy", Field: "allow_usb_media_player", Setting: "storage.external_storage_allowed", How: dialect.Coded, Codes: restricts, Whole: alsoStick},
	{Name: "androidrestrictionspolicy", Field: "allow_storage_encryption", Setting: "storage.encryption_required", How: dialect.Coded, Codes: demands},
	{Name: "androidrestrictionspolicy", Field: "allow_camera", Setting: "device.camera_allowed", How: dialect.Coded, Codes: camera},
	{Name: "androidrestrictionspolicy", Field: "allow_microphone", Setting: "device.microphone_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_usb_tethering", Setting: "device.tethering_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_user_add_accounts", Setting: "device.account_changes_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_install_app", Setting: "device.software_install_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_uninstall_app", Setting: "device.software_install_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_non_market_app_instal", Setting: "device.software_install_allowed", How: dialect.Coded, Codes: restricts},
	{Name: "androidrestrictionspolicy", Field: "allow_data_while_roaming", How: dialect.Nothing},
	{Name: "androidrestrictionspolicy", Field: "allow_factory_reset", How: dialect.Nothing},
	{Name: "androidrestrictionspolicy", Field: "allow_safe_mode", How: dialect.Nothing},
	{Name: "androidrestrictionspolicy", Field: "allow_nfc", How: dialect.Nothing},

	{Name: "webcontentfilterpolicy", Field: urlDetails, Setting: "network.blocked_domains", How: dialect.Names, Partial: browsers},
	{Name: "webcontentfilterpolicy", Field: filterType, Setting: "network.allowed_domains", How: dialect.Names, As: "webcontentfilterpolicy.url_details (url_filter_type: true)", Whole: browsers},
	{Name: "webcontentfilterpolicy", Field: "url_details with a path", Setting: "browser.blocked_urls", How: dialect.Names},
	{Name: "webcontentfilterpolicy", Field: "create_bookmarks", Setting: "browser.bookmarks", How: dialect.Names},
	{Name: "webcontentfilterpolicy", Field: "enable_auto_filter", How: dialect.Nothing},
	{Name: "webcontentfilterpolicy", Field: "malicious_content_filter", How: dialect.Nothing},

	{Name: "wifipolicy", Setting: "connections.wifi", How: dialect.Secret},
	{Name: "windowswifipolicy", Setting: "connections.wifi", How: dialect.Secret},
	{Name: "androidwifipolicy", Setting: "connections.wifi", How: dialect.Secret},
	{Name: "vpnpolicy", Setting: "connections.vpn", How: dialect.Secret},
	{Name: "macvpnpolicy", Setting: "connections.vpn", How: dialect.Secret},
	{Name: "windowsvpnpolicy", Setting: "connections.vpn", How: dialect.Secret},
	{Name: "androidvpnpolicy", Setting: "connections.vpn", How: dialect.Secret},
	{Name: "androidhttpproxypolicy", Setting: "connections.proxy", How: dialect.Secret},
	{Name: "windowscertificatepolicy", Setting: "connections.trusted_roots", How: dialect.Secret},

	{Name: "macfilevault", Field: settingsID, Setting: "storage.encryption_required", How: dialect.Requires, Partial: "keys to recover a disk are not kept by Warder"},
	{Name: "macfirewallpolicy", Field: "enable_firewall", Setting: "device.firewall_required", How: dialect.Coded, Codes: restricts},
	{Name: "macfirewallpolicy", Field: "block_all_incoming", How: dialect.Nothing},
	{Name: "macfirewallpolicy", Field: "enable_stealth_mode", How: dialect.Nothing},

	{Name: "androidkioskpolicy", How: dialect.Nothing},
	{Name: "androidapnpolicy", How: dialect.Nothing},
	{Name: "tvosrestrictionspolicy", How: dialect.Nothing},
	{Name: "windowssceppolicy", How: dialect.Nothing},
	{Name: "windowslockdownmodepolicy", How: dialect.Nothing},
	{Name: "windowsdeviceguardpolicy", How: dialect.Nothing},
	{Name: "windowsdefenderpolicy", How: dialect.Nothing},
	{Name: "windowsappguardpolicy", How: dialect.Nothing},
	{Name: "macgatekeeperpolicy", How: dialect.Nothing},
	{Name: "maccustomprofiles", How: dialect.Nothing},
	{Name: "ioscustomprofiles", How: dialect.Nothing},
	{Name: "iossceppolicy", How: dialect.Nothing},
	{Name: "androidefrppolicy", How: dialect.Nothing},

	{Name: custom, Field: "Camera/AllowCamera", Setting: "device.camera_allowed", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "Experience/AllowScreenCapture", Setting: "dlp.screenshot_allowed", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "Experience/AllowCopyPaste", Setting: "dlp.clipboard_sharing", How: dialect.Coded, Codes: restricts, Partial: zones},
	{Name: custom, Field: "System/AllowStorageCard", Setting: "storage.external_storage_allowed", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "System/AllowLocation", Setting: "device.location_allowed", How: dialect.Coded, Codes: map[string]bool{"0": false, "1": true}},
	{Name: custom, Field: "Security/RequireDeviceEncryption", Setting: "storage.encryption_required", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "Connectivity/AllowBluetooth", Setting: "device.bluetooth_allowed", How: dialect.Coded, Codes: map[string]bool{"0": false, "2": true}},
	{Name: custom, Field: "WiFi/AllowInternetSharing", Setting: "device.tethering_allowed", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "WiFi/AllowWiFi", Setting: "device.wifi_allowed", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "WiFi/AllowManualWiFiConfiguration", Setting: "device.network_config_allowed", How: dialect.Coded, Codes: restricts},
	{Name: custom, Field: "DeviceLock/MinDevicePasswordLength", Setting: "passcode.min_length", How: dialect.Number, Low: 4, High: 16},
	{Name: custom, Field: "DeviceLock/DevicePasswordHistory", Setting: "passcode.history", How: dialect.Number, Low: 0, High: 50},
	{Name: custom, Field: "DeviceLock/MaxInactivityTimeDeviceLock", Setting: "passcode.lock_after_minutes", How: dialect.Number, Zero: true, Low: 1, High: 240},
}
