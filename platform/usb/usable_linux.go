package usb

import (
	"strconv"
	"time"

	"github.com/warderd/warder/enforce"
)

// saw remembers the last reading of a device's authorized.
func (p *Ports) saw(name string, r enforce.Reading) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !r.Is("0") {
		if since, was := p.idle[name]; was {
			p.used = put(p.used, name, since)
		}
		delete(p.idle, name)
		return
	}
	p.idle = put(p.idle, name, time.Now())
	delete(p.used, name)
}

// usable is how long at most an authorised device could be used: since it was connected, by the kernel's count
// (Documentation/ABI/testing/sysfs-bus-usb), or since it was last seen refused. 0 if that is not known.
func (p *Ports) usable(d device) time.Duration {
	v, err := d.text("power/connected_duration")
	if err != nil {
		return 0
	}
	ms, err := strconv.ParseInt(v, 10, 64)
	if err != nil || ms < 0 || ms > maxConnected {
		return 0
	}
	out := time.Duration(ms) * time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range []map[string]time.Time{p.idle, p.used} {
		if since, ok := m[d.name]; ok {
			out = min(out, time.Since(since))
		}
	}
	return out
}

// refusing records that a device's authorized is about to be written, before its interfaces come or go. The function it
// returns is called after the write: a device that was refused could be used until then, and for another one nothing
// changes.
func (p *Ports) refusing(d device, to enforce.Reading) func(done bool) {
	began, length := time.Now(), time.Duration(0)
	if to.Is("0") {
		length = p.usable(d)
	}
	p.mu.Lock()
	idle, was := p.idle[d.name]
	used, again := p.used[d.name]
	p.mu.Unlock()
	p.saw(d.name, to)
	return func(done bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case !done:
			delete(p.idle, d.name)
			delete(p.used, d.name)
			if was {
				p.idle = put(p.idle, d.name, idle)
			}
			if again {
				p.used = put(p.used, d.name, used)
			}
		case length > 0:
			p.usables = put(p.usables, d.name, length+time.Since(began))
		}
	}
}

// put keeps one of a bounded number.
func put[V any](m map[string]V, name string, v V) map[string]V {
	if m == nil || len(m) >= maxKnown {
		m = map[string]V{}
	}
	m[name] = v
	return m
}

// wasUsable is how long at most a refused device could be used.
func (p *Ports) wasUsable(name string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.usables[name]
}

// maxConnected bounds what is believed, in milliseconds: ten years.
const maxConnected = 10 * 365 * 24 * 3600 * 1000
