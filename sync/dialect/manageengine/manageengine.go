// Package manageengine translates profiles of ManageEngine Mobile Device Manager Plus: the object that GET profiles/{id} answers with
// include=payloaditems.
package manageengine

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/dialect"
)

// Vendor is what sources of this kind are called.
const Vendor = "manageengine"

// published is the profile_status_id of a profile that is in force. All others are not yet, or not any more.
const published = "110"

// The names of what is read in other ways than by the catalogue alone.
const (
	custom     = "windowscustompolicy"
	urlDetails = "url_details"
	filterType = "url_filter_type"
	bookmarks  = "create_bookmarks"
	settingsID = "encryption_settings_id"
)

// webFilters are the payloads that list addresses of web pages.
var webFilters = []string{"webcontentfilterpolicy", "macwebcontentfilterpolicy", "androidwebcontentfilter"}

// envelope are the fields of a profile that say nothing about a device.
var envelope = []string{"profile_id", "profile_name", "profile_description", "profile_version", "profile_status", "profile_status_id",
	"is_moved_to_trash", "creation_time", "last_modified_time", "created_by", "last_modified_by", "created_by_user", "last_modified_by_user", "collection_id", "platform_type",
	"scope", "is_for_all_customers", "customer_id", "customer_name"}

// Translate translates one profile. An error says why a document is none, or is no answer to what is in force.
func Translate(data []byte, o dialect.Options) (dialect.Translation, error) {
	doc, err := dialect.Read(data)
	if err != nil {
		return dialect.Translation{}, err
	}
	root := doc.Root()
	id, status, payloads := dialect.TextOf(root.Get("profile_id")), root.Get("profile_status_id").Word(), root.Get("payloads")
	gone := root.Get("is_moved_to_trash")
	trashed, said := gone.Flag()
	switch {
	case id == "" || !payloads.List():
		return dialect.Translation{}, errors.New("it is no profile: it has no profile_id, or no list payloads (of a list of profiles, take the profile itself)")
	case status == "":
		return dialect.Translation{}, errors.New("it does not say whether it is in force: profile_status_id is missing")
	case !said && !gone.Unset():
		return dialect.Translation{}, fmt.Errorf("is_moved_to_trash must be true or false: it does not say whether it is in force (%q)", dialect.Quote(gone))
	case status == published && !trashed && !whole(payloads):
		return dialect.Translation{}, errors.New("it does not say what its payloads ask for: ask for it with include=payloaditems")
	}
	x := &translator{Builder: dialect.Build(Vendor, doc, o)}
	x.Identify(id)
	x.profile(root)
	x.Translation().Released = trashed || status != published
	for _, p := range payloads.Items() {
		x.payload(p)
	}
	if payloads.Empty() {
		payloads.Sentinel()
	}
	slices.Sort(x.Translation().Selection.DeviceTypes)
	return x.Finish()
}

type translator struct {
	*dialect.Builder
	scope string // what part of a device it is for; "" is all of it
	alone bool   // there is a list of what alone may be reached
}

// whole reports whether the payloads of a profile are there, and not their names or numbers alone. One that is published has some.
func whole(payloads dialect.Node) bool {
	for _, p := range payloads.Items() {
		items := p.Get("payloaditems")
		if !p.Object() || len(items.Items()) == 0 {
			return false
		}
		for _, i := range items.Items() {
			if !i.Object() {
				return false
			}
		}
	}
	return len(payloads.Items()) > 0
}

// profile reads what is around the payloads. The vendor has no modes: what is published is enforced.
func (x *translator) profile(root dialect.Node) {
	t := x.Translation()
	t.Selection.Unknown = true // to whom a profile is given is said elsewhere
	x.Call(root.Get("profile_name").Word())
	x.Mode(dialect.Node{}, enforce.Enforce)
	for _, name := range []string{"profile_version", "collection_id", "last_modified_time"} {
		t.Stamp += root.Get(name).Word() + " "
	}
	t.Stamp += root.Get("payloads").Canonical() + root.Get("scope").Word()
	switch scope := root.Get("scope"); {
	case scope.Word() == "0" || scope.Unset():
	case scope.Word() == "1":
		x.scope = "the profile is for a container of a device"
	case scope.Word() == "2":
		x.scope = "the profile is for users, and not for devices"
	default:
		x.scope = "the profile is for a part of a device"
	}
	for _, name := range envelope {
		root.Get(name).Envelope()
	}
}

