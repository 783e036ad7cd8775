package fact

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Printing is what a machine can print by.
type Printing struct {
	Queues []Queue `json:"queues,omitempty"`
	// Local are the ports of this machine at which a service passes on to printers at USB (IPP over USB), in order.
	Local []uint16 `json:"local_ports,omitempty"`
	// Odd is how many more queues there are that nothing can be done about: too many, or ones of which the spooler does not say enough.
	Odd int `json:"odd,omitempty"`
	// Unheard is why the spooler does not tell of new queues, which are noticed later then; "": it does.
	Unheard string `json:"unheard,omitempty"`
}

// Queue is one queue of the machine's print spooler.
type Queue struct {
	Name      string `json:"name"`
	Accepting bool   `json:"accepting"`        // it takes jobs
	Stopped   bool   `json:"stopped"`          // jobs in it wait
	Told      bool   `json:"told,omitempty"`   // it says that a policy has closed it
	Jobs      int    `json:"-"`                // how many; not reported, and 0 where the spooler does not run
	Device    string `json:"device,omitempty"` // the scheme of what it prints to: usb, ipp, file
}

// The values of a queue (the resource of kind "printing.queue"). Closed is what a policy wants that lets nobody print: nothing is
// lost that waits, nothing is printed, and it says why. Nobody else closes one in these words.
const (
	QueueOpen    = "takes jobs, prints"
	QueueWaiting = "takes jobs, stopped"
	QueueEnding  = "takes no jobs, prints"
	QueueShut    = "takes no jobs, stopped"
	QueueClosed  = "takes no jobs, stopped, and says why"
)

// QueueWhy is what a closed queue says, to whoever looks why it does not print.
const QueueWhy = "Your organization does not allow printing on this computer (Warder)."

// Value is the queue as a resource.
func (q *Queue) Value() string {
	switch {
	case q.Accepting && q.Stopped:
		return QueueWaiting
	case q.Accepting:
		return QueueOpen
	case !q.Stopped:
		return QueueEnding
	case q.Told:
		return QueueClosed
	}
	return QueueShut
}

// Shut reports whether nothing gets into it, and nothing out.
func (q *Queue) Shut() bool { return !q.Accepting && q.Stopped }

// ParseQueue reads a value.
func ParseQueue(value string) (q Queue, ok bool) {
	for _, q := range []Queue{{Accepting: true, Stopped: true}, {Accepting: true}, {}, {Stopped: true}, {Stopped: true, Told: true}} {
		if q.Value() == value {
			return q, true
		}
	}
	return q, false
}

// PrintPorts are the ports by which printers are reached over a network: LPD, IPP, and the printer's own language.
var PrintPorts = []uint16{515, 631, 9100}

// PortsClosed is the value of the resource that closes them, and the given ports of this machine to programs of users.
func PortsClosed(local []uint16) string {
	return "closed to " + portList(PrintPorts) + localWord + portList(local)
}

const localWord = "; on this machine "

func portList(list []uint16) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = strconv.Itoa(int(p))
	}
	return strings.Join(words, " ")
}

// MaxLocalPorts bounds the ports of this machine that are closed: one for each printer that was ever at its USB.
const MaxLocalPorts = 16

// ParsePortsClosed reads such a value.
func ParsePortsClosed(value string) (local []uint16, err error) {
	_, list, ok := strings.Cut(value, localWord)
	if !ok {
		return nil, fmt.Errorf("%q names no ports", value)
	}
	for _, w := range strings.Fields(list) {
		if p, err := strconv.ParseUint(w, 10, 16); err == nil && p > 0 && len(local) < MaxLocalPorts {
			local = append(local, uint16(p))
		}
	}
	slices.Sort(local)
	if local = slices.Compact(local); PortsClosed(local) != value {
		return nil, fmt.Errorf("%q names no ports", value)
	}
	return local, nil
}
