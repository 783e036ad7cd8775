package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/namelist"
	"github.com/warderd/warder/sync/server/store"
)

// Lists of names that are too long for a policy. A policy names one by its id and the SHA-256 of its text, and devices fetch it
// by that digest.

// upload is an endpoint whose handler reads the body itself, because it is too large to be held.
func upload[O any](f func(*API, *request) (O, error)) endpoint {
	e := get(f)
	e.stream = true
	return e
}

// streamed is an answer that is written while it is read, after the request has given its place back.
type streamed struct {
	kind string
	send func(http.ResponseWriter, *http.Request)
}

type nameListItem struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Version   int       `json:"version"`
	SHA256    string    `json:"sha256" doc:"of the newest version: what a policy names"`
	Names     int       `json:"names"`
	UpdatedAt time.Time `json:"updated_at"`
	Policies  []string  `json:"policies" doc:"ids of the policies that name a version of it"`
}

type nameListVersion struct {
	Version   int       `json:"version"`
	SHA256    string    `json:"sha256"`
	Names     int       `json:"names"`
	Bytes     int64     `json:"bytes" doc:"of its text"`
	Packed    int64     `json:"packed_bytes" doc:"what a device fetches"`
	ChangedBy string    `json:"changed_by"`
	ChangedAt time.Time `json:"changed_at"`
	Policies  []string  `json:"policies" doc:"ids of the policies that name this version"`
}

type nameListView struct {
	nameListItem
	CreatedAt time.Time         `json:"created_at"`
	Versions  []nameListVersion `json:"versions" doc:"newest first; old ones that no policy names are removed"`
}

type uploadedList struct {
	nameListItem
	Lines    int            `json:"lines" doc:"that were read"`
	BadLines int            `json:"bad_lines" doc:"that were left out"`
	Bad      []namelist.Bad `json:"bad" doc:"the first 10000 of them"`
	Same     bool           `json:"unchanged,omitempty" doc:"the newest version has these names already, so there is no new one"`
}

var uploadParams = []param{{name: "skip_bad", doc: "true: leave bad lines out and list them in the answer; otherwise nothing is stored if there is one",
	kind: "string", enum: []string{"true", "false"}}}