// payload reads one, with its items.
func (x *translator) payload(p dialect.Node) {
	name := dialect.TextOf(p)
	if name == "" {
		name = dialect.TextOf(p.Get("payload_name"))
	}
	if len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		name = "payloads" // and nothing of it is quoted
	}
	if !p.Object() || len(p.Get("payloaditems").Items()) == 0 {
		what := p
		if p.Object() {
			what = p.Get("payload_name")
			p.Get("payloaditems").Sentinel()
		}
		x.Name(name, "what it asks for is not in this answer", what)
		return
	}
	x.forPlatform(name)
	p.Get("payload_name").Envelope()
	for _, item := range p.Get("payloaditems").Items() {
		if !item.Object() {
			x.Name(name, "what it asks for is not in this answer", item)
			continue
		}
		item.Get("payload_id").Envelope()
		x.item(name, item)
	}
}

// forPlatform notes for which devices a payload is. What a profile says of its platform contradicts itself, and the names do not.
func (x *translator) forPlatform(payload string) {
	kind := ""
	for _, k := range []string{"windows", "mac", "android", "tvos", "chrome", "ios"} {
		if strings.HasPrefix(payload, k) {
			kind = k
		}
	}
	if kind == "" && (len(dialect.Of(Rows, payload)) > 0 || slices.Contains(webFilters, payload)) {
		kind = "ios" // whose names have no beginning of their own
	}
	if t := x.Translation(); kind != "" && !slices.Contains(t.Selection.DeviceTypes, kind) {
		t.Selection.DeviceTypes = append(t.Selection.DeviceTypes, kind)
	}
}

// item reads the values of a payload.
func (x *translator) item(name string, item dialect.Node) {
	rows := x.rows(name)
	switch {
	case slices.Contains(webFilters, name):
		x.webFilter(name, item)
		return
	case name == custom:
		x.custom(item)
		return
	case len(rows) == 1 && rows[0].Field == "":
		for field, at := range item.Fields() {
			if field != "payload_id" {
				r := rows[0]
				r.As = name + "." + field
				x.Value(r, at)
			}
		}
		return
	case name == "macfilevault":
		// That it is there is what is asked for; its number says where the rest is.
		if at := item.Get(settingsID); numbered(at) {
			x.set(rows[0], true, at)
		} else if on, flag := at.Flag(); flag && !on || at.Empty() {
			at.Sentinel()
		} else if !at.Unset() {
			x.Name(name+"."+settingsID, "must be the number of settings", at)
		}
		rows = nil
	}
	for field, at := range item.Fields() {
		r, known := dialect.Field(rows, field)
		switch {
		case field == "payload_id", name == "macfilevault" && field == settingsID && !at.Unset():
		case known && name == "macfirewallpolicy" && at.Word() == "2": // left to the user
			x.Value(dialect.Row{Name: name, Field: field, How: dialect.Nothing, Why: "it is left to the user"}, at)
		case known:
			x.Value(r, at)
		case at.Unset():
			at.Sentinel()
		default:
			x.foreign(name, field, at)
		}
	}
}

// numbered reports whether a place has the number of something.
func numbered(n dialect.Node) bool {
	v, ok := n.Number()
	return ok && v > 0
}

// rows are those of a payload, for the part of a device that the profile is for.
func (x *translator) rows(name string) []dialect.Row {
	rows := dialect.Of(Rows, name)
	for i := range rows {
		if x.scope != "" && rows[i].Whole != "" {
			rows[i].Whole = x.scope + "; " + rows[i].Whole
		} else if x.scope != "" {
			rows[i].Whole = x.scope
		}
		rows[i].Part = x.scope != ""
	}
	return rows
}

// foreign names a field that its payload does not have. The vendor's own documents show a payload under the name of another one: it is not
// guessed which of the two was meant.
func (x *translator) foreign(name, field string, at dialect.Node) {
	for _, r := range Rows {
		if r.Field == field && r.Name != name {
			x.Name(name+"."+field, "it is a field of "+r.Name+", and has no meaning here", at)
			return
		}
	}
	x.None(name+"."+field, at)
}

