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
func Translate(data []byte, o dialect.Options) (dialect.Translation, error) {
	doc, err := dialect.Read(data)
	if err != nil {
		return dialect.Translation{}, err
	}
	x := &translator{Builder: dialect.Build(Vendor, doc, o)}
	root := doc.Root()
	if at := root.Get("active"); !at.Unset() {
		if _, ok := at.Flag(); !ok {
			return dialect.Translation{}, fmt.Errorf("active must be true or false: it does not say whether it is in force (%q)", dialect.Quote(at))
		}
	}
	features := root.Get("profile").Get("profileFeaturesList")
	if id := root.Get("id").Word(); id == "" || !features.List() {
		return dialect.Translation{}, errors.New("it is no policy: it has no id, or no list profile.profileFeaturesList (of an answer with several policies, or with messageFromServer, take the policy itself)")
	}
	x.policy(root)
	x.profile(root.Get("profile"))
	x.Identify(dialect.TextOf(root.Get("id")))
	return x.Finish()
}

type translator struct {
	*dialect.Builder
	watches bool // whatever its mode is
}

// envelope are the fields of a policy, and of a profile, that say nothing about a device.
var (
	envelope        = []string{"id", "priorityId", "policyName", "description", "tenantId", "profileId", "generic", "active", "updated", "policyPayloadVersion"}
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
	if at := root.Get("priorityId"); !at.Unset() {
		n, ok := at.Number()
		if t.Selection.Priority = max(n, 0); !ok {
			x.Note(fmt.Sprintf("priorityId must be a whole number: %q", dialect.Quote(at)))
		}
	}
	for _, name := range envelope {
		root.Get(name).Envelope()
	}
	switch at := root.Get("policyType"); {
	case at.Unset(), strings.EqualFold(at.Word(), "GENERAL"):
		at.Envelope()
	case strings.EqualFold(at.Word(), "CORRECTIVE"):
		x.watches = true
		x.Note("It is applied when another one is not complied with: it is taken for what it says, in monitor mode at most.")
		x.Name("policyType", "in monitor mode at most", at)
	default:
		x.watches = true
		x.Note(fmt.Sprintf("Its type %q is not known: it is in monitor mode at most.", dialect.Quote(at)))
		x.Name("policyType", "is not known: in monitor mode at most", at)
	}
	if at := root.Get("ownershipType"); at.Is() {
		if o := at.Word(); o != "" && !strings.EqualFold(o, "ANY") {
			t.Selection.Ownership = enforce.Plain(o)
		}
		t.Selection.Unknown = t.Selection.Unknown || at.Word() == "" && !at.Unset()
		at.Envelope()
	}
	for _, l := range []struct {
		name, field string
		to          *[]string
	}{{"roles", "", &t.Selection.Roles}, {"users", "", &t.Selection.Users}, {"deviceGroups", "id", &t.Selection.Groups}, {"devices", "deviceIdentifier", &t.Selection.Devices}} {
		at := root.Get(l.name)
		t.Selection.Unknown = t.Selection.Unknown || !at.List() && !at.Unset()
		everybody, all := false, map[string]bool{}
		for _, e := range at.Items() {
			who := e
			if l.field != "" && e.Get(l.field).Is() {
				who = e.Get(l.field)
			}
			w := dialect.TextOf(who)
			switch {
			case w == "ANY" && l.name != "devices", l.name == "deviceGroups" && e.Get("name").Word() == "ANY": // which is how the console writes everybody
				everybody = true
			case w == "":
				t.Selection.Unknown = true
			case !all[w]:
				*l.to = append(*l.to, w)
				all[w] = true
			}
			if l.field == "" {
				e.Envelope()
			} else {
				e.EnvelopeAll() // a device or a group as the console describes it
			}
		}
		if everybody { // beside others it is not known what it means
			t.Selection.Unknown = t.Selection.Unknown || len(at.Items()) > 1
			*l.to = nil
		}
		at.Envelope()
	}
	if at := root.Get("policyCriterias"); len(at.Items()) > 0 || !at.List() && !at.Unset() {
		t.Selection.Unknown = true
		x.Name("policyCriterias", "custom criteria are not evaluated", at)
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
		x.Name("compliance", fmt.Sprintf("%q is not known: it is in monitor mode", dialect.Quote(at)), at)
		x.Note(fmt.Sprintf("Its mode %q is not known: it is in monitor mode.", dialect.Quote(at)))
	}
	if x.watches {
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
	p.Get("deviceType").Get("id").Envelope()
	p.Get("deviceType").Get("name").Envelope()
	list := p.Get("profileFeaturesList")
	var parts []string
	for _, f := range list.Items() {
		coded := false
		code, content := f.Get("featureCode").Word(), f.Get("content")
		parts = append(parts, fmt.Sprintf("%q %q", code, content.Canonical()))
		if content.Is() {
			x.feature(code, content)
		} else if rows := dialect.Of(Rows, code); len(rows) == 0 || rows[0].How == dialect.Never {
			x.whole(code, f.Get("featureCode"))
			coded = true
		} else {
			x.Name(code, "it does not say what is asked for", f.Get("featureCode"))
			coded = true
		}
		for _, name := range featureEnvelope {
			if name != "featureCode" || !coded {
				f.Get(name).Envelope()
			}
		}
		if at := f.Get("correctiveActions"); !at.Unset() && !at.Empty() {
			x.Name(code+".correctiveActions", "what is done when it is not complied with is the mode's", at)
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
	rows := dialect.Of(Rows, code)
	whole := len(rows) == 1 && rows[0].Field == ""
	switch {
	case len(rows) == 0 && !unticked(code, content), whole:
		x.whole(code, content)
		return
	case content.Unset():
		content.Sentinel()
		return
	}
	in, ok := content.Inside()
	if !ok || in.List() && len(in.Items()) > 0 {
		x.None(code, content)
		return
	}
	if len(rows) == 0 { // a box that nobody has ticked, whatever it is about
		rows = []dialect.Row{{Name: code, Field: enabled, As: code, How: dialect.Forbids}}
	}
	if rows[len(rows)-1].Setting == "apps.list" {
		x.apps(code, in, rows[len(rows)-1])
		return
	}
	x.Fields(rows, code, in)
}

// apps reads a list of programs with what it is for.
func (x *translator) apps(code string, in dialect.Node, list dialect.Row) {
	mode, kind := map[string]string{"BLACKLIST_APPLICATIONS": "block", "KIOSK_APPS": "allow"}[code], in.Get(restriction)
	if code == "APP-RESTRICTION" {
		mode = restrictions[strings.ToLower(kind.Word())]
	} else {
		kind = dialect.Node{}
	}
	names, ok := list.List(in.Get(list.Field))
	for field, at := range in.Fields() {
		switch {
		case field != list.Field && (field != restriction || !kind.Is()):
			x.Unknown(code, field, at)
		case at.Unset() || at.Empty():
			at.Sentinel()
		case field == restriction && mode == "":
			x.Name(code+"."+field, fmt.Sprintf("must be black-list or white-list: %q", dialect.Quote(at)), at)
		case field == list.Field && mode == "":
			x.Name(list.Full(), "it is not said what is to become of these programs", at)
		case field == list.Field && !ok:
			x.Name(list.Full(), "must be a list of programs", at)
		case field == list.Field:
			x.KeepApps(mode, names, list.Full(), at, kind)
		case !ok || in.Get(list.Field).Empty():
			x.Name(code+"."+field, "there is no list of programs", at)
		}
	}
	if in.Empty() {
		in.Sentinel()
	}
}

// unticked reports whether a feature is a box that nobody has ticked, which the console saves with all others.
func unticked(code string, content dialect.Node) bool {
	box := strings.HasPrefix(code, "DISALLOW_") || strings.HasPrefix(code, "SET_") && strings.HasSuffix(code, "_DISABLED")
	in, ok := content.Inside()
	v, is := in.Get(enabled).Flag()
	return box && ok && is && !v
}

// whole says what becomes of a feature that is looked at as a whole.
func (x *translator) whole(code string, content dialect.Node) {
	rows := dialect.Of(Rows, code)
	switch {
	case unticked(code, content):
		in, _ := content.Inside()
		x.Fields([]dialect.Row{{Name: code, Field: enabled, As: code, How: dialect.Forbids}}, code, in)
	case len(rows) == 0:
		x.None(code, content)
	default:
		x.Value(rows[0], content)
	}
}
