package mocana

import "github.com/warderd/warder/sync/dialect"

// The kinds of profiles that are read in other ways than by the catalogue alone.
const (
	certs   = "client_certs"
	browser = "browser"
	vpn     = "vpn"
	sharing = "data_sharing"
	dar     = "dar"
	trusted = "trusted_server_certs"
	local   = "local_auth"
)

// The fields that are read together.
const (
	certRules  = "clientCertsUrlMatchingRules"
	copying    = "copyBlocked"
	pasting    = "pasteBlocked"
	address    = "vpnServerAddr"
	nullCipher = "null_cipher"
	exceptions = "exceptions"
)

const (
	app      = "the profile is for an app, and it is done to the whole machine"
	browsers = "it would be of all browsers of a laptop"
	console  = "it is about how the console works"
	surface  = "it is about how an app looks"
)

// Rows is the catalogue: what a field of a profile's data asks for. What is in none of it is named, too. Flags are "0" and "1", of browser
// profiles false and true.
var Rows = []dialect.Row{
	{Name: sharing, Field: copying, Setting: "dlp.clipboard_direction", How: dialect.Word, Words: map[string]string{"1": "personal_to_work"}, Needs: "with --app", Partial: "between the programs of these apps it goes on"},
	{Name: sharing, Field: pasting, Setting: "dlp.clipboard_direction", How: dialect.Word, Words: map[string]string{"1": "work_to_personal"}, Needs: "with --app", Partial: "between the programs of these apps it goes on"},
	{Name: sharing, Field: "privacyScreen", Setting: "dlp.screenshot_allowed", How: dialect.Forbids, Whole: app},
	{Name: sharing, Field: "dragBlocked", How: dialect.Nothing, Why: "drag and drop is not kept apart from the clipboard's zones"},
	{Name: sharing, Field: "dropBlocked", How: dialect.Nothing, Why: "drag and drop is not kept apart from the clipboard's zones"},
	{Name: sharing, Field: "share_map_data", How: dialect.Nothing},
	{Name: sharing, Field: "webLinksBehavior", How: dialect.Nothing},
	{Name: sharing, Field: "externalAppIDs", How: dialect.Nothing},

	{Name: certs, Field: certRules, Setting: "browser.client_cert_rules", How: dialect.Names},

	{Name: browser, Field: "home_page", Setting: "browser.home_page", How: dialect.Link, Partial: browsers},
	{Name: browser, Field: "sites", Setting: "browser.bookmarks", How: dialect.Names, Partial: browsers},
	{Name: browser, Field: "allow_url_entry", Setting: "browser.url_entry_allowed", How: dialect.Allows, Partial: browsers},
	{Name: browser, Field: "allow_search", Setting: "browser.search_allowed", How: dialect.Allows, Partial: browsers},
	{Name: browser, Field: "allow_history", Setting: "browser.history_allowed", How: dialect.Allows, Partial: browsers},
	{Name: browser, Field: "allow_bookmarks", Setting: "browser.bookmarks_allowed", How: dialect.Allows, Partial: browsers},
	{Name: browser, Field: "allow_email", How: dialect.Nothing},
	{Name: browser, Field: "title", How: dialect.Nothing, Why: surface},
	{Name: browser, Field: "theme_color", How: dialect.Nothing, Why: surface},
	{Name: browser, Field: "app_id", How: dialect.Nothing},
	{Name: browser, Field: "app_schemes", How: dialect.Nothing},

	{Name: vpn, Field: address, Setting: "network.vpn_required", How: dialect.Requires, Whole: app, Partial: "any VPN will do: the gateway is not carried"},
	{Name: vpn, Field: "vpnOfflineMode", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnAuthGroup", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnAuthMethod", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnCaCert", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnCertProvType", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnPsk", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnProtocol", Setting: "connections.vpn", How: dialect.Secret},
	{Name: vpn, Field: "vpnDhGroup", Setting: "connections.vpn", How: dialect.Secret},

	{Name: dar, Setting: "storage.encryption_required", How: dialect.Requires, Whole: "the profile is for the data of an app, and all of a laptop's disks have to be encrypted"},
	{Name: dar, Field: exceptions, How: dialect.Nothing, Why: "there are no exceptions: whole disks are encrypted"},
	{Name: dar, Field: nullCipher, How: dialect.Nothing, Why: "with it nothing is encrypted there, so that nothing is asked for"},

	{Name: local, Field: "pass_alpha", Setting: "passcode.require_alphanumeric", How: dialect.Requires, Zero: true},
	{Name: local, Field: "pass_max_age", Setting: "passcode.max_age_days", How: dialect.Number, Zero: true, Low: 1, High: 730 * 1440, Per: 1440},
	{Name: local, Field: "pass_history_count", Setting: "passcode.history", How: dialect.Number, Zero: true, Low: 1, High: 50},
	{Name: local, Field: "pass_invalid_retries", Setting: "passcode.max_failed_attempts", How: dialect.Number, Zero: true, Low: 1, High: 100},
	{Name: local, Field: "pass_alpha_lower", How: dialect.Nothing},
	{Name: local, Field: "pass_alpha_upper", How: dialect.Nothing},
	{Name: local, Field: "pass_change_reminder", How: dialect.Nothing},
	{Name: local, Field: "pass_complexity", How: dialect.Nothing},
	{Name: local, Field: "pass_fingerprint", How: dialect.Nothing},
	{Name: local, Field: "pass_history_enabled", How: dialect.Nothing, Why: "the number beside it says so, too"},
	{Name: local, Field: "pass_invalid_action", How: dialect.Nothing, Why: "too many failures are a lockout for a while"},

	{Name: trusted, Field: "serverCertsList", Setting: "connections.trusted_roots", How: dialect.Secret},
	{Name: trusted, Field: "blockNetworkResources", How: dialect.Nothing},

	{Name: "device_posture", How: dialect.Nothing},
	{Name: "end_user_license_agreement", How: dialect.Nothing},
	{Name: "app_customization", How: dialect.Nothing, Why: surface},
	{Name: "master", How: dialect.Nothing, Why: "it is a list of other profiles: these are translated"},
	{Name: "signing", How: dialect.Nothing, Why: console},
	{Name: "diagnostics", How: dialect.Nothing, Why: console},
	{Name: "secure_web_stack", How: dialect.Nothing},
}