// set is Value for a value that a place stands for.
func (x *translator) set(r dialect.Row, v any, at ...dialect.Node) {
	if r.Whole != "" && !x.Options().Whole {
		x.Name(r.Full(), dialect.More+r.Whole, at...)
		return
	}
	x.Set(r.Setting, v, r.Full(), at...)
	x.less(r, r.Full())
}

// less says what of a row a laptop cannot do, or does beyond it.
func (x *translator) less(r dialect.Row, name string) {
	for _, why := range []string{r.Whole, r.Partial} {
		if why != "" {
			x.Less(r.Setting, name, why)
		}
	}
}

// webFilter reads a list of addresses: names of hosts are the network's, and what has a path is the browser's.
func (x *translator) webFilter(name string, item dialect.Node) {
	allow, known := item.Get(filterType).Flag()
	marks, _ := item.Get(bookmarks).Flag()
	rows := x.rows(webFilters[0])
	block, _ := dialect.Field(rows, urlDetails)
	only, _ := dialect.Field(rows, filterType)
	hosts, links, used := []string{}, []string{}, []dialect.Node{}
	for _, e := range item.Get(urlDetails).Items() {
		at := e.Get("url")
		if !e.Object() {
			x.Name(name+"."+urlDetails, "must be an object with a url", e)
			continue
		}
		if link, ok := dialect.Address(at); ok && marks && !e.Get("bookmark_title").Unset() {
			x.KeepEntry("browser.bookmarks", map[string]string{"title": dialect.TextOf(e.Get("bookmark_title")), "url": link}, name+"."+bookmarks,
				e.Get("bookmark_title"), e.Get("bookmark_path"))
		} else {
			e.Get("bookmark_title").Envelope()
			e.Get("bookmark_path").Envelope()
		}
		for field, more := range e.Fields() {
			if field != "url" && field != "bookmark_title" && field != "bookmark_path" {
				x.Unknown(name+"."+urlDetails, field, more)
			}
		}
		names, path, ok := address(at.Word())
		switch {
		case at.Unset():
			at.Sentinel()
		case !known:
			x.Name(name+".url", "it is not said whether these addresses are allowed or refused (url_filter_type)", at)
		case !ok:
			x.Name(name+".url", dialect.NoAddress, at)
		case path && allow: // the name is needed to reach what is allowed below it
			links = append(links, dialect.TextOf(at))
			only.Partial = "what comes after the name of a host is not looked at"
			hosts, used = append(hosts, names...), append(used, at)
		case path:
			x.KeepEntry("browser.blocked_urls", dialect.TextOf(at), name+".url", at)
		default:
			hosts, used = append(hosts, names...), append(used, at)
		}
	}
	kind := item.Get(filterType)
	switch {
	case len(hosts) == 0 && known && len(item.Get(urlDetails).Items()) > 0:
		x.Name(name+"."+filterType, "no name of a host is allowed or refused by it", kind)
	case len(hosts) == 0 && known:
		x.Name(name+"."+filterType, "there is no list", kind)
	case !known && kind.Unset():
		kind.Sentinel()
	case !known:
		x.Name(name+"."+filterType, "must be true or false", kind)
	case allow && only.Whole != "" && !x.Options().Whole:
		x.Name(name+"."+urlDetails, dialect.More+only.Whole, append(used, kind)...)
	case allow && x.alone:
		x.Name(name+"."+urlDetails, "a list of what alone may be reached is asked for twice: together they allow more than each", append(used, kind)...)
	case allow:
		x.alone = true
		for _, link := range links {
			x.Beside("browser.allowed_urls", link)
		}
		x.Add(only.Setting, hosts, append(used, kind)...)
		x.less(only, name+"."+urlDetails)
	case block.Whole != "" && !x.Options().Whole:
		x.Name(name+"."+urlDetails, dialect.More+block.Whole, append(used, kind)...)
	default:
		x.Add(block.Setting, hosts, append(used, kind)...)
		x.less(block, name+"."+urlDetails)
	}
	for field, at := range item.Fields() {
		r, is := dialect.Field(rows, field)
		switch {
		case field == "payload_id" || field == filterType:
		case field == urlDetails && at.List() && len(at.Items()) > 0:
		case field == urlDetails && (at.Unset() || at.Empty()):
			at.Sentinel()
		case field == urlDetails:
			x.Name(name+"."+field, "must be a list", at)
		case field == bookmarks && marks:
			x.Name(name+"."+field, "no section for it yet (browser.bookmarks)", at)
		case field == bookmarks && !at.Unset():
			x.Value(dialect.Row{Name: name, Field: field, How: dialect.Forbids}, at)
		case is && field != bookmarks:
			if on, ok := at.Flag(); ok && !on {
				at.Sentinel()
				continue
			}
			r.Name = name
			x.Value(r, at)
		default:
			x.Unknown(name, field, at)
		}
	}
}

