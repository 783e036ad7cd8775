// Package wso2 translates policies of WSO2 EMM, IoT Server and Entgra: the object that GET policies/{id} and effective-policy answer.
package wso2

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
)

// Vendor is what sources of this kind are called.
const Vendor = "wso2"

// Translate translates one policy. An error says why a document is none.
func Translate(data []byte) (dialect.Translation, error) {
	doc, err := dialect.Read(data)
	if err != nil {
		return dialect.Translation{}, err
	}
	x := &translator{Builder: dialect.Build(Vendor, doc)}
	root := doc.Root()
	features := root.Get("profile").Get("profileFeaturesList")
	if id := root.Get("id").Word(); id == "" || !features.List() {
		return dialect.Translation{}, errors.New("it is no policy: it has no id, or no list profile.profileFeaturesList (of an answer with several policies, or with messageFromServer, take the policy itself)")
	}
	x.policy(root)
	x.profile(root.Get("profile"))
	x.Translation().Source = Vendor + ":" + dialect.Text(root.Get("id"))
	return x.Finish()
}

type translator struct{ *dialect.Builder }

// envelope are the fields of a policy, and of a profile, that say nothing about a device.
var (
	envelope        = []string{"id", "priorityId", "policyName", "description", "tenantId", "profileId", "generic", "active", "updated", "policyType", "policyPayloadVersion"}
	profileEnvelope = []string{"profileId", "profileName", "tenantId", "deviceType", "createdDate", "updatedDate"}
	featureEnvelope = []string{"id", "featureCode", "profileId", "deviceTypeId", "deviceType"}
)

// policy reads what is around the features.
func (x *translator) policy(root dialect.Node) {
	t := x.Translation()
	x.Call(root.Get("policyName").Word())
	if active, ok := root.Get("active").Flag(); ok && !active {
		t.Released = true
	}
	t.Selection.Priority, _ = root.Get("priorityId").Number()
	if strings.EqualFold(root.Get("policyType").Word(), "CORRECTIVE") {
		x.Name(root.Get("policyType"), "policyType", "a policy that is applied when another one is not complied with: it is taken for what it says, in monitor mode at most")
	}
	for _, name := range envelope {
		if at := root.Get(name); name != "policyType" || !strings.EqualFold(at.Word(), "CORRECTIVE") {
			at.Envelope()
		}
	}
	if at := root.Get("ownershipType"); at.Is() {
		if o := at.Word(); o != "" && !strings.EqualFold(o, "ANY") {
			t.Selection.Ownership = o
		}
		at.Envelope()
	}
	for _, l := range []struct {
		name, field string
		to          *[]string
	}{{"roles", "", &t.Selection.Roles}, {"users", "", &t.Selection.Users}, {"deviceGroups", "id", &t.Selection.Groups}, {"devices", "deviceIdentifier", &t.Selection.Devices}} {
		at := root.Get(l.name)
		t.Selection.Unknown = t.Selection.Unknown || !at.List() && !at.Unset()
		everybody := false
		for _, e := range at.Items() {
			who := e
			if l.field != "" && e.Get(l.field).Is() {
				who = e.Get(l.field)
			}
			w := dialect.Text(who)
			switch {
			case strings.EqualFold(w, "ANY"), strings.EqualFold(e.Get("name").Word(), "ANY"): // which is how the console writes everybody
				everybody = true
			case w == "":
				t.Selection.Unknown = true
			case !slices.Contains(*l.to, w):
				*l.to = append(*l.to, w)
			}
		}
		if everybody {
			*l.to = nil
		}
		at.Envelope()
	}
	if at := root.Get("policyCriterias"); len(at.Items()) > 0 || !at.List() && !at.Unset() {
		t.Selection.Unknown = true
		x.Name(at, "policyCriterias", "custom criteria are not evaluated")
	} else {
		at.Envelope()
	}
	at := root.Get("compliance")
	switch word := strings.ToLower(at.Word()); word {
	case "enforce":
		x.Mode(at, enforce.Enforce)
	case "warn", "warning":
		x.Mode(at, enforce.Warn)
	case "monitor":
		x.Mode(at, enforce.Monitor)
	default:
		x.Mode(dialect.Node{}, enforce.Monitor)
		x.Name(at, "compliance", fmt.Sprintf("%q is not known: it is in monitor mode", dialect.Text(at)))
	}
	if strings.EqualFold(root.Get("policyType").Word(), "CORRECTIVE") {
		x.Mode(dialect.Node{}, enforce.Monitor)
	}
}

