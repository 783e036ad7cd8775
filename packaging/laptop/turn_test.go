//go:build linux

package laptop

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// turns lets as many laptops run at once as the machine has room for (WARDER_LAPTOPS, 2), those that take longest first: if one of them
// came last, it would be alone at the end.
var turns = struct {
	sync.Mutex
	free    int
	waiting []turn
}{free: laptops()}

type turn struct {
	minutes int
	come    chan struct{}
}

func laptops() int {
	if n, err := strconv.Atoi(os.Getenv("WARDER_LAPTOPS")); err == nil && n > 0 {
		return n
	}
	return 2
}

// parallel runs a test beside others. It says how long the test takes, roughly.
func parallel(t *testing.T, minutes int) {
	t.Parallel()
	me := turn{minutes, make(chan struct{})}
	turns.Lock()
	turns.waiting = append(turns.waiting, me)
	turns.Unlock()
	time.Sleep(time.Second) // until all are here
	turns.Lock()
	next()
	turns.Unlock()
	<-me.come
	begun := time.Now()
	t.Cleanup(func() {
		t.Logf("from its turn on it took %s", time.Since(begun).Round(time.Second))
		turns.Lock()
		defer turns.Unlock()
		turns.free++
		next()
	})
}

// next gives the free places to those who take longest. The caller has the lock.
func next() {
	slices.SortStableFunc(turns.waiting, func(a, b turn) int { return b.minutes - a.minutes })
	for turns.free > 0 && len(turns.waiting) > 0 {
		close(turns.waiting[0].come)
		turns.waiting, turns.free = turns.waiting[1:], turns.free-1
	}
}
