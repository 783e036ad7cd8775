package agent

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Who sees what a guard does is told why by what it goes by, also while the look at the machine that follows is not over.
func TestExplainByWhatGuardsGoBy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var asked atomic.Pointer[Agent]
	var all, wrong atomic.Int64
	l.capabilities = append(append([]func(platform.Host) platform.Capability{}, capabilities...), func(platform.Host) platform.Capability {
		return platform.Capability{Name: "asking", Observers: []platform.Observer{observe(func(*fact.Machine) {
			if a := asked.Load(); a != nil && firstLine(l.sys+"/bus/usb/devices/usb1/authorized_default") == "0" {
				x, err := a.explain(context.Background(), caller{Root: true}, aboutUSB(`{"vendor":1,"product":1,"classes":[8]}`))
				if err != nil || x.Answer.Answer != "deny" {
					t.Logf("the guard refuses, and the answer is %+v %v", x, err)
					wrong.Add(1)
				}
				all.Add(1)
			}
		})}}
	})
	l.start()
	l.enroll()
	asked.Store(l.agent)
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	if all.Load() == 0 || wrong.Load() != 0 {
		t.Errorf("of %d answers, %d were not what the guard goes by", all.Load(), wrong.Load())
	}
}
