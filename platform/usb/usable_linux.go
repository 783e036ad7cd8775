package usb

import (
	"strconv"
	"time"

	"github.com/warderd/warder/enforce"
)

// saw remembers how a device's authorized was read last.
func (p *Ports) saw(name string, r enforce.Reading) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !r.Is("0") {
		if since, was := p.idle[name]; was {
			if p.used == nil || len(p.used) >= maxKnown {
				p.used = map[string]time.Time{}
			}
			p.used[name] = since
		}
		delete(p.idle, name)
		return
	}
	if p.idle == nil || len(p.idle) >= maxKnown {
		p.idle = map[string]time.Time{}
	}
	p.idle[name] = time.Now()
	delete(p.used, name)
}

// usable says for how long at most a device that is authorised could be used: since it was connected, as the kernel
// counts (Documentation/ABI/testing/sysfs-bus-usb), or since it was last seen refused. 0 where that is not known.
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

// refusing remembers for how long a device could be used that is about to be refused.
func (p *Ports) refusing(d device) {
	length := p.usable(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usables == nil || len(p.usables) >= maxKnown {
		p.usables = map[string]time.Duration{}
	}
	p.usables[d.name] = length
}

func (p *Ports) wasUsable(name string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.usables[name]
}

// maxConnected bounds what is believed, in milliseconds: ten years.
const maxConnected = 10 * 365 * 24 * 3600 * 1000
