package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"sort"
	"time"

	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// Bundle is what support receives from a machine when it asks for diagnostics: state and events, and no secrets. It
// consists of explicitly named parts only, so that a new secret elsewhere cannot get into it by accident.
type Bundle struct {
	At       time.Time       `json:"at"`
	Agent    string          `json:"agent"`
	System   protocol.Host   `json:"system"`
	Status   Status          `json:"status"` // as root sees it
	Policies []store.Policy  `json:"policies"`
	Ledger   []LedgerRow     `json:"ledger"`
	Events   []enforce.Event `json:"events"`
	Config   BundleConfig    `json:"config"`
	Process  BundleProcess   `json:"process"`
	Problems []string        `json:"problems,omitempty"` // errors from making this bundle
}

// BundleConfig is the configuration without anything that may be secret.
type BundleConfig struct {
	Server   string     `json:"server,omitempty"`
	Proxy    secret.URL `json:"proxy,omitempty"`
	LogLevel string     `json:"log_level,omitempty"`
}

// BundleProcess describes the agent's own process.
type BundleProcess struct {
	Goroutines int    `json:"goroutines"`
	HeapBytes  uint64 `json:"heap_bytes"`
	Go         string `json:"go"`
}

// bundleEvents is how many of the newest events are included; fewer if they do not fit.
const bundleEvents = 2000

// bundle collects a bundle. It is called in the loop.
func (a *Agent) bundle(ctx context.Context) Bundle {
	b := Bundle{At: a.o.Now().UTC(), Agent: a.o.Version, System: describe(), Status: a.status(everything)}
	say := func(err error) {
		if err != nil {
			b.Problems = append(b.Problems, err.Error())
		}
	}
	var err error
	b.Policies, err = a.store.Policies()
	say(err)
	b.Ledger, err = a.ledgerRows(ctx)
	say(err)
	b.Events, err = a.store.Events(0, -bundleEvents)
	say(err)
	conf := a.settings()
	b.Config = BundleConfig{secret.Redact(conf.Server), conf.Proxy, conf.LogLevel}
	b.Status.Server = secret.Redact(b.Status.Server)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.Process = BundleProcess{runtime.NumGoroutine(), m.HeapAlloc, runtime.Version()}
	sort.SliceStable(b.Events, func(i, j int) bool { return b.Events[i].Seq < b.Events[j].Seq })
	return b
}

// pack compresses a bundle. It drops the oldest events until the result has at most the given number of bytes, or no
// events are left.
func pack(b Bundle, most int) ([]byte, error) {
	for {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		err := errors.Join(json.NewEncoder(z).Encode(b), z.Close())
		if err != nil || out.Len() <= most || len(b.Events) == 0 {
			return out.Bytes(), err
		}
		b.Events = b.Events[(len(b.Events)+1)/2:]
	}
}

// sendDiagnostics sends a bundle that the server asked for, in the background, one at a time.
func (a *Agent) sendDiagnostics() {
	c := a.contact
	if c.client == nil || c.bundling {
		return
	}
	c.bundling = true
	client, device := c.client, a.custody.state.Device.DeviceID
	b := a.bundle(a.ctx)
	a.background.Go(func() {
		ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
		defer cancel()
		var err error
		for most := batchMost; ; most /= 2 {
			var raw []byte
			if raw, err = pack(b, most); err == nil {
				err = client.Put(ctx, protocol.Base+"/devices/"+device+"/diagnostics", raw)
			}
			if !tooLarge(err) || len(raw) > most || most < batchLeast {
				break
			}
		}
		var s *checkin.StatusError
		if errors.As(err, &s) && s.Code == 404 {
			err = nil // it has arrived meanwhile
		}
		a.do(func() {
			c.bundling = false
			problem := ""
			if err != nil {
				problem = "the diagnostics bundle could not be sent: " + err.Error()
			}
			a.health.set(bundleFailed, problem)
		})
	})
}
