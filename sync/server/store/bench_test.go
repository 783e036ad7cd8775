package store

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

func benchEach(b *testing.B, f func(b *testing.B, s *Store)) {
	for name, db := range map[string]func() string{"sqlite": func() string { return filepath.Join(b.TempDir(), "x.db") },
		"postgres": func() string { return postgrestest.URL(b) }} {
		b.Run(name, func(b *testing.B) {
			s, err := Open(ctx, db())
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			f(b, s)
		})
	}
}

// BenchmarkSeen is one flush of 10,000 check-ins without news.
func BenchmarkSeen(b *testing.B) {
	benchEach(b, func(b *testing.B, s *Store) {
		for b.Loop() {
			list := make([]Seen, 10_000)
			for i := range list {
				list[i] = Seen{Device: int64(i + 1), At: time.Now(), Counter: uint64(time.Now().UnixMilli())}
			}
			if err := s.PutSeen(ctx, list); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/10_000, "µs/device")
	})
}

// BenchmarkRecords is one transaction of 64 reports with ten events each.
func BenchmarkRecords(b *testing.B) {
	benchEach(b, func(b *testing.B, s *Store) {
		n := uint64(0)
		for b.Loop() {
			n++
			list := make([]*Record, 64)
			for i := range list {
				list[i] = &Record{Device: int64(i + 1), At: time.Now(), Counter: n, Current: json.RawMessage(`{}`),
					Agent: json.RawMessage(`{}`), Epoch: "e"}
				for q := range uint64(10) {
					list[i].Events = append(list[i].Events, raw(enforce.Event{Seq: n*10 + q, At: time.Now(), Kind: enforce.Denied,
						Subject: "usb 1-2 0951:1666", Reason: "mass_storage is not in usb.allowed_classes"})...)
				}
			}
			if err := s.PutRecords(ctx, list); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/64, "µs/report")
	})
}
