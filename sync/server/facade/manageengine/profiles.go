package manageengine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	translator "github.com/warderd/warder/sync/dialect/manageengine"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

const kind = "profile"

// What a console has.
const (
	mostProfiles = 1000
	mostItems    = 100 // of one profile
	mostPage     = 50
)

// The states of a profile.
const (
	yetToDeploy = 1
	published   = 110
)

var statusNames = map[int]string{yetToDeploy: "Yet To Deploy", published: "Published"}

// document is a profile: what clients have written. An item is as it was written, with its id at the end.
type document struct {
	Name        string          `json:"profile_name"`
	Description string          `json:"profile_description"`
	Platform    int             `json:"platform_type"`
	Scope       int             `json:"scope"`
	Payloads    []storedPayload `json:"payloads"`
}

type storedPayload struct {
	Name  string            `json:"payload_name"`
	Items []json.RawMessage `json:"payloaditems"`
}

// state is what the façade keeps beside it.
type state struct {
	Version   int       `json:"version"`
	Status    int       `json:"status"`
	Trashed   bool      `json:"trashed"`
	Items     int64     `json:"items"` // how many there have been
	Changed   time.Time `json:"changed"`
	Published bool      `json:"published"` // once, at least
}

// profile is one as it is answered, in the order of the vendor's fields.
type profile struct {
	Created     int64  `json:"creation_time"` // milliseconds
	Changed     int64  `json:"last_modified_time"`
	Version     int    `json:"profile_version"`
	Payloads    any    `json:"payloads"`
	ChangedBy   int64  `json:"last_modified_by"`
	Description string `json:"profile_description"`
	CreatedBy   int64  `json:"created_by"`
	Collection  int64  `json:"collection_id"`
	Name        string `json:"profile_name"`
	Status      string `json:"profile_status"`
	Platform    int    `json:"platform_type"`
	Trashed     bool   `json:"is_moved_to_trash"`
	ID          int64  `json:"profile_id"`
	Scope       int    `json:"scope"`
	StatusID    int    `json:"profile_status_id"`
}

// user is the only one that the console knows: who it was is in the audit log.
const user = 1

// entry is a document that has been read.
type entry struct {
	*store.VendorDocument
	d document
	s state
}

func open(d *store.VendorDocument) (*entry, error) {
	e := &entry{VendorDocument: d}
	err := json.Unmarshal(d.Document, &e.d)
	if err == nil {
		err = json.Unmarshal(d.State, &e.s)
	}
	if err != nil {
		return nil, fmt.Errorf("profile %d of manageengine, as it is stored: %w", d.Number, err)
	}
	return e, nil
}

// keep writes what was changed back into the document.
func (e *entry) keep() error {
	b, err := facade.Marshal(e.d)
	if err != nil {
		return err
	}
	e.Document = b
	e.State, err = json.Marshal(e.s)
	return err
}

// shown is a profile as it is answered, with the contents of its payloads or their names alone.
func (e *entry) shown(whole bool) profile {
	p := profile{Created: e.CreatedAt.UnixMilli(), Changed: e.s.Changed.UnixMilli(), Version: e.s.Version, ChangedBy: user, CreatedBy: user,
		Description: e.d.Description, Collection: e.Number*1000 + int64(e.s.Version), Name: e.d.Name, Status: statusNames[e.s.Status], Platform: e.d.Platform,
		Trashed: e.s.Trashed, ID: e.Number, Scope: e.d.Scope, StatusID: e.s.Status}
	if whole {
		p.Payloads = e.d.Payloads
	} else {
		p.Payloads = e.names()
	}
	return p
}

func (e *entry) names() []string {
	names := []string{}
	for _, x := range e.d.Payloads {
		names = append(names, x.Name)
	}
	return names
}

func notFound(c *facade.Call, what string) error {
	return facade.NotFound(fmt.Sprintf("%s is not there", enforce.Plain(c.PathValue(what))))
}

