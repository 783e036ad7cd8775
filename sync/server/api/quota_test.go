package api

import (
	"encoding/json"
	"strings"
	"testing"
)

// A device may report a lot at once, but not without end; one without news never exceeds its quota.
func TestQuota(t *testing.T) {
	var q quota
	batch := make([]json.RawMessage, 100)
	for i := range batch {
		batch[i] = json.RawMessage(`"` + strings.Repeat("x", 10_000) + `"`)
	}
	kept := 0
	for range 100 {
		if q.events(batch) {
			kept++
		}
	}
	if kept < 60 || kept > 70 {
		t.Errorf("%d MB of 100 were kept at once", kept)
	}
	if !q.events(nil) {
		t.Error("a report without events is over the quota")
	}
	if !q.say() || q.say() {
		t.Error("it is told never, or each time")
	}
	reports := 0
	for range 200 {
		if q.report() {
			reports++
		}
	}
	if reports < 60 || reports > 65 {
		t.Errorf("%d reports of 200 at once", reports)
	}
}
