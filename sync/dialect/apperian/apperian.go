// Package apperian translates the policies of an app of Apperian: the object that GET applications/{application}/policies answers.
package apperian

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
)

// Vendor is what sources of this kind are called.
const Vendor = "apperian"

// What the vendor says of an app's policies, by the number of its status.
const (
	failed   = "-1"
	none     = "0"
	signed   = "1"
	applying = "2"
	unsigned = "3"
	previous = "4"
)

// Window is when programs may be used: from NotBefore until before NotAfter. What is zero is open.
type Window struct {
	App       string    `json:"id"`
	Programs  []string  `json:"programs"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Message   string    `json:"message,omitempty"`
}

// Page is a web page that is opened after programs have been opened some times.
type Page struct {
	App      string   `json:"id"`
	Programs []string `json:"programs"`
	URL      string   `json:"url"`
	Every    int64    `json:"every"`
}

// Usage says that the use of programs is reported.
type Usage struct {
	App      string   `json:"id"`
	Programs []string `json:"programs"`
}

// Translate translates the policies of one app, of which the answer does not say which it is: the options do. An error says why a document
// is none, or is no answer to what is in force.
func Translate(data []byte, o dialect.Options) (dialect.Translation, error) {
	doc, err := dialect.Read(data)
	if err != nil {
		return dialect.Translation{}, err
	}
	root := doc.Root()
	status, list := root.Get("status").Get("code"), root.Get("configurations")
	switch code := status.Word(); {
	case !list.List() || !root.Get("status").Object():
		return dialect.Translation{}, errors.New("it is not what is applied to an app: it has no status, or no list configurations (policies and their presets are in force nowhere)")
	case (code == signed || code == unsigned) && list.Empty():
		return dialect.Translation{}, errors.New("its status says that policies are applied, and it has none")
	case code == failed:
		return dialect.Translation{}, errors.New("the policies could not be applied there: what was in force stays")
	case code == applying:
		return dialect.Translation{}, errors.New("the policies are being applied there: what was in force stays")
	case code != none && code != signed && code != unsigned && code != previous:
		return dialect.Translation{}, fmt.Errorf("it is not known what status %q means", dialect.Quote(status))
	}
	if o.App == "" && len(o.Apps) > 1 {
		return dialect.Translation{}, errors.New("it is about one app, and several are named: it is not known which one")
	}
	x := &translator{Builder: dialect.Build(Vendor, doc, o), seen: map[string]bool{}}
	x.app, x.programs = x.Programs()
	x.Identify(x.app)
	x.Call(x.app)
	x.Mode(dialect.Node{}, enforce.Enforce)
	x.Translation().Released = status.Word() == none || status.Word() == previous
	if x.app != "" {
		x.Translation().Selection.Apps = []string{x.app}
	}
	x.Translation().Selection.Unknown = x.app == ""
	root.Get("status").Get("code").Envelope()
	root.Get("status").Get("description").Envelope()
	root.Get("previous_version_configurations").EnvelopeAll() // what was in force before is in force no more
	x.Translation().Stamp = list.Canonical()
	for _, c := range list.Items() {
		x.configuration(c)
	}
	if list.Empty() {
		list.Sentinel()
	}
	return x.Finish()
}

type translator struct {
	*dialect.Builder
	app      string
	programs []string // of a laptop; none if nobody has said
	seen     map[string]bool
}

// envelope are the fields of a configuration that say nothing of the app: ids, dates, and how the form of the console begins.
var envelope = []string{"id", "name", "policy_id", "created_time", "is_a_preset", "enabled_by_default", "display_name", "display_description"}

// configuration reads a policy that is applied to the app.
func (x *translator) configuration(c dialect.Node) {
	at := c.Get("policy_id")
	id, conf := dialect.TextOf(at), c.Get("configuration")
	if id == "" {
		x.None("configurations", c)
		return
	}
	for field, more := range c.Fields() {
		switch {
		case field == "policy_id", field == "configuration":
		case field == "auth_required":
			if on, ok := more.Flag(); ok && !on {
				more.Sentinel()
			} else {
				x.Unknown(id, field, more)
			}
		case slices.Contains(envelope, field):
			more.Envelope()
		default:
			x.Unknown(id, field, more)
		}
	}
	if !conf.Object() && !conf.Unset() {
		x.Name(id+".configuration", "must be an object", conf)
		conf = dialect.Node{}
	}
	rows := dialect.Of(Rows, id)
	switch {
	case len(rows) == 0:
		x.None(id, at)
	case rows[0].How == dialect.Nothing || rows[0].How == dialect.Never:
		x.Value(rows[0], at)
	case x.seen[id]:
		x.Name(id, "it is applied twice: the first counts", at, conf)
		return
	case id == rooted:
		x.ValueOf(rows[0], "true", at)
		x.seen[id] = true
	case len(x.programs) == 0:
		x.Name(id, "it is not said which programs of a laptop the app is", at, conf)
		return
	case id == usage:
		x.KeepEntry(rows[0].Setting, Usage{x.app, x.programs}, id, at)
		x.seen[id] = true
	case id == webPage:
		at.Envelope()
		x.page(conf)
		return
	default:
		at.Envelope()
		x.window(conf)
		return
	}
	x.others(id, conf)
}

func (x *translator) page(conf dialect.Node) {
	link, every := conf.Get("open_webpage_url"), conf.Get("open_webpage_frequency")
	address, page := dialect.Address(link)
	n, ok := every.Number()
	switch {
	case !page:
		x.Name(webPage, "open_webpage_url "+dialect.NoAddress, link, every)
	case !ok || n < 1 || n > 1_000_000:
		x.Name(webPage, fmt.Sprintf("open_webpage_frequency must be a whole number of 1 or more: %q", dialect.Quote(every)), link, every)
	default:
		x.KeepEntry("apps.open_page", Page{x.app, x.programs, address, n}, webPage, link, every)
		x.seen[webPage] = true
	}
	x.others(webPage, conf, "open_webpage_url", "open_webpage_frequency")
}

// window reads from when to when an app may be used. Both days are included, and days are those of UTC.
func (x *translator) window(conf dialect.Node) {
	days, message := conf.Get("access_date_range"), conf.Get("user_message")
	from, ok := date(days.Get("start"))
	to, ok2 := date(days.Get("end"))
	if !to.IsZero() {
		to = to.AddDate(0, 0, 1)
	}
	switch {
	case days.Unset() && message.Unset():
		days.Sentinel()
		message.Sentinel()
	case !days.Object():
		x.Name(access, "access_date_range must have a start and an end", days, message)
	case !ok || !ok2:
		x.Name(access, fmt.Sprintf("access_date_range must be dates as 2017-11-16 or 11/16/2017: %q to %q", dialect.Quote(days.Get("start")), dialect.Quote(days.Get("end"))),
			days.Get("start"), days.Get("end"), message)
	case !from.IsZero() && !to.IsZero() && !from.Before(to):
		x.Name(access, "access_date_range ends before it begins", days.Get("start"), days.Get("end"), message)
	case from.IsZero() && to.IsZero():
		days.Get("start").Sentinel()
		days.Get("end").Sentinel()
		if !message.Unset() {
			x.Name(access, "there are no dates that it is about", message)
		} else {
			message.Sentinel()
		}
	default:
		x.KeepEntry("apps.windows", Window{x.app, x.programs, from, to, dialect.TextOf(message)}, access, days.Get("start"), days.Get("end"), message)
		x.seen[access] = true
	}
	if days.Object() {
		x.others(access+".access_date_range", days, "start", "end")
	}
	x.others(access, conf, "access_date_range", "user_message")
}

// others names the fields that are none of those that are known.
func (x *translator) others(name string, in dialect.Node, known ...string) {
	for field, at := range in.Fields() {
		if !slices.Contains(known, field) {
			x.Unknown(name, field, at)
		}
	}
	if in.Unset() || in.Empty() {
		in.Sentinel()
	}
}

// date reads a day in one of the forms that the vendor prints; what is not configured is open.
func date(n dialect.Node) (t time.Time, ok bool) {
	if n.Unset() {
		return t, true
	}
	for _, form := range []string{time.DateOnly, "01/02/2006", "1/2/2006"} {
		if t, err := time.ParseInLocation(form, n.Word(), time.UTC); err == nil {
			return t, true
		}
	}
	return t, false
}
