package fact

import "strings"

// Browser is a browser that is installed, and reads policies of its machine's administrator.
type Browser struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Taken says that the one file from which it reads them is somebody else's.
	Taken bool `json:"taken,omitempty"`
}

// The policies of browsers that are set.
const (
	browserNoPrint = "no printing"
	browserNoShots = "no screenshots"
)

// BrowserPolicy is the value of the resource that is a browser's policies.
func BrowserPolicy(noPrint, noShots bool) string {
	var list []string
	if noPrint {
		list = append(list, browserNoPrint)
	}
	if noShots {
		list = append(list, browserNoShots)
	}
	return strings.Join(list, ", ")
}

// ParseBrowserPolicy reads it.
func ParseBrowserPolicy(value string) (noPrint, noShots, ok bool) {
	noPrint, noShots = strings.Contains(value, browserNoPrint), strings.Contains(value, browserNoShots)
	return noPrint, noShots, value != "" && value == BrowserPolicy(noPrint, noShots)
}
