package bpf

import (
	"fmt"
	"testing"
	"time"
)

// News is told once an hour, of one no more than twenty, and of all no more than a thousand.
func TestHourly(t *testing.T) {
	var h Hourly
	for range 2 { // asking tells nobody
		if !h.News("a", "x") {
			t.Error("what was not told is no news")
		}
	}
	h.Told("a", "x")
	if h.News("a", "x") || !h.News("a", "y") || !h.News("ax", "") || !h.News("b", "x") {
		t.Error("one thing stands for another")
	}
	for i := range maxOfOne {
		h.Told("a", fmt.Sprint(i))
	}
	if h.News("a", "z") || !h.News("b", "z") {
		t.Error("one takes the place of another")
	}
	for i := range maxTold {
		h.Told(fmt.Sprint(i), "x")
	}
	if h.News("c", "z") {
		t.Error("there is no bound")
	}
	for k := range h.told {
		h.told[k] = time.Now().Add(-TellAgain)
	}
	if !h.News("a", "x") || len(h.told) != 0 {
		t.Errorf("after an hour: %d", len(h.told))
	}
}