// number is an id in a path or a list: a number, also one that is written as a text.
func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n > 0 && strconv.FormatInt(n, 10) == s
}

// profileOf is the profile in a path.
func profileOf(c *facade.Call) (*entry, error) {
	n, ok := number(c.PathValue("profile"))
	if !ok {
		return nil, notFound(c, "profile")
	}
	d, err := c.Fleet.Document(kind, n)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, notFound(c, "profile")
	}
	return open(d)
}

// change changes the profile in a path. What is written is yet to be deployed, and devices keep what was published before.
func change(c *facade.Call, what string, f func(*entry) (*facade.Update, error)) error {
	return c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		n, ok := number(c.PathValue("profile"))
		d := facade.Find(have, n)
		if !ok || d == nil {
			return nil, notFound(c, "profile")
		}
		e, err := open(d)
		if err != nil {
			return nil, err
		}
		if e.s.Trashed {
			return nil, &facade.Problem{Status: http.StatusConflict, Code: "trashed", Message: "the profile is in the trash"}
		}
		u, err := f(e)
		if err != nil {
			return nil, err
		}
		if err := e.keep(); err != nil {
			return nil, err
		}
		if err := facade.Room(have, d, mostProfiles); err != nil {
			return nil, err
		}
		if u == nil {
			u = &facade.Update{}
		}
		u.Documents, u.Detail = []*store.VendorDocument{d}, []string{what + ": " + enforce.Plain(e.d.Name)}
		return u, nil
	})
}

// edited marks a profile as changed.
func (e *entry) edited(c *facade.Call) { e.s.Status, e.s.Changed = yetToDeploy, c.Now }

// list answers GET profiles: what is not in the trash, or with trashed=1 what is, or with 2 both; fifty a page.
func list(c *facade.Call) (facade.Answer, error) {
	docs, err := c.Fleet.Documents(kind)
	if err != nil {
		return facade.Answer{}, err
	}
	all := []profile{}
	for _, d := range docs {
		e, err := open(d)
		if err != nil {
			return facade.Answer{}, err
		}
		if t := c.Query.Get("trashed"); t == "2" || e.s.Trashed == (t == "1") {
			all = append(all, e.shown(false))
		}
	}
	page := func(name string, def, least, most int) (int, error) {
		v := c.Query.Get(name)
		if v == "" {
			return def, nil
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return 0, invalid(name, fmt.Sprintf("must be a whole number from %d to %d", least, most))
		}
		return n, nil
	}
	limit, err := page("limit", mostPage, 1, 1000)
	if err != nil {
		return facade.Answer{}, err
	}
	offset, err := page("offset", 0, 0, 1<<30)
	if err != nil {
		return facade.Answer{}, err
	}
	from := min(offset, len(all))
	to := min(from+limit, len(all))
	out := struct {
		Meta     map[string]int    `json:"metadata,omitempty"`
		Profiles []profile         `json:"profiles"`
		Paging   map[string]string `json:"paging,omitempty"`
	}{Profiles: all[from:to]}
	if from > 0 || to < len(all) {
		out.Meta, out.Paging = map[string]int{"total_record_count": len(all)}, map[string]string{}
		link := func(offset int) string {
			v := c.Query
			v.Set("limit", strconv.Itoa(limit))
			v.Set("offset", strconv.Itoa(offset))
			return "https://" + c.Host + profiles + "?" + v.Encode()
		}
		if to < len(all) {
			out.Paging["next"] = link(to)
		}
		if from > 0 {
			out.Paging["previous"] = link(max(from-limit, 0))
		}
	}
	return answer(http.StatusOK, out)
}

// named is what is said of a profile, beside its payloads.
type named struct {
	Name        *string `json:"profile_name"`
	Description *string `json:"profile_description"`
	Platform    *small  `json:"platform_type"`
	Scope       *small  `json:"scope"`
}

// small is a small number, which may be written as a text, as ids may; -1 is one that is none.
type small int

