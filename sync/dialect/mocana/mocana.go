// Package mocana translates policy profiles of Mocana and Blue Cedar: the object that GET profile/{GUID}, or profile/mocana-browser/{GUID},
// answers.
package mocana

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/dialect"
)

// Vendor is what sources of this kind are called.
const Vendor = "mocana"

// CertRule says of the pages of hosts whether a browser shows them the certificate of the device. Of two that are about the same page the
// first counts.
type CertRule struct {
	Hosts       []string `json:"hosts"`          // as names in a policy: "acme.com" with all below it, "=acme.com" alone, "*.acme.com" without it
	Port        int64    `json:"port,omitempty"` // 0 is any
	Certificate bool     `json:"certificate"`
}

// Bookmark is a page that a browser offers.
type Bookmark struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// envelope are the fields of a profile that say nothing about a device.
var envelope = []string{"profile_id", "profile_name", "profile_desc", "profile_type", "profile_url"}

// Translate translates one profile. It does not say for which apps it is: the options do. An error says why a document is none.
func Translate(data []byte, o dialect.Options) (dialect.Translation, error) {
	doc, err := dialect.Read(data)
	if err != nil {
		return dialect.Translation{}, err
	}
	root := doc.Root()
	p := root.Get("profiles")
	kind, in := strings.ToLower(dialect.TextOf(p.Get("profile_type"))), p.Get("data")
	if !in.Object() || kind == "" || p.Get("profile_id").Word() == "" {
		return dialect.Translation{}, errors.New("it is no profile: it has no profiles.profile_id, profile_type or data (of a catalogue, take the profile itself)")
	}
	if !strings.EqualFold(root.Get("status").Word(), "OK") {
		return dialect.Translation{}, fmt.Errorf("the console answers with status %q: %s", dialect.Quote(root.Get("status")), dialect.Quote(root.Get("message")))
	}
	x := &translator{Builder: dialect.Build(Vendor, doc, o), kind: kind}
	x.Identify(dialect.TextOf(p.Get("profile_id")))
	x.Call(p.Get("profile_name").Word())
	x.Mode(dialect.Node{}, enforce.Enforce)
	root.Get("status").Envelope()
	root.Get("message").Envelope()
	for _, name := range envelope {
		if name != "profile_type" || kind != dar {
			p.Get(name).Envelope()
		}
	}
	t := x.Translation()
	if kind != browser {
		inside := in.Get("profile_data")
		t.Stamp = in.Get("profile_data_id").Word() + " " + in.Get("profile_data_stamp").Word()
		in.Get("profile_data_id").Envelope()
		in.Get("profile_data_stamp").Envelope()
		for field, at := range in.Fields() {
			if !slices.Contains([]string{"profile_data", "profile_data_id", "profile_data_stamp"}, field) {
				x.Unknown("data", field, at)
			}
		}
		var ok bool
		if in, ok = inside.Inside(); !ok || in.List() {
			return dialect.Translation{}, errors.New("its profile_data is no object, and no text with one in it")
		}
	}
	for id := range o.Apps {
		t.Selection.Apps = append(t.Selection.Apps, id)
	}
	slices.Sort(t.Selection.Apps)
	t.Selection.Unknown = len(t.Selection.Apps) == 0
	t.Stamp += " " + kind + " " + in.Canonical()
	x.data(p.Get("profile_type"), in)
	return x.Finish()
}

type translator struct {
	*dialect.Builder
	kind string
}

// data reads what a profile asks for: its kind, and what is in it.
func (x *translator) data(kind, in dialect.Node) {
	rows := dialect.Of(Rows, x.kind)
	switch x.kind {
	case sharing:
		x.sharing(rows, in)
	case certs:
		x.certs(rows, in)
	case browser:
		x.browser(rows, in)
	case vpn:
		x.tunnel(rows, in)
	case local:
		x.auth(rows, in)
	case dar:
		x.encryption(rows, kind, in)
	default:
		if len(rows) > 0 && rows[0].Field == "" {
			x.whole(rows[0], in)
			return
		}
		x.Fields(rows, x.kind, in)
	}
}

// whole says what becomes of a kind of profile that is looked at as a whole.
func (x *translator) whole(r dialect.Row, in dialect.Node) {
	for field, at := range in.Fields() {
		y := r
		y.As = x.kind + "." + field
		x.Value(y, at)
	}
	if in.Empty() {
		in.Sentinel()
	}
}

