package agent

import (
	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// maxTouched bounds how many changes are remembered until the next look.
const maxTouched = 1024

// touch remembers who changed something, for the next look. The last change counts.
func (m *machine) touch(t platform.Touch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.written = true
	if t.Key == (enforce.Key{}) || len(m.touched) >= maxTouched {
		return
	}
	if m.touched == nil {
		m.touched = map[enforce.Key]enforce.Program{}
	}
	if t.By.PID > 0 || m.touched[t.Key].PID == 0 {
		m.touched[t.Key] = t.By
	}
}

// name adds who changed something if that became known only during the repair: the kernel reports a write after it has
// ended.
func (m *machine) name(drifted []reconcile.Drift) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range drifted {
		if d := &drifted[i]; d.By.PID == 0 {
			d.By = m.touched[d.Key]
		}
	}
}

// touches returns the changes since the last look.
func (m *machine) touches() (by map[enforce.Key]enforce.Program, written bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	by, written = m.touched, m.written
	m.touched, m.written = nil, false
	return by, written
}