// UnmarshalJSON takes both.
func (s *small) UnmarshalJSON(b []byte) error {
	n, ok := whole(string(b))
	if *s = small(n); !ok || n != int64(*s) {
		*s = -1
	}
	return nil
}

// whole is a number by its value, in whatever form it is written; false if it is none, or not a whole one. What is too large is the largest.
func whole(text string) (int64, bool) {
	f, err := strconv.ParseFloat(strings.Trim(strings.TrimSpace(text), `"`), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(f) || f != math.Trunc(f) {
		return 0, false
	}
	return int64(min(max(f, math.MinInt32), math.MaxInt32)), true
}

// into takes what was given into a profile.
func (n *named) into(d *document) error {
	for _, x := range []struct {
		field string
		given *string
		to    *string
		least int
		most  int
	}{{"profile_name", n.Name, &d.Name, 1, 255}, {"profile_description", n.Description, &d.Description, 0, 1000}} {
		if x.given == nil {
			continue
		}
		if l := utf8.RuneCountInString(*x.given); l < x.least || l > x.most || !facade.Printable(*x.given, x.least == 0) || x.least > 0 && strings.TrimSpace(*x.given) == "" {
			return invalid(x.field, fmt.Sprintf("must have %d to %d characters, and no control characters", x.least, x.most))
		}
		*x.to = *x.given
	}
	return nil
}

// create answers POST profiles.
func create(c *facade.Call) (facade.Answer, error) {
	var in named
	if err := read(c, &in); err != nil {
		return facade.Answer{}, err
	}
	switch {
	case in.Name == nil:
		return facade.Answer{}, invalid("profile_name", "is required")
	case in.Platform == nil:
		return facade.Answer{}, invalid("platform_type", "is required")
	case *in.Platform < 1 || *in.Platform > 9:
		return facade.Answer{}, invalid("platform_type", "must be 1 (iOS), 2 (Android), 3 (Windows) or 4 (Chrome)")
	case in.Scope != nil && (*in.Scope < 0 || *in.Scope > 2):
		return facade.Answer{}, invalid("scope", "must be 0, 1 or 2")
	}
	var e *entry
	err := c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		e = &entry{VendorDocument: &store.VendorDocument{}, d: document{Platform: int(*in.Platform), Payloads: []storedPayload{}}, s: state{Version: 1, Status: yetToDeploy, Changed: c.Now}}
		if in.Scope != nil {
			e.d.Scope = int(*in.Scope)
		}
		if err := in.into(&e.d); err != nil {
			return nil, err
		}
		if err := e.keep(); err != nil {
			return nil, err
		}
		if err := facade.Room(have, e.VendorDocument, mostProfiles); err != nil {
			return nil, err
		}
		return &facade.Update{Documents: []*store.VendorDocument{e.VendorDocument}, Detail: []string{"created: " + enforce.Plain(e.d.Name)}}, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, e.shown(false))
}

// get answers GET profiles/{id}, with what is in its payloads if include=payloaditems asks for it.
func get(c *facade.Call) (facade.Answer, error) {
	e, err := profileOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, e.shown(slices.Contains(strings.Split(c.Query.Get("include"), ","), "payloaditems")))
}