// named are the ids of the policies that name one of some digests.
func (a *API) named(digests ...string) []string {
	out := []string{}
	for id, p := range a.state.Load().Policies {
		if slices.ContainsFunc(digests, func(d string) bool { return bytes.Contains(p.Data, []byte(d)) }) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// item is a list for people.
func (a *API) item(l store.List, versions []store.ListVersion) nameListItem {
	out := nameListItem{ID: l.ID, Name: l.Name, Version: l.Version, UpdatedAt: second(l.UpdatedAt)}
	var digests []string
	for _, v := range versions {
		digests = append(digests, v.SHA256)
		if v.Version == l.Version {
			out.SHA256, out.Names = v.SHA256, v.Names
		}
	}
	out.Policies = a.named(digests...)
	return out
}

var nameListShelf = shelf[nameListItem]{
	id:   func(l nameListItem) string { return l.ID },
	text: func(l nameListItem) string { return l.Name + "\n" + l.ID + "\n" + l.SHA256 },
	orders: map[string]func(nameListItem) string{
		"":           func(l nameListItem) string { return strings.ToLower(l.Name) + "\x00" + l.Name },
		"name":       func(l nameListItem) string { return strings.ToLower(l.Name) + "\x00" + l.Name },
		"updated_at": func(l nameListItem) string { return sortable(l.UpdatedAt) },
	},
}

// listNameLists answers GET /lists.
func listNameLists(a *API, q *request) (listView[nameListItem], error) {
	lists, versions, err := a.Store.Lists(q.Context())
	if err != nil {
		return listView[nameListItem]{}, err
	}
	items := make([]nameListItem, 0, len(lists))
	for _, l := range lists {
		items = append(items, a.item(l, versions[l.ID]))
	}
	data, total, next, err := nameListShelf.cut(q, items)
	out := listOf(q, data, total)
	out.Next = next
	return out, err
}

// getNameList answers GET /lists/{id}.
func getNameList(a *API, q *request) (nameListView, error) {
	l, versions, err := a.Store.List(q.Context(), q.PathValue("id"))
	if err != nil {
		return nameListView{}, err
	}
	q.etag(l.Version)
	out := nameListView{nameListItem: a.item(l, versions), CreatedAt: second(l.CreatedAt), Versions: []nameListVersion{}}
	for _, v := range versions {
		out.Versions = append(out.Versions, nameListVersion{v.Version, v.SHA256, v.Names, v.Bytes, v.Packed, v.By, second(v.At), a.named(v.SHA256)})
	}
	return out, nil
}

// createNameList answers POST /lists?name=….
func createNameList(a *API, q *request) (uploadedList, error) {
	name := strings.TrimSpace(q.params.Get("name"))
	if name == "" {
		return uploadedList{}, invalid(policy.Errors{{Field: "?name", Message: "must be present and not empty", Received: q.params.Get("name")}})
	}
	out, err := a.uploaded(q, store.List{ID: "list-" + strings.ToLower(rand.Text()[:12]), Name: name}, nil, false)
	if err == nil {
		q.w.Header().Set("Location", protocol.Base+"/lists/"+out.ID)
	}
	return out, err
}

// putNameList answers PUT /lists/{id}: its next version.
func putNameList(a *API, q *request) (uploadedList, error) {
	l, versions, err := a.Store.List(q.Context(), q.PathValue("id"))
	if err != nil {
		return uploadedList{}, err
	}
	want, err := q.ifMatch()
	if err == nil {
		err = precondition(l.Version, want)
	}
	if err != nil {
		return uploadedList{}, err
	}
	renamed := false
	if name := strings.TrimSpace(q.params.Get("name")); name != "" {
		renamed, l.Name = name != l.Name, name
	}
	return a.uploaded(q, l, versions, renamed)
}

// uploadLimit is how long an upload may take, and uploadRest how long it may be silent.
const (
	uploadLimit = 15 * time.Minute
	uploadRest  = 30 * time.Second
	leastRate   = 8 << 10 // bytes a second, on average
)

// uploaded reads the body as a list's next version, and stores it.
func (a *API) uploaded(q *request, l store.List, versions []store.ListVersion, renamed bool) (out uploadedList, err error) {
	if q.Header.Get("Idempotency-Key") != "" {
		return out, bad("an upload takes no Idempotency-Key: the same names are the same version")
	}
	select { // one at a time: it takes some hundred megabytes
	case a.uploads <- struct{}{}:
		defer func() { <-a.uploads }()
	default:
		return out, &problem{status: http.StatusServiceUnavailable, code: "busy", message: "another list is being uploaded; try again later"}
	}
	body := &upstream{in: http.MaxBytesReader(q.w, q.Body, namelist.MaxUpload), c: http.NewResponseController(q.w),
		began: time.Now(), until: time.Now().Add(uploadLimit)}
	in, err := namelist.Read(body)
	_ = body.c.SetReadDeadline(time.Now().Add(time.Minute))
	_ = body.c.SetWriteDeadline(time.Now().Add(time.Minute))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return out, tooLarge(err, namelist.MaxUpload)
	case errors.Is(err, namelist.ErrTooLarge):
		return out, &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", message: err.Error()}
	case err != nil:
		return out, bad("the body cannot be read: " + err.Error())
	case in.BadLines > 0 && q.params.Get("skip_bad") != "true":
		return out, badLines(in)
	case in.Names == 0:
		return out, &problem{status: http.StatusBadRequest, code: "invalid_list", message: "the list has no names"}
	}
	v := store.ListVersion{List: l.ID, Version: l.Version + 1, SHA256: in.SHA256, Names: in.Names, Bytes: int64(in.Bytes),
		Packed: int64(len(in.Packed)), PackedDigest: in.PackedDigest, By: q.by, At: q.now}
	newest := slices.IndexFunc(versions, func(x store.ListVersion) bool { return x.Version == l.Version })
	out.Same = newest >= 0 && versions[newest].SHA256 == v.SHA256
	switch {
	case out.Same && renamed:
		if err := a.Store.RenameList(q.Context(), l, q.now); err != nil {
			return out, err
		}
	case !out.Same:
		if err := a.Store.PutList(q.Context(), l, v, l.Version, in.Packed); err != nil {
			return out, err
		}
		l.Version, l.UpdatedAt = v.Version, v.At
		versions = append(versions, v)
	}
	q.etag(l.Version)
	out.nameListItem, out.Lines, out.BadLines, out.Bad = a.item(l, versions), in.Lines, in.BadLines, in.Bad
	if out.Bad == nil {
		out.Bad = []namelist.Bad{}
	}
	return out, nil
}

// badLines is the refusal of a list with bad lines: every one of them, up to a bound.
func badLines(in *namelist.List) error {
	var errs policy.Errors
	for _, b := range in.Bad {
		errs = append(errs, policy.Error{Field: "line " + strconv.Itoa(b.Line), Message: b.Message, Received: b.Text})
	}
	message := fmt.Sprintf("%d of %d lines are not names; nothing was stored (with ?skip_bad=true they are left out)", in.BadLines, in.Lines)
	if more := in.BadLines - len(in.Bad); more > 0 {
		message += fmt.Sprintf("; the first %d are listed", len(in.Bad))
	}
	return &problem{http.StatusBadRequest, "invalid_list", message, errs}
}

// upstream is a body that may take long, if it goes on.
type upstream struct {
	in    io.Reader
	c     *http.ResponseController
	began time.Time
	until time.Time
	bytes int
}

// Read reads on.
func (u *upstream) Read(b []byte) (int, error) {
	now := time.Now()
	next := now.Add(uploadRest)
	if next.After(u.until) {
		next = u.until
	}
	if slow := now.Sub(u.began); slow > uploadRest && float64(u.bytes) < slow.Seconds()*leastRate {
		return 0, fmt.Errorf("it comes too slowly: %d bytes in %s", u.bytes, slow.Round(time.Second))
	}
	_ = u.c.SetReadDeadline(next)
	n, err := u.in.Read(b)
	u.bytes += n
	return n, err
}

// deleteNameList answers DELETE /lists/{id}.
func deleteNameList(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	return messageView{"list deleted", id}, a.Store.DeleteList(q.Context(), id, q.now)
}

// getNameListText sends the text of one version.
func getNameListText(a *API, q *request) (streamed, error) {
	_, versions, err := a.Store.List(q.Context(), q.PathValue("id"))
	if err != nil {
		return streamed{}, err
	}
	i := slices.IndexFunc(versions, func(v store.ListVersion) bool { return strconv.Itoa(v.Version) == q.PathValue("version") })
	if i < 0 {
		return streamed{}, store.ErrNotFound
	}
	place, ok := a.readings.enter(q.by, q.w)
	if !ok {
		return streamed{}, errDownloads
	}
	return streamed{"text/plain; charset=utf-8", func(w http.ResponseWriter, r *http.Request) {
		defer place.leave()
		text, err := protocol.UnpackList(a.Store.Packed(r.Context(), versions[i]))
		if err != nil {
			return
		}
		defer text.Close()
		w.Header().Set("Content-Length", strconv.FormatInt(versions[i].Bytes, 10))
		_, _ = io.Copy(place, text)
	}}, nil
}

var errDownloads = &problem{status: http.StatusServiceUnavailable, code: "busy", message: "too many lists are being sent; try again later"}

// fetchList sends a device the list that its policy names: packed, and from where it stopped the last time. If too many are
// being sent, the device is told when to come again.
func fetchList(a *API, q *request) (streamed, error) {
	v, err := a.Store.ListText(q.Context(), q.PathValue("sha256"))
	if err != nil {
		return streamed{}, err
	}
	place, ok := a.downloads.enter(q.sender.id, q.w)
	if !ok {
		q.w.Header().Set("Retry-After", strconv.Itoa(a.downloads.wait(time.Now())))
		a.stats.shed.Inc()
		return streamed{}, &detailed{http.StatusServiceUnavailable, protocol.Problem{Error: &protocol.ProblemBody{Code: "busy",
			Message: errDownloads.message}}}
	}
	return streamed{"application/zstd", func(w http.ResponseWriter, r *http.Request) {
		defer place.leave()
		w.Header().Set("ETag", strconv.Quote(v.PackedDigest))
		http.ServeContent(place, r, "", time.Time{}, a.Store.Packed(r.Context(), v))
	}}, nil
}

// listsThere refuses a document that names a list which is not there: its devices could never fetch it.
func (a *API) listsThere(ctx context.Context, d *policy.Document) error {
	var errs policy.Errors
	names := 0
	for i, u := range d.Lists() {
		v, err := a.Store.ListHas(ctx, u.ID, u.SHA256)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if names += v.Names; err == nil && names > policy.MaxListNames {
			errs = append(errs, policy.Error{Field: fmt.Sprintf("%s[%d]", u.Setting, placeOf(d, i)),
				Message: fmt.Sprintf("is one list too many: %v, and up to here they have %d", policy.ErrTooMany, names), Received: policy.Short(u.String())})
		}
		if err != nil {
			errs = append(errs, policy.Error{Field: fmt.Sprintf("%s[%d]", u.Setting, placeOf(d, i)), Message: "no list has this id and this digest",
				Received: policy.Short(u.String())})
		}
	}
	if len(errs) > 0 {
		return refusal(errs)
	}
	return nil
}

// placeOf is the place of a document's list in its own setting.
func placeOf(d *policy.Document, i int) int {
	all := d.Lists()
	at := 0
	for _, u := range all[:i] {
		if u.Setting == all[i].Setting {
			at++
		}
	}
	return at
}

// withLists reads the lists of a document, for a question about what it would do.
func (a *API) withLists(ctx context.Context, d *policy.Document) (*policy.Document, error) {
	have := map[policy.ListUse]policy.Content{}
	room := policy.MaxListNames
	for _, u := range d.Lists() {
		if known, ok := a.contents.Get(u); ok {
			have[u] = policy.Content{List: known, SHA256: u.SHA256}
			room -= known.Len()
			continue
		}
		v, err := a.Store.ListText(ctx, u.SHA256)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := readStored(a.Store.Packed(ctx, v), u, room)
		if errors.Is(err, policy.ErrTooMany) {
			continue // as on the devices
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", u.ListRef, err)
		}
		a.contents.Add(u, l)
		room -= l.Len()
		have[u] = policy.Content{List: l, SHA256: u.SHA256}
	}
	return d.WithLists(have), nil
}

func readStored(packed io.Reader, u policy.ListUse, most int) (policy.List, error) {
	s, ok := section.Find(all.Sections, u.Setting.Section())
	if !ok || s.ReadList == nil {
		return nil, fmt.Errorf("%s reads no lists", u.Setting)
	}
	text, err := protocol.UnpackList(packed)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	return s.ReadList(text, u, most)
}
