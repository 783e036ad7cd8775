package tunnel

import (
	"testing"
	"time"
)

// A burst is read at once; what goes on and on takes a fifth of the time; and a pause makes good for it.
func TestDebt(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	d := debt{at: at}
	read, begun := time.Duration(0), at
	for range 100 {
		at = at.Add(d.wait(at))
		at, d.left, read = at.Add(100*time.Millisecond), d.left+100*time.Millisecond, read+100*time.Millisecond
	}
	if part := float64(read) / float64(at.Sub(begun)); part > 0.25 || part < 0.15 {
		t.Errorf("reading took %.2f of the time", part)
	}
	if w := d.wait(at.Add(time.Minute)); w != 0 {
		t.Errorf("after a pause: %s", w)
	}
	d = debt{at: at}
	for range 9 {
		if w := d.wait(at); w != 0 {
			t.Errorf("in a burst: %s", w)
		}
		d.left += 100 * time.Millisecond
	}
}
