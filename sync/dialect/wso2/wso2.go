// Package wso2 translates policies of WSO2 EMM, IoT Server and Entgra: the object that GET policies/{id} and effective-policy answer.
package wso2

import (
	"crypto/sha256"
	"encoding/hex"
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
	if id := root.Get("id").Word(); id == "" || !features.Is() {
		return dialect.Translation{}, fmt.Errorf("it is no policy: it has no id, or no profile.profileFeaturesList")
	}
	x.policy(root)
	x.profile(root.Get("profile"))
	x.Translation().Source = Vendor + ":" + enforce.Plain(root.Get("id").Word())
	return x.Finish()
}

type translator struct{ *dialect.Builder }

// envelope are the fields of a policy, and of a profile, that say nothing about a device.
var (
	envelope        = []string{"id", "priorityId", "policyName", "description", "tenantId", "profileId", "generic", "active", "updated", "policyType"}
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
	for name, to := range map[string]*[]string{"roles": &t.Selection.Roles, "users": &t.Selection.Users, "deviceGroups": &t.Selection.Groups, "devices": &t.Selection.Devices} {
		at := root.Get(name)
		for _, e := range at.Items() {
			w := e.Word()
			for _, field := range []string{"name", "deviceIdentifier", "id"} {
				if w == "" {
					w = e.Get(field).Word()
				}
			}
			if w = enforce.Plain(w); w != "" && !slices.Contains(*to, w) {
				*to = append(*to, w)
			}
		}
		at.Envelope()
	}
	if at := root.Get("policyCriterias"); len(at.Items()) > 0 {
		x.Name(at, "policyCriterias", "criteria of one's own are not evaluated")
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
		x.Name(at, "compliance", fmt.Sprintf("%q is not known: it is in monitor mode", enforce.Plain(word)))
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
	if kind = enforce.Plain(kind); kind != "" {
		t.Selection.DeviceTypes = []string{kind}
	}
	for _, name := range profileEnvelope {
		p.Get(name).Envelope()
	}
	list := p.Get("profileFeaturesList")
	var parts []string
	for _, f := range list.Items() {
		code, content := f.Get("featureCode").Word(), f.Get("content")
		parts = append(parts, code+"\x00"+content.Canonical())
		x.feature(code, content)
		for _, name := range featureEnvelope {
			f.Get(name).Envelope()
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
	case !content.Is():
		return
	case whole:
		x.whole(rows[0], content)
		return
	case content.Unset():
		content.Sentinel()
		return
	}
	in, ok := content.Inside()
	if !ok || len(rows) == 0 {
		x.None(content, code)
		return
	}
	some := false
	for name, at := range in.Fields() {
		some = true
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

// whole says what becomes of a feature that is looked at as a whole.
func (x *translator) whole(r Row, content dialect.Node) {
	switch {
	case r.how == forbidden:
		x.Name(content, r.Code, never)
	case content.Unset():
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
			id := e.Word()
			for _, field := range []string{"packageName", "appIdentifier", "appName"} {
				if id == "" {
					id = e.Get(field).Word()
				}
			}
			ids = append(ids, enforce.Plain(id))
		}
		v = ids
	case word:
		v = enforce.Plain(at.Word())
		if mode, known := map[string]string{"black-list": "block", "white-list": "allow"}[at.Word()]; known {
			v = mode
		}
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
