package agent

import (
	"sync/atomic"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	enforceusb "github.com/warderd/warder/enforce/usb"
)

// judge is what the guard goes by from one look at the machine to the next. It lets one new input
// in where the machine has none, and from then on judges by rules without that exception.
type judge struct {
	rules *enforceusb.Rules // for explaining; its entries are those of every verdict given
	now   atomic.Pointer[enforceusb.Rules]
}

func newJudge(r *enforceusb.Rules) *judge {
	j := &judge{rules: r}
	j.now.Store(r)
	return j
}

func (j *judge) Judge(u *fact.USB) enforce.Verdict {
	for {
		r := j.now.Load()
		v := r.Judge(u)
		if v.Guard != enforce.LastInput || u.Authorized.OK && u.Authorized.V {
			return v
		}
		if j.now.CompareAndSwap(r, r.WithoutNewcomer()) {
			return v
		}
	}
}
