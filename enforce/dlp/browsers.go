package dlp

import (
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

// KindBrowser is the kind of the resource that is the policies of one browser; platform/browser has it.
const KindBrowser = "browser.policy"

// browsers are what is wanted of browsers: they do not offer what is refused. It is beside what refuses it, because a browser's own dialog
// says nothing of why. Each setting wants its own, in its own mode; platform/browser makes one file of both.
func browsers(c *section.Case, out *section.Outcome) {
	r := rulesOf(c)
	want := func(s enforce.Setting, value string) {
		if _, unread := c.Machine.Unread(fact.PartBrowsers); unread {
			out.Unsure = append(out.Unsure, KindBrowser)
			return
		}
		for i := range c.Machine.Browsers.V {
			if b := &c.Machine.Browsers.V[i]; !b.Taken {
				out.Wants = append(out.Wants, enforce.Want{Key: enforce.Key{Kind: KindBrowser, ID: b.ID}, Value: enforce.Value(value), By: []enforce.Setting{s}, Mode: c.Document.Mode(s), Phase: enforce.Close})
			}
		}
	}
	if r.AboutPrinting() && !r.print.may {
		want(settingPrint, fact.BrowserPolicy(true, false))
	}
	if r.AboutTools() && !r.shots.may {
		want(settingShots, fact.BrowserPolicy(false, true))
	}
}

// othersBrowsers names the browsers whose policies are somebody else's; "" if there is none.
func othersBrowsers(m *fact.Machine) string {
	var names []string
	for i := range m.Browsers.V {
		if m.Browsers.V[i].Taken {
			names = append(names, m.Browsers.V[i].Name)
		}
	}
	return strings.Join(names, ", ")
}