// address is the name of a web page's host, as a policy has it, and whether there is more than that: a path, or a port. The vendor's devices
// take a page with "www." and the one without it for the same.
func address(text string) (names []string, path, ok bool) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, false, false
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if _, err := policy.ParseName(host); err != nil || host == "" || strings.ContainsAny(host, "*=") {
		return nil, false, false
	}
	names = []string{host}
	if !strings.ContainsAny(host, ".:") { // a machine of the company's, and not all that ends in its name
		names = []string{"=" + host}
	}
	if bare, www := strings.CutPrefix(host, "www."); www && strings.Contains(bare, ".") {
		names = append(names, "="+bare)
	}
	return names, u.Port() != "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "", true
}

// area is where the settings are that the vendor of Windows calls a policy, for a device or for a user.
const area = "/vendor/msft/policy/config/"

// ofUser is what is said of a setting for one user of Windows.
const ofUser = "it is for a user there, and is done to the whole machine"

// custom reads settings that Windows knows by a path.
func (x *translator) custom(item dialect.Node) {
	for field, at := range item.Fields() {
		switch {
		case field == "payload_id":
		case field == "syncml_commands" && at.List() && len(at.Items()) > 0:
			list := at.Items()
			for i, c := range list {
				x.command(c, slices.ContainsFunc(list[min(i+1, len(list)):min(i+1+maxLater, len(list))], func(later dialect.Node) bool {
					return later.Get("action_type").Word() == "2" && strings.EqualFold(later.Get("loc_uri").Word(), c.Get("loc_uri").Word())
				}))
			}
		case field == "syncml_commands" && (at.Unset() || at.Empty()):
			at.Sentinel()
		default:
			x.Unknown(custom, field, at)
		}
	}
}

// maxLater is how far a command is looked for that takes another one back: the console has a handful in a payload.
const maxLater = 200

func (x *translator) command(c dialect.Node, undone bool) {
	if !c.Object() {
		x.None(custom+".syncml_commands", c)
		return
	}
	uri, data := c.Get("loc_uri"), c.Get("data")
	before, path, found := strings.Cut(strings.ToLower(uri.Word()), area)
	found = found && (before == "." || before == "./device" || before == "./user")
	name := custom + ":" + dialect.TextOf(uri)
	for _, f := range []string{"position", "name", "data_type", "action_type"} {
		c.Get(f).Envelope()
	}
	for field, at := range c.Fields() {
		if !slices.Contains([]string{"position", "name", "data_type", "action_type", "loc_uri", "data"}, field) {
			x.Unknown(custom, field, at)
		}
	}
	rows := x.rows(custom)
	i := slices.IndexFunc(rows, func(r dialect.Row) bool { return strings.EqualFold(r.Field, path) })
	raw, err := base64.StdEncoding.DecodeString(data.Word())
	switch action := c.Get("action_type").Word(); {
	case action == "2":
		x.Name(name, "it takes something away on Windows, and asks for nothing", uri, data)
	case undone:
		x.Name(name, "it is taken away again later on", uri, data)
	case action != "0" && action != "1":
		x.Name(name, "it is not known what is to be done with it (action_type)", uri, data)
	case !found || i < 0:
		x.None(name, uri, data)
	case err != nil || !data.Is():
		x.Name(name, "its data must be base64", uri, data)
	default:
		r := rows[i]
		r.As = name
		if before == "./user" {
			r.Whole, r.Part = ofUser, true
		}
		x.ValueOf(r, strings.TrimSpace(string(raw)), uri, data)
	}
}
