package apperian

import "github.com/warderd/warder/sync/dialect"

// The policies that are read in other ways than by the catalogue alone.
const (
	usage   = "com.apperian.app-usage"
	webPage = "com.apperian.open-webpage-url"
	access  = "com.apperian.access-control"
	rooted  = "com.apperian.jailbreak-and-root-protection"
)

// Rows is the catalogue: what a policy asks for. What is in none of it is named, too.
var Rows = []dialect.Row{
	{Name: usage, Setting: "apps.usage", How: dialect.Names},
	{Name: webPage, Field: "open_webpage_url", Setting: "apps.open_page", How: dialect.Names},
	{Name: webPage, Field: "open_webpage_frequency", Setting: "apps.open_page", How: dialect.Names},
	{Name: access, Field: "access_date_range", Setting: "apps.windows", How: dialect.Names},
	{Name: access, Field: "user_message", Setting: "apps.windows", How: dialect.Names},
	{Name: rooted, Setting: "posture.integrity_required", How: dialect.Requires, Partial: "it would be reported, and the app not be stopped"},
	{Name: "com.apperian.enterprise-sso", How: dialect.Nothing},
	{Name: "com.apperian.collect-crash-reports", How: dialect.Nothing},
	{Name: "com.apperian.self-update", How: dialect.Nothing},
	{Name: "com.apperian.data-wipe", How: dialect.Never},
}
