package api

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

// changesOf describes what a version changes, including changes without effect on a device.
func changesOf(before, after *policy.Document) []string {
	changes := policy.Diff(before, after)
	if before == nil {
		return changes
	}
	for _, c := range []struct{ field, was, is string }{{"name", before.Name, after.Name},
		{"description", before.Description, after.Description},
		{"organization_id", before.Organization, after.Organization},
		{"active", strconv.FormatBool(before.Active), strconv.FormatBool(after.Active)}} {
		if c.was != c.is {
			changes = append(changes, c.field+": "+strconv.Quote(short(c.was))+" → "+strconv.Quote(short(c.is)))
		}
	}
	if len(changes) == 0 {
		changes = []string{"no change"}
	}
	return changes
}

type HistoryItem struct {
	Version   int       `json:"version"`
	ChangedBy string    `json:"changed_by"`
	ChangedAt time.Time `json:"changed_at"`
	Changes   []string  `json:"changes"`
}

// historyList has the fields of the documented answer, and the total beside them.
type historyList struct {
	Data     []HistoryItem `json:"data"`
	Total    int           `json:"total,omitempty"`
	Page     int           `json:"page,omitempty"`
	PageSize int           `json:"page_size,omitempty"`
	Next     string        `json:"next,omitempty" doc:"cursor for the next answer; absent at the end"`
}

// policyHistory answers GET /policies/{id}/history.
func policyHistory(a *API, q *request) (historyList, error) {
	page, size := q.page()
	skip := (page - 1) * size
	before := 0
	if q.params.Get("cursor") != "" {
		m, err := q.cursor("history")
		if err != nil {
			return historyList{}, err
		}
		before, skip = int(m.N), 0
	}
	list, total, err := a.Store.History(q.Context(), q.PathValue("id"), before, skip, size+1)
	if err == nil && total == 0 {
		err = store.ErrNotFound
	}
	out := historyList{Data: []HistoryItem{}, Total: total, Page: page, PageSize: size}
	if len(list) > size {
		list = list[:size]
		out.Next = cursorOf(roster.Mark{N: int64(list[size-1].Version), Sort: "history"})
	}
	for _, v := range list {
		out.Data = append(out.Data, HistoryItem{v.Version, v.By, second(v.At), v.Changes})
	}
	return out, err
}

type versionView struct {
	HistoryItem
	Policy json.RawMessage `json:"policy" doc:"the policy object as it was"`
}

// policyVersion answers GET /policies/{id}/versions/{n}.
func policyVersion(a *API, q *request) (versionView, error) {
	n, err := strconv.Atoi(q.PathValue("version"))
	if err != nil {
		return versionView{}, store.ErrNotFound
	}
	v, err := a.Store.PolicyVersion(q.Context(), q.PathValue("id"), n)
	if err != nil {
		return versionView{}, err
	}
	return versionView{HistoryItem{v.Version, v.By, second(v.At), v.Changes}, v.Document}, nil
}
