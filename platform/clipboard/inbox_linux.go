package clipboard

import (
	"sync"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
)

// inbox collects what an X server sends, however much that is: the library hands out no answers while its own list of events is full.
type inbox struct {
	some chan struct{}
	done chan struct{}

	mu sync.Mutex
	in arrived
}

// arrived is what has come.
type arrived struct {
	owners []xfixes.SelectionNotifyEvent // the newest of each selection
	first  []xgb.Event                   // about what we asked, and about our own windows
	events []xgb.Event                   // what others ask
	ended  bool
}

// maxArrived bounds what waits. What does not fit is passed over: who sent it waits in vain.
const maxArrived = 4096

func newInbox(c *xgb.Conn) *inbox {
	in := &inbox{some: make(chan struct{}, 1), done: make(chan struct{})}
	go in.read(c)
	return in
}

func (in *inbox) read(c *xgb.Conn) {
	defer close(in.done)
	for {
		e, err := c.WaitForEvent()
		if e == nil && err != nil {
			continue // of a request about a window that has gone
		}
		in.mu.Lock()
		switch x := e.(type) {
		case nil:
			in.in.ended = true
		case xfixes.SelectionNotifyEvent:
			in.put(x)
		case xproto.SelectionRequestEvent:
			if len(in.in.events) < maxArrived {
				in.in.events = append(in.in.events, e)
			}
		default:
			if len(in.in.first) < maxArrived {
				in.in.first = append(in.in.first, e)
			}
		}
		in.mu.Unlock()
		select {
		case in.some <- struct{}{}:
		default:
		}
		if e == nil {
			return
		}
	}
}

func (in *inbox) put(x xfixes.SelectionNotifyEvent) {
	for i := range in.in.owners {
		if in.in.owners[i].Selection == x.Selection {
			in.in.owners[i] = x
			return
		}
	}
	in.in.owners = append(in.in.owners, x)
}

// copied reports whether somebody has copied something that was not looked at yet; ours is our own window.
func (in *inbox) copied(selection xproto.Atom, ours xproto.Window) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i := range in.in.owners {
		if in.in.owners[i].Selection == selection && in.in.owners[i].Owner != ours {
			return true
		}
	}
	return false
}

// atOnce is how many events are looked at before it is looked again who copies: however much else comes, that is the first thing to do.
const atOnce = 16

// get takes what has come, or the first of it.
func (in *inbox) get() arrived {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := arrived{owners: in.in.owners, ended: in.in.ended}
	in.in.owners = nil
	list := &in.in.first
	if len(*list) == 0 {
		list = &in.in.events
	}
	n := min(atOnce, len(*list))
	out.events, *list = (*list)[:n:n], (*list)[n:]
	if len(*list) == 0 {
		*list = nil
	}
	if len(in.in.first)+len(in.in.events) == 0 {
		return out
	}
	select {
	case in.some <- struct{}{}:
	default:
	}
	return out
}

// stop waits for the end of the connection, which was closed; not for long, where an X server is stopped.
func (in *inbox) stop() {
	select {
	case <-in.done:
	case <-time.After(time.Second):
	}
}