// modify answers PUT profiles/{id}.
func modify(c *facade.Call) (facade.Answer, error) {
	var in named
	if err := read(c, &in); err != nil {
		return facade.Answer{}, err
	}
	if in.Name == nil && in.Description == nil {
		return facade.Answer{}, invalid("profile_name", "or profile_description is required")
	}
	var out profile
	err := change(c, "changed", func(e *entry) (*facade.Update, error) {
		if err := in.into(&e.d); err != nil {
			return nil, err
		}
		e.edited(c)
		out = e.shown(false)
		return nil, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// trash answers DELETE profiles: those that are in the trash already are deleted for good. One object is answered, that of the first.
func trash(c *facade.Call) (facade.Answer, error) {
	var in struct {
		IDs []json.RawMessage `json:"profile_ids"`
	}
	if err := read(c, &in); err != nil {
		return facade.Answer{}, err
	}
	if len(in.IDs) == 0 || len(in.IDs) > mostProfiles {
		return facade.Answer{}, invalid("profile_ids", "is required: a list of ids")
	}
	var out *profile
	err := c.Fleet.Change(kind, func(have []*store.VendorDocument) (*facade.Update, error) {
		u := &facade.Update{Detail: []string{"to the trash, or deleted from it"}}
		out = nil
		for _, raw := range in.IDs {
			n, ok := number(strings.Trim(string(raw), `"`))
			d := facade.Find(have, n)
			if !ok || d == nil {
				return nil, facade.NotFound(fmt.Sprintf("profile %.40s is not there", enforce.Plain(string(raw))))
			}
			if slices.Contains(u.Documents, d) {
				continue
			}
			e, err := open(d)
			if err != nil {
				return nil, err
			}
			if e.s.Trashed {
				d.Gone = true
			}
			e.s.Trashed, e.s.Changed = true, c.Now
			if err := e.keep(); err != nil {
				return nil, err
			}
			u.Documents = append(u.Documents, d)
			u.Publish = append(u.Publish, facade.Publication{Document: d}) // in force nowhere
			if out == nil {
				p := e.shown(false)
				out = &p
			}
		}
		return u, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// publication brings a profile into force as it is.
func publication(c *facade.Call, e *entry) (*facade.Update, error) {
	b, err := facade.Marshal(e.shown(true))
	if err != nil {
		return nil, err
	}
	t, err := translator.Translate(b, dialect.Options{Whole: c.Whole})
	if err != nil {
		return nil, &facade.Problem{Status: http.StatusConflict, Code: "untranslatable", Message: err.Error()}
	}
	p := facade.Publication{Document: e.VendorDocument, Translation: &t, Carried: facade.CarriedOf(&t)}
	p.Carried.Notes = append(p.Carried.Notes, "Whom it is for is not among these calls: assign it here.")
	return &facade.Update{Publish: []facade.Publication{p}}, nil
}

// publish answers POST profiles/{id}/publish. What is published again after a change is the next version.
func publish(c *facade.Call) (facade.Answer, error) {
	var out json.RawMessage
	err := change(c, "published", func(e *entry) (*facade.Update, error) {
		if out = e.first(); out == nil {
			return nil, &facade.Problem{Status: http.StatusConflict, Code: "empty", Message: "the profile has no payload"}
		}
		if e.s.Status != published && e.s.Published {
			e.s.Version++
		}
		if e.s.Status != published {
			e.s.Status, e.s.Published, e.s.Changed = published, true, c.Now
		}
		return publication(c, e)
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// updateAll answers PUT profiles/{id}/update_all: what is published reaches all that have the profile, which publishing has done already.
func updateAll(c *facade.Call) (facade.Answer, error) {
	var out json.RawMessage
	err := change(c, "updated", func(e *entry) (*facade.Update, error) {
		if out = e.first(); e.s.Status != published || out == nil {
			return nil, &facade.Problem{Status: http.StatusConflict, Code: "unpublished", Message: "the profile is not published"}
		}
		return publication(c, e)
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// first is the first item of the first payload, which the vendor answers where it acts on a whole profile.
func (e *entry) first() json.RawMessage {
	for _, x := range e.d.Payloads {
		if len(x.Items) > 0 {
			return x.Items[0]
		}
	}
	return nil
}

// idOf is the id of an item.
func idOf(item json.RawMessage) int64 {
	var x struct {
		ID int64 `json:"payload_id"`
	}
	_ = json.Unmarshal(item, &x) // of what this package has written
	return x.ID
}

// payloadOf is the payload in a path; nil if the profile has none of that name.
func (e *entry) payloadOf(c *facade.Call) *storedPayload {
	if i := slices.IndexFunc(e.d.Payloads, func(x storedPayload) bool { return x.Name == c.PathValue("payload") }); i >= 0 {
		return &e.d.Payloads[i]
	}
	return nil
}

// itemOf is the item in a path, by its place; -1 if there is none.
func (x *storedPayload) itemOf(c *facade.Call) int {
	n, ok := number(c.PathValue("item"))
	if x == nil || !ok {
		return -1
	}
	return slices.IndexFunc(x.Items, func(i json.RawMessage) bool { return idOf(i) == n })
}

func payloadNames(c *facade.Call) (facade.Answer, error) {
	e, err := profileOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, map[string][]string{"payloads": e.names()})
}

func payloadIDs(c *facade.Call) (facade.Answer, error) {
	e, err := profileOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	x := e.payloadOf(c)
	if x == nil {
		return facade.Answer{}, notFound(c, "payload")
	}
	out := struct {
		Name  string   `json:"payload_name"`
		Items []string `json:"payloaditems"` // in texts, as there
	}{x.Name, []string{}}
	for _, i := range x.Items {
		out.Items = append(out.Items, strconv.FormatInt(idOf(i), 10))
	}
	return answer(http.StatusOK, out)
}

func getItem(c *facade.Call) (facade.Answer, error) {
	e, err := profileOf(c)
	if err != nil {
		return facade.Answer{}, err
	}
	x := e.payloadOf(c)
	i := x.itemOf(c)
	if i < 0 {
		return facade.Answer{}, notFound(c, "item")
	}
	return answer(http.StatusOK, x.Items[i])
}

// content reads what a payload is to have, and checks what the vendor checks.
func content(c *facade.Call) (json.RawMessage, error) {
	name := c.PathValue("payload")
	if len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return nil, notFound(c, "payload")
	}
	doc, err := dialect.Read(c.Body) // its bounds, and fields that come twice
	if err != nil {
		return nil, malformed()
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(c.Body, &fields) != nil || fields == nil {
		return nil, malformed()
	}
	known := 0
	for field, raw := range fields {
		row, own := rowOf(name, field)
		if own {
			known++
		}
		if row == nil {
			continue
		}
		switch at := doc.Root().Get(field); row.How {
		case dialect.Number:
			if err := within(row, field, raw); err != nil {
				return nil, err
			}
		case dialect.Allows, dialect.Forbids, dialect.Requires:
			if _, is := at.Flag(); !is && !at.Unset() && len(row.Codes) == 0 {
				return nil, invalid(field, "must be true or false")
			}
		}
	}
	if _, is := fields["field1"]; is && known == 0 {
		return nil, malformed() // what stands in the vendor's documentation for something else
	}
	if _, is := fields["payload_id"]; is { // of what was read before
		return facade.Without(c.Body, "payload_id")
	}
	return c.Body, nil
}

// printedUnder is the payload under whose name the vendor's documentation sends passcodes.
const printedUnder = "restrictionspolicy"

// rowOf is a field of a payload in the translator's catalogue. Passcodes under the name of
// another payload are checked as what they are.
func rowOf(payload, field string) (row *dialect.Row, known bool) {
	names := []string{payload}
	if payload == printedUnder {
		names = append(names, "passcodepolicy")
	}
	for _, name := range names {
		rows := dialect.Of(translator.Rows, name)
		if i := slices.IndexFunc(rows, func(r dialect.Row) bool { return r.Field == field }); i >= 0 {
			return &rows[i], true
		}
	}
	return nil, false
}

// idle are the minutes of idle time that there are.
var idle = []int64{1, 2, 3, 4, 5, 10, 15}

// within checks a number: -1 and "" are not configured, as is 0 where the catalogue says so.
func within(row *dialect.Row, field string, raw json.RawMessage) error {
	text := strings.Trim(string(bytes.TrimSpace(raw)), `"`)
	if text == "" || text == "null" || text == "--" || text == "-1" || text == "0" && row.Zero {
		return nil
	}
	n, ok := whole(text)
	switch {
	case !ok:
		return invalid(field, "must be a whole number")
	case row.High > 0 && (n < row.Low || n > row.High):
		return invalid(field, fmt.Sprintf("must be from %d to %d", row.Low, row.High))
	case field == "auto_lock_idle_for" && row.High == 15 && !slices.Contains(idle, n):
		return invalid(field, "must be one of 1, 2, 3, 4, 5, 10, 15")
	}
	return nil
}

// addItem answers POST payloads/{name}.
func addItem(c *facade.Call) (facade.Answer, error) {
	raw, err := content(c)
	if err != nil {
		return facade.Answer{}, err
	}
	var out json.RawMessage
	err = change(c, "payload added", func(e *entry) (*facade.Update, error) {
		n := 0
		for _, x := range e.d.Payloads {
			n += len(x.Items)
		}
		if n >= mostItems {
			return nil, &facade.Problem{Status: http.StatusConflict, Code: "too_many", Message: fmt.Sprintf("a profile may have at most %d payloads", mostItems)}
		}
		e.s.Items++
		out, err = facade.After(raw, "payload_id", e.Number*1_000_000+e.s.Items)
		if err != nil {
			return nil, malformed()
		}
		x := e.payloadOf(c)
		if x == nil {
			e.d.Payloads = append(e.d.Payloads, storedPayload{Name: c.PathValue("payload")})
			x = &e.d.Payloads[len(e.d.Payloads)-1]
		}
		x.Items = append(x.Items, out)
		e.edited(c)
		return nil, e.translatable(c)
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// translatable refuses what could not be published.
func (e *entry) translatable(c *facade.Call) error {
	if e.first() == nil {
		return nil
	}
	probe := *e
	probe.s.Status, probe.s.Trashed = published, false
	if _, err := publication(c, &probe); err != nil {
		var p *facade.Problem
		if errors.As(err, &p) {
			return facade.Bad(p.Message)
		}
		return err
	}
	return nil
}

// modifyItem answers PUT payloads/{name}/payloaditems/{id}.
func modifyItem(c *facade.Call) (facade.Answer, error) {
	raw, err := content(c)
	if err != nil {
		return facade.Answer{}, err
	}
	var out json.RawMessage
	err = change(c, "payload changed", func(e *entry) (*facade.Update, error) {
		x := e.payloadOf(c)
		i := x.itemOf(c)
		if i < 0 {
			return nil, notFound(c, "item")
		}
		if out, err = facade.After(raw, "payload_id", idOf(x.Items[i])); err != nil {
			return nil, malformed()
		}
		x.Items[i] = out
		e.edited(c)
		return nil, e.translatable(c)
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// removeItem answers DELETE payloads/{name}/payloaditems/{id} with what was removed.
func removeItem(c *facade.Call) (facade.Answer, error) {
	var out json.RawMessage
	err := change(c, "payload removed", func(e *entry) (*facade.Update, error) {
		x := e.payloadOf(c)
		i := x.itemOf(c)
		if i < 0 {
			return nil, notFound(c, "item")
		}
		out = x.Items[i]
		x.Items = slices.Delete(x.Items, i, i+1)
		e.d.Payloads = slices.DeleteFunc(e.d.Payloads, func(y storedPayload) bool { return len(y.Items) == 0 })
		e.edited(c)
		return nil, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}

// removePayload answers DELETE payloads/{name} with the first item that was removed.
func removePayload(c *facade.Call) (facade.Answer, error) {
	var out json.RawMessage
	err := change(c, "payload removed", func(e *entry) (*facade.Update, error) {
		x := e.payloadOf(c)
		if x == nil || len(x.Items) == 0 {
			return nil, notFound(c, "payload")
		}
		out = x.Items[0]
		e.d.Payloads = slices.DeleteFunc(e.d.Payloads, func(y storedPayload) bool { return y.Name == c.PathValue("payload") })
		e.edited(c)
		return nil, nil
	})
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, out)
}
