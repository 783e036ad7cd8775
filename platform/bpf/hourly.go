package bpf

import (
	"maps"
	"strings"
	"time"
)

// TellAgain is how long something that was told is not told again.
const TellAgain = time.Hour

// Bounds of what is told in that time: of all, and of one who can call himself anything.
const (
	maxTold   = 1000
	maxOfOne  = 20
	separator = "\x00"
)

// Hourly says what is news. The zero value knows nothing yet; one goroutine at a time may use it.
type Hourly struct{ told map[string]time.Time }

// News reports whether what somebody did has not been told within the hour, and there is room for it. Told notes that it was.
func (h *Hourly) News(who, what string) bool {
	maps.DeleteFunc(h.told, func(_ string, at time.Time) bool { return time.Since(at) >= TellAgain })
	mine := 0
	for k := range h.told {
		if strings.HasPrefix(k, who+separator) {
			mine++
		}
	}
	_, is := h.told[who+separator+what]
	return !is && mine < maxOfOne && len(h.told) < maxTold
}

// Knows reports whether it has been told within the hour.
func (h *Hourly) Knows(who, what string) bool {
	_, is := h.told[who+separator+what]
	return is
}

// Told notes that something was told.
func (h *Hourly) Told(who, what string) {
	if h.told == nil {
		h.told = map[string]time.Time{}
	}
	h.told[who+separator+what] = time.Now()
}
