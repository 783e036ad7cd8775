// Package browser sets policies of browsers, in files of their own that only an administrator can write. It knows where each browser
// reads them, and owns no policy.
package browser

import (
	"encoding/json"

	"github.com/warderd/warder/enforce/fact"
)

const (
	name = "browsers"
	kind = "browser.policy"
)

// browser is one that is known.
type browser struct {
	id, name string
	// programs: one of them is there where it is installed.
	programs []string
	// file is ours alone, in a directory of which every file is read; or, with one, the only file that is read.
	file string
	one  bool
	// Where another program has put its policies, ours would hide them.
	hides []string
	text  func(noPrint, noShots bool) map[string]any
}

// chromiums' policies: https://chromeenterprise.google/policies (PrintingEnabled, DisableScreenshots, ScreenCaptureAllowed). They watch the
// directory, and obey while they run.
func chromiums(noPrint, noShots bool) map[string]any {
	out := map[string]any{}
	if noPrint {
		out["PrintingEnabled"] = false
	}
	if noShots {
		out["DisableScreenshots"], out["ScreenCaptureAllowed"] = true, false
	}
	return out
}

// firefox' policies: https://mozilla.github.io/policy-templates (PrintingEnabled, DisableFirefoxScreenshots; Preferences, of which this one is
// what pages need to ask for the screen). It reads them when it starts.
func firefox(noPrint, noShots bool) map[string]any {
	out := map[string]any{}
	if noPrint {
		out["PrintingEnabled"] = false
	}
	if noShots {
		out["DisableFirefoxScreenshots"] = true
		out["Preferences"] = map[string]any{"media.getdisplaymedia.enabled": map[string]any{"Value": false, "Status": "locked"}}
	}
	return map[string]any{"policies": out}
}

var browsers = []browser{
	{id: "chromium", name: "Chromium", programs: []string{"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/lib/chromium/chromium", "/usr/lib64/chromium-browser/chromium-browser"},
		file: "/etc/chromium/policies/managed/warder.json", text: chromiums},
	{id: "chromium-snap", name: "Chromium (snap)", programs: []string{"/snap/bin/chromium"}, file: "/etc/chromium-browser/policies/managed/warder.json", text: chromiums},
	{id: "chrome", name: "Google Chrome", programs: []string{"/opt/google/chrome/chrome"}, file: "/etc/opt/chrome/policies/managed/warder.json", text: chromiums},
	{id: "edge", name: "Microsoft Edge", programs: []string{"/opt/microsoft/msedge/msedge"}, file: "/etc/opt/edge/policies/managed/warder.json", text: chromiums},
	{id: "brave", name: "Brave", programs: []string{"/opt/brave.com/brave/brave"}, file: "/etc/brave/policies/managed/warder.json", text: chromiums},
	{id: "firefox", name: "Firefox", programs: []string{"/usr/lib/firefox-esr/firefox-esr", "/usr/lib/firefox/firefox", "/usr/lib64/firefox/firefox", "/opt/firefox/firefox", "/snap/bin/firefox"},
		file: "/etc/firefox/policies/policies.json", one: true, text: firefox,
		hides: []string{"/usr/lib/firefox-esr/distribution/policies.json", "/usr/lib/firefox/distribution/policies.json", "/usr/lib64/firefox/distribution/policies.json", "/opt/firefox/distribution/policies.json"}},
}

// contents is a browser's file for a value.
func (b *browser) contents(value string) ([]byte, bool) {
	noPrint, noShots, ok := fact.ParseBrowserPolicy(value)
	if !ok {
		return nil, false
	}
	text, err := json.MarshalIndent(b.text(noPrint, noShots), "", "  ")
	return append(text, '\n'), err == nil
}

// value is what a file of ours is; false if it is none of ours.
func (b *browser) value(text []byte) (string, bool) {
	for _, x := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		v := fact.BrowserPolicy(x[0], x[1])
		if want, ok := b.contents(v); ok && string(want) == string(text) {
			return v, true
		}
	}
	return "", false
}
