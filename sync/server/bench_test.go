package server

import (
	"context"
	"testing"
	"time"

	"github.com/warderd/warder/sync/protocol"
)

// BenchmarkCheckin is one check-in without news, client and server in one process, over TLS on a kept
// connection.
func BenchmarkCheckin(b *testing.B) {
	r := startT(b, Options{})
	c, out := r.device("laptop", "m1")
	started := time.Now().UTC().Truncate(time.Second)
	a := r.exchange(c, protocol.Report{Epoch: "e1", Agent: protocol.Agent{StartedAt: started}})
	current := currentOf(b, verify(b, out, a, 0))
	rep := protocol.Report{Policy: current, Epoch: "e1", Agent: protocol.Agent{StartedAt: started}}
	r.exchange(c, rep)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Exchange(context.Background(), rep); err != nil {
			b.Fatal(err)
		}
	}
}
