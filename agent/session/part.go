package session

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// Part is something that a helper does in its session beside showing notices, by rules that the agent gives.
type Part interface {
	// Run does it until ctx ends. changed says that State may be another one.
	Run(ctx context.Context, changed func())
	// Load replaces the rules; nil: there are none, and it does nothing. It does not wait.
	Load(rules json.RawMessage)
	// State is what it says of the session, as JSON of at most MaxPart bytes.
	State() json.RawMessage
}

// parts are those of a helper.
type parts struct {
	run string
	mu  sync.Mutex
	// given names the rules that were loaded; seq counts what was said.
	given string
	seq   uint64
}

// sayRest is how long is waited after something was said until the next is, however often something changes.
const sayRest = time.Second

// begin runs the parts until ctx ends, and waits for that when the result is called.
func (h *Helper) begin(ctx context.Context) (wait func()) {
	if h.Forsaken == 0 {
		h.Forsaken = forsaken
	}
	h.parts.mu.Lock()
	h.parts.run = rand.Text()
	h.parts.mu.Unlock()
	var all sync.WaitGroup
	changed := make(chan struct{}, 1)
	for _, p := range h.Parts {
		all.Go(func() {
			p.Run(ctx, func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		})
	}
	if len(h.Parts) > 0 {
		all.Go(func() { h.say(ctx, changed) })
	}
	return all.Wait
}

// say tells the agent what has changed. What does not arrive, the next turn tells.
func (h *Helper) say(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		_ = h.Agent.Do(ctx, http.MethodPut, Path, h.now(), nil)
		select {
		case <-ctx.Done():
			return
		case <-time.After(sayRest):
		}
	}
}

// now is what the parts say.
func (h *Helper) now() Said {
	if len(h.Parts) == 0 {
		return Said{}
	}
	h.parts.mu.Lock()
	defer h.parts.mu.Unlock()
	h.parts.seq++
	out := Said{Run: h.parts.run, Seq: h.parts.seq, Given: h.parts.given, Parts: map[string]json.RawMessage{}}
	for name, p := range h.Parts {
		out.Parts[name] = p.State()
	}
	return out
}

// Ask asks the agent something for a part, while the helper runs.
func (h *Helper) Ask(ctx context.Context, part, contentType string, body io.Reader, out any) error {
	h.parts.mu.Lock()
	run := h.parts.run
	h.parts.mu.Unlock()
	return h.Agent.Upload(ctx, Path+"/"+part, http.Header{"Content-Type": {contentType}, RunHeader: {run}}, body, out)
}

// load gives the parts their rules.
func (h *Helper) load(given string, rules map[string]json.RawMessage) {
	h.parts.mu.Lock()
	defer h.parts.mu.Unlock()
	for name, p := range h.Parts {
		p.Load(rules[name])
	}
	h.parts.given = given
}
