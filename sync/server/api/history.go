package api

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/store"
)

// changesOf says what a version changes; a change that takes no effect on a device is said, too.
func changesOf(before, after *policy.Document) []string {
	changes := policy.Diff(before, after)
	if before == nil {
		return changes
	}
	for _, c := range []struct{ field, was, is string }{{"name", before.Name, after.Name}, {"description", before.Description, after.Description},
		{"organization_id", before.Organization, after.Organization}, {"active", strconv.FormatBool(before.Active), strconv.FormatBool(after.Active)}} {
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

// historyList has what the documented answer has, and beside it how much there is.
type historyList struct {
	Data     []HistoryItem `json:"data"`
	Total    int           `json:"total,omitempty"`
	Page     int           `json:"page,omitempty"`
	PageSize int           `json:"page_size,omitempty"`
}

func policyHistory(a *API, q *request) (historyList, error) {
	page, size := q.page()
	list, total, err := a.Store.History(q.Context(), q.PathValue("id"), page, size)
	if err == nil && total == 0 {
		err = store.ErrNotFound
	}
	var data []HistoryItem
	for _, v := range list {
		data = append(data, HistoryItem{v.Version, v.By, second(v.At), v.Changes})
	}
	return historyList(listOf(q, data, total)), err
}

type versionView struct {
	HistoryItem
	Policy json.RawMessage `json:"policy" doc:"the policy object as it was"`
}

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
