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
// says nothing of why.
func browsers(c *section.Case, out *section.Outcome) {
	r := rulesOf(c)
	var by []enforce.Setting
	noPrint, noShots := r.AboutPrinting() && !r.mayPrint, r.AboutTools() && !r.mayShoot
	if noPrint {
		by = append(by, settingPrint)
	}
	if noShots {
		by = append(by, settingShots)
	}
	if len(by) == 0 {
		return
	}
	if _, unread := c.Machine.Unread(fact.PartBrowsers); unread {
		out.Unsure = append(out.Unsure, KindBrowser)
		return
	}
	for i := range c.Machine.Browsers.V {
		if b := &c.Machine.Browsers.V[i]; !b.Taken {
			out.Wants = append(out.Wants, enforce.Want{Key: enforce.Key{Kind: KindBrowser, ID: b.ID}, Value: enforce.Value(fact.BrowserPolicy(noPrint, noShots)), By: by,
				Mode: c.Document.Mode(by[0]), Phase: enforce.Close})
		}
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
