package agent

import (
	"sync/atomic"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	enforceusb "github.com/warderd/warder/enforce/usb"
)

// judge holds the rules that the guard goes by. It lets one new input in where the machine has
// none, and from then on judges by rules without that exception, until the next look at the machine.
type judge struct {
	rules atomic.Pointer[enforceusb.Rules]
}

func (j *judge) Judge(u *fact.USB) enforce.Verdict {
	for {
		r := j.rules.Load()
		v := r.Judge(u)
		if v.Guard != enforce.LastInput || u.Authorized.OK && u.Authorized.V {
			return v
		}
		if j.rules.CompareAndSwap(r, r.WithoutNewcomer()) {
			return v
		}
	}
}
