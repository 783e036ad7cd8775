package api

import (
	"testing"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// One slow count of a few devices is not taken for a large fleet, whose counts may be old; a large one is.
func TestSlowCountOfFew(t *testing.T) {
	s, err := store.Open(t.Context(), t.TempDir()+"/server.db")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := &API{Store: s}
	a.state.Store(&fleet.State{})
	a.census.took = time.Hour
	for _, c := range []struct{ total, want int }{{3, 0}, {1_000_000, 1_000_000}} {
		a.census.count, a.census.total = map[string]int{"": c.total}, c.total
		a.census.at, a.census.took = time.Now(), time.Hour
		a.census.stale.Store(true)
		_, total, err := a.counts(t.Context())
		if err != nil || total != c.want {
			t.Errorf("of %d counted: %d, %v; want %d", c.total, total, err, c.want)
		}
	}
}