// programs are all that the apps are for which the profile is.
func (x *translator) programs() (out []string) {
	for _, list := range x.Options().Apps {
		out = append(out, list...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// sharing reads which way texts may go: the programs of the apps are work, and everything else is personal.
func (x *translator) sharing(rows []dialect.Row, in dialect.Node) {
	dir := [2]dialect.Node{in.Get(copying), in.Get(pasting)}
	var on []dialect.Node
	way := ""
	for i, at := range dir {
		blocked, ok := at.Flag()
		switch {
		case at.Unset(), ok && !blocked:
			at.Sentinel()
		case !ok:
			x.Name(rows[i].Full(), fmt.Sprintf("must be \"0\" or \"1\": %q", dialect.Quote(at)), at)
		case len(on) > 0:
			way, on = "none", append(on, at)
		default:
			way, on = rows[i].Words["1"], append(on, at)
		}
	}
	programs := x.programs()
	name := rows[0].Full()
	if way == rows[1].Words["1"] {
		name = rows[1].Full()
	}
	switch {
	case len(on) > 0 && len(programs) == 0:
		x.Name(name, "it is not said which programs of a laptop the app is", on...)
	case len(on) > 0:
		x.Set("dlp.zones", map[string]any{"work": map[string]any{"executables": programs}}, name)
		x.Set(rows[0].Setting, way, name, on...)
		x.Less(rows[0].Setting, name, rows[0].Partial)
	}
	x.FieldsBut(rows, x.kind, in, func(field string, r dialect.Row, at dialect.Node) bool {
		blocked, flag := at.Flag()
		switch {
		case field == copying || field == pasting:
		case r.How == dialect.Nothing && flag && !blocked, field == "webLinksBehavior" && at.Word() == "useSystemDefaults":
			x.idle(r, at)
		default:
			return false
		}
		return true
	})
}

// idle is a value that asks for nothing: the vendor's default.
func (x *translator) idle(r dialect.Row, at dialect.Node) {
	if _, flag := at.Flag(); flag {
		at.Sentinel()
		return
	}
	x.Name(r.Full(), "it is the vendor's default, and asks for nothing", at)
}

// certs reads to which hosts the certificate of a device is shown. A rule that shows none comes before all others, wherever it is written.
func (x *translator) certs(rows []dialect.Row, in dialect.Node) {
	name := rows[0].Full()
	list := in.Get(certRules)
	for _, certificate := range []bool{false, true} {
		for _, e := range list.Items() {
			action := e.Get("action").Word()
			if known := action == "noCertificate" || action == "useEnrollmentCertificate"; !known && certificate {
				x.Name(name, fmt.Sprintf("action is not known: %q", dialect.Quote(e.Get("action"))), e)
				continue
			} else if !known || (action == "useEnrollmentCertificate") != certificate {
				continue
			}
			hosts, ok := hosts(e.Get("host").Word())
			port, ok2 := port(e.Get("port"))
			at := []dialect.Node{e.Get("host"), e.Get("port"), e.Get("action")}
			switch {
			case !ok:
				x.Name(name, "host must be the name of a host, with * only at its beginning", at...)
			case !ok2:
				x.Name(name, fmt.Sprintf("port must be one, or *: %q", dialect.Quote(at[1])), at...)
			default:
				x.KeepEntry(rows[0].Setting, CertRule{hosts, port, certificate}, name, at...)
			}
			for field, more := range e.Fields() {
				if field != "host" && field != "port" && field != "action" {
					x.Unknown(name, field, more)
				}
			}
		}
	}
	for field, at := range in.Fields() {
		switch {
		case field == certRules && len(at.Items()) > 0:
		case field == certRules && (at.Unset() || at.Empty()):
			at.Sentinel()
		case field == certRules:
			x.Name(name, "must be a list", at)
		default:
			x.Unknown(x.kind, field, at)
		}
	}
	if in.Empty() {
		in.Sentinel()
	}
}

// hosts are a pattern of the vendor's as names of a policy: "*.acme.com" is all below acme.com, "*acme.com" also acme.com itself.
func hosts(pattern string) ([]string, bool) {
	name, all := strings.CutPrefix(strings.ToLower(pattern), "*")
	below := all && strings.HasPrefix(name, ".")
	name = strings.TrimPrefix(name, ".")
	if all && name == "" {
		return []string{"*"}, !below
	}
	switch {
	case below:
		name = "*." + name
	case !all:
		name = "=" + name
	}
	_, err := policy.ParseName(name)
	return []string{name}, err == nil && !strings.Contains(strings.TrimPrefix(name, "*."), "*")
}

// port is a port; none is 443, and 0 any.
func port(n dialect.Node) (int64, bool) {
	switch n.Word() {
	case "":
		return 443, n.Unset()
	case "*":
		return 0, true
	}
	p, ok := n.Number()
	return p, ok && p > 0 && p < 65536
}

// browser reads what a browser is like. Where no address can be entered, nothing can be searched for, whatever is said of that.
func (x *translator) browser(rows []dialect.Row, in dialect.Node) {
	entry, known := in.Get("allow_url_entry").Flag()
	x.FieldsBut(rows, x.kind, in, func(field string, r dialect.Row, at dialect.Node) bool {
		search, flag := at.Flag()
		switch {
		case field == "allow_search" && known && !entry && flag && search:
			x.Name(r.Full(), "allow_url_entry is false, and counts for this, too", at)
		case field == "sites" && len(at.Items()) > 0:
			x.sites(r, at)
		case strings.HasPrefix(field, "launcher_icon_"), field == "profile_id":
			at.Envelope()
		default:
			return false
		}
		return true
	})
}

func (x *translator) sites(r dialect.Row, list dialect.Node) {
	for _, e := range list.Items() {
		link, ok := dialect.Address(e.Get("url"))
		if !ok {
			x.Name(r.Full(), dialect.NoAddress, e)
			continue
		}
		x.KeepEntry(r.Setting, Bookmark{dialect.TextOf(e.Get("name")), link}, r.Full(), e.Get("name"), e.Get("url"))
		for field, at := range e.Fields() {
			switch {
			case field == "name" || field == "url":
			case field == "id" || field == "icon_id":
				at.Envelope()
			case field == "allow_close":
				if on, ok := at.Flag(); ok && !on {
					at.Sentinel()
					continue
				}
				x.Unknown(r.Full(), field, at)
			default:
				x.Unknown(r.Full(), field, at)
			}
		}
	}
}

// tunnel reads a VPN of an app's. A laptop's is of the whole machine, and where it ends is all that is kept of it here: the rest has secrets.
func (x *translator) tunnel(rows []dialect.Row, in dialect.Node) {
	r, _ := dialect.Field(rows, address)
	for field, at := range in.Fields() {
		row, known := dialect.Field(rows, field)
		switch {
		case at.Unset() || at.Empty():
			at.Sentinel()
		case field == address && !x.Options().Whole:
			x.Name(r.Full(), dialect.More+r.Whole, at)
		case field == address && !gateway(at):
			x.Name(r.Full(), "must be the address of a gateway", at)
		case field == address:
			x.Set(r.Setting, true, r.Full(), at)
			x.Less(r.Setting, r.Full(), r.Whole)
			x.Less(r.Setting, r.Full(), r.Partial)
		case known:
			x.Value(row, at)
		default: // nothing of it is quoted, as it may be a secret
			x.Value(dialect.Row{Name: x.kind, Field: field, Setting: "connections.vpn", How: dialect.Secret}, at)
		}
	}
	if in.Empty() {
		in.Sentinel()
	}
}

// gateway reports whether a place has the name or the address of a machine.
func gateway(n dialect.Node) bool {
	_, err := policy.ParseName(n.Word())
	_, flag := n.Flag()
	return err == nil && !flag && !strings.EqualFold(n.Word(), "none")
}

// encryption reads a profile for encrypted data: that it is there is what is asked for, unless it says that nothing is encrypted.
func (x *translator) encryption(rows []dialect.Row, kind, in dialect.Node) {
	off := in.Get(nullCipher)
	null, ok := off.Flag()
	idle := off.Unset() || off.Empty() || ok && !null
	sure := idle || ok
	x.FieldsBut(rows[1:], x.kind, in, func(field string, r dialect.Row, at dialect.Node) bool {
		switch {
		case field == nullCipher && idle:
			at.Sentinel()
		case field == nullCipher && !sure:
			x.Name(r.Full(), fmt.Sprintf("it is not known what it means: %q", dialect.Quote(at)), at)
		default:
			return false
		}
		return true
	})
	switch r := rows[0]; {
	case !sure:
		x.Name(r.Full(), "it is not said whether anything is encrypted (null_cipher)", kind)
	case !idle:
		kind.Envelope()
	case !x.Options().Whole:
		x.Name(r.Full(), dialect.More+r.Whole, kind)
	default:
		x.Set(r.Setting, true, r.Full(), kind)
		x.Less(r.Setting, r.Full(), r.Whole)
	}
}

// auth reads what the password of an app has to be like. What happens after too many failures is a lockout here, whatever it is there.
func (x *translator) auth(rows []dialect.Row, in dialect.Node) {
	history, said := in.Get("pass_history_enabled").Flag()
	action := in.Get("pass_invalid_action").Word()
	x.FieldsBut(rows, x.kind, in, func(field string, r dialect.Row, at dialect.Node) bool {
		switch {
		case field == "pass_history_count" && said && !history && !at.Unset():
			x.Name(r.Full(), "pass_history_enabled is 0: it is not in force", at)
		case field == "pass_history_enabled" && said && !history:
			at.Sentinel()
		case field == "pass_invalid_retries" && !strings.EqualFold(action, "lockout"):
			r.Partial = "it is not said that it is a lockout there, and it would be one for a while"
			x.Value(r, at)
		case field == "pass_invalid_action" && action != "" && !strings.EqualFold(action, "lockout"):
			x.Name(r.Full(), fmt.Sprintf("%q: a policy does not wipe, lock, restart, release or update a device", dialect.Quote(at)), at)
		default:
			return false
		}
		return true
	})
}
