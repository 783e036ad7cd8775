// Package all lists the vendors whose documents are understood: what a vendor is called, how its documents are translated, and what becomes
// of what they can ask for. A vendor enters here and nowhere else.
package all

import (
	"fmt"
	"strings"

	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/dialect/apperian"
	"github.com/warderd/warder/sync/dialect/manageengine"
	"github.com/warderd/warder/sync/dialect/mocana"
	"github.com/warderd/warder/sync/dialect/wso2"
)

// Vendor is one of them.
type Vendor struct {
	ID, Name  string
	Translate func([]byte, dialect.Options) (dialect.Translation, error)
	Rows      []dialect.Row
	Apps      bool // its documents are about apps, of which the operator says which programs of a laptop they are
	OneApp    bool // each is about one
}

// Vendors are all of them.
var Vendors = []Vendor{
	{apperian.Vendor, "Apperian", apperian.Translate, apperian.Rows, true, true},
	{manageengine.Vendor, "ManageEngine Mobile Device Manager Plus", manageengine.Translate, manageengine.Rows, false, false},
	{mocana.Vendor, "Mocana, Blue Cedar", mocana.Translate, mocana.Rows, true, false},
	{wso2.Vendor, "WSO2 EMM, WSO2 IoT Server, Entgra", wso2.Translate, wso2.Rows, false, false},
}

// Find is the vendor of an id.
func Find(id string) (Vendor, bool) {
	for _, v := range Vendors {
		if v.ID == id {
			return v, true
		}
	}
	return Vendor{}, false
}

// IDs lists them, for people.
func IDs() string {
	var out []string
	for _, v := range Vendors {
		out = append(out, v.ID)
	}
	return strings.Join(out, ", ")
}

// AppIDs lists those whose documents are about apps, for people.
func AppIDs() string {
	var out []string
	for _, v := range Vendors {
		if v.Apps {
			out = append(out, v.ID)
		}
	}
	return strings.Join(out, ", ")
}

// Tables are the catalogues for docs/dialects.md.
func Tables() string {
	var b strings.Builder
	for _, v := range Vendors {
		fmt.Fprintf(&b, "## %s (`%s`)\n\n| asked for | setting | what becomes of it |\n|---|---|---|\n", v.Name, v.ID)
		for _, r := range v.Rows {
			setting := ""
			if r.Setting != "" {
				setting = "`" + string(r.Setting) + "`"
			}
			what, why := r.Result()
			if why != "" {
				what += ": " + why
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.Full(), setting, what)
		}
		b.WriteString("\n")
	}
	return b.String()
}
