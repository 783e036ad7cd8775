package agent

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The names of the measurements give their clock: "insert_to_decision" is the time from reading a device's announcement
// to the start of the write, "insert_to_verified" to its reading back.
const nudgeToVerified = "nudge_to_verified" // nudge received → new policy read back

type latencies struct {
	mu sync.Mutex
	h  map[string]*hdrhistogram.Histogram
}

func (l *latencies) init() { l.h = map[string]*hdrhistogram.Histogram{} }

// record adds one measurement, in microseconds.
func (l *latencies) record(name string, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h[name] == nil {
		l.h[name] = hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 2)
	}
	_ = l.h[name].RecordValue(min(max(d.Microseconds(), 1), int64(10*time.Minute/time.Microsecond)))
}

// Latency is the summary of one histogram, in microseconds.
type Latency struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50_us"`
	P90   int64 `json:"p90_us"`
	P99   int64 `json:"p99_us"`
}

// summary returns the percentiles by name.
func (l *latencies) summary() map[string]Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]Latency{}
	for n, h := range l.h {
		out[n] = Latency{h.TotalCount(), h.ValueAtQuantile(50), h.ValueAtQuantile(90), h.ValueAtQuantile(99)}
	}
	return out
}

// export returns the histograms themselves, so that a server can add up a fleet's.
func (l *latencies) export() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]string{}
	for n, h := range l.h {
		if b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil {
			out[n] = string(b)
		}
	}
	return out
}