// profile reads the features.
func (x *translator) profile(p dialect.Node) {
	t := x.Translation()
	kind := p.Get("deviceType").Word()
	if kind == "" {
		kind = p.Get("deviceType").Get("name").Word()
	}
	if id, ok := p.Get("deviceType").Get("id").Number(); kind == "" && ok && id >= 1 && id <= 3 {
		kind = []string{"android", "windows", "ios"}[id-1]
	}
	if kind = enforce.Plain(kind); kind != "" {
		t.Selection.DeviceTypes = []string{kind}
	} else if !p.Get("deviceType").Unset() {
		t.Selection.Unknown = true
	}
	for _, name := range profileEnvelope {
		p.Get(name).Envelope()
	}
	list := p.Get("profileFeaturesList")
	var parts []string
	for _, f := range list.Items() {
		coded := false
		code, content := f.Get("featureCode").Word(), f.Get("content")
		parts = append(parts, code+"\x00"+content.Canonical())
		if content.Is() {
			x.feature(code, content)
		} else if rows := rowsOf(code); len(rows) == 0 || rows[0].how == forbidden {
			x.whole(rowOf(code), f.Get("featureCode"))
			coded = true
		}
		for _, name := range featureEnvelope {
			if name != "featureCode" || !coded {
				f.Get(name).Envelope()
			}
		}
		if at := f.Get("correctiveActions"); len(at.Items()) > 0 {
			x.Name(at, code+".correctiveActions", "what is done when it is not complied with is the mode's")
		} else {
			at.Envelope()
		}
	}
	if len(list.Items()) == 0 {
		list.Sentinel()
	}
	slices.Sort(parts)
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x01")))
	t.Stamp = hex.EncodeToString(sum[:])
}

// feature reads one.
func (x *translator) feature(code string, content dialect.Node) {
	rows := rowsOf(code)
	whole := len(rows) == 1 && rows[0].Field == ""
	switch {
	case len(rows) == 0 && !unticked(code, content), whole:
		x.whole(rowOf(code), content)
		return
	case content.Unset():
		content.Sentinel()
		return
	}
	in, ok := content.Inside()
	if !ok || in.List() && len(in.Items()) > 0 {
		x.None(content, code)
		return
	}
	some := false
	for name, at := range in.Fields() {
		some = true
		if name == enabled && len(rows) == 0 {
			at.Sentinel()
			continue
		}
		i := slices.IndexFunc(rows, func(r Row) bool { return r.Field == name })
		switch {
		case i < 0 && at.Unset():
			at.Sentinel()
		case i < 0:
			x.None(at, code+"."+name)
		default:
			x.value(rows[i], at)
		}
	}
	if !some {
		in.Sentinel() // {} and [] say nothing
	}
}

func rowsOf(code string) (out []Row) {
	for _, r := range Rows {
		if r.Code == code {
			out = append(out, r)
		}
	}
	return out
}

// rowOf is the row of a feature that is looked at as a whole.
func rowOf(code string) Row {
	if rows := rowsOf(code); len(rows) > 0 {
		return rows[0]
	}
	return Row{Code: code, how: nothing}
}

// unticked reports whether a feature is a box that nobody has ticked, which the console saves with all others.
func unticked(code string, content dialect.Node) bool {
	box := strings.HasPrefix(code, "DISALLOW_") || strings.HasPrefix(code, "SET_") && strings.HasSuffix(code, "_DISABLED")
	in, ok := content.Inside()
	v, is := in.Get(enabled).Flag()
	return box && ok && is && !v
}

// whole says what becomes of a feature that is looked at as a whole.
func (x *translator) whole(r Row, content dialect.Node) {
	switch {
	case unticked(r.Code, content):
		in, _ := content.Inside()
		for name, at := range in.Fields() {
			if name == enabled {
				at.Sentinel()
			} else {
				x.None(at, r.Code+"."+name)
			}
		}
	case r.how == forbidden:
		x.Name(content, r.Code, never)
	case content.Unset() && len(rowsOf(r.Code)) > 0:
		content.Sentinel()
	case r.how == connects:
		x.Name(content, r.Code, fmt.Sprintf("no section for it yet (%s)", r.Setting))
	default:
		x.None(content, r.Code)
	}
}

// value reads a field of a feature.
func (x *translator) value(r Row, at dialect.Node) {
	name := r.name()
	if at.Unset() {
		at.Sentinel()
		return
	}
	var v any
	switch r.how {
	case number:
		n, ok := x.Number(at, name, r.low, r.high)
		if !ok {
			return
		}
		v = n
	case list:
		var ids []string
		for _, e := range at.Items() {
			id := dialect.Text(e)
			for _, field := range []string{"packageName", "appIdentifier", "appName"} {
				if id == "" {
					id = dialect.Text(e.Get(field))
				}
			}
			ids = append(ids, id)
		}
		if !at.List() || slices.Contains(ids, "") {
			x.Name(at, name, "must be a list of programs")
			return
		}
		v = r.list + strings.Join(ids, ", ")
	case word:
		mode, known := map[string]string{"black-list": "block", "white-list": "allow"}[at.Word()]
		if !known {
			x.Name(at, name, fmt.Sprintf("must be black-list or white-list: %q", dialect.Text(at)))
			return
		}
		v = mode
	default:
		b, ok := x.Flag(at, name)
		switch {
		case !ok:
			return
		case r.how == forbids && !b:
			at.Sentinel()
			return
		case r.how == forbids:
			b = false
		}
		v = b
	}
	if r.Later {
		x.Keep(at, name, r.Setting, v)
		return
	}
	x.Set(at, r.Setting, v)
	if r.Partial != "" {
		x.Less(r.Setting, r.Partial)
	}
}
