package api

import (
	"net/http/httptest"
	"strconv"
	"testing"
	"time"
)

// Those that are refused are told to come again after as long as it takes to serve all that wait, within bounds.
func TestDownloads(t *testing.T) {
	d := &downloads{}
	w := httptest.NewRecorder()
	var first *download
	for i := range maxDownloads {
		x, ok := d.enter(strconv.Itoa(i), w)
		if !ok {
			t.Fatalf("no place for %d", i)
		}
		if i == 0 {
			first = x
		}
	}
	if _, ok := d.enter("one more", w); ok {
		t.Error("one more has a place")
	}
	again, ok := d.enter("0", w) // the same receiver takes its own place
	if _, err := first.Write([]byte("x")); !ok || err == nil {
		t.Error("its first download goes on")
	}
	if first.leave(); len(d.by) != maxDownloads {
		t.Errorf("%d places are taken", len(d.by))
	}
	if again.leave(); len(d.by) != maxDownloads-1 {
		t.Errorf("%d places are taken", len(d.by))
	}

	// A thousand come, each again when it is told to, and ten are served a second.
	d = &downloads{}
	now := time.Now()
	due := make([]time.Time, 1000)
	waited := 0
	for second := range 200 {
		at := now.Add(time.Duration(second) * time.Second)
		for i := range due {
			if !due[i].After(at) {
				waited = d.wait(at)
				due[i] = at.Add(time.Duration(waited) * time.Second)
			}
		}
		d.sent += 10
	}
	if d.estimate < 30 || d.estimate > 300 {
		t.Errorf("a hundred seconds are needed, and %.0f are said", d.estimate)
	}
	if w := d.wait(now.Add(time.Hour)); w < 1 || w > 2*waitMost {
		t.Errorf("%d", w)
	}
}
