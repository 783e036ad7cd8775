package printing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/OpenPrinting/goipp"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const how = "the print spooler at "

// Queues observes and closes the queues of the print spooler.
type Queues struct {
	off     bool // this is not the real machine
	gate    enforce.Gate
	log     *slog.Logger
	spooler *spooler
	proc    string   // where procfs is
	spool   string   // where the spooler keeps jobs,
	config  string   // and its list of queues
	daemons []string // where its program can be
	usb     string   // where the service for printers at USB keeps its notes

	asked   atomic.Bool   // a policy asks for something
	refuses atomic.Bool   // and it is refused
	started chan struct{} // the spooler may have been started
	mu      sync.Mutex
	last    map[string]string // the values that were read or made last, by queue
	told    map[string]bool   // those that we have told why
	// ports are the local ports that were read last.
	ports []uint16
	// unheard is why the spooler does not tell of new queues; "": it does, or need not.
	unheard string
}

// Capability is the control of printing.
func Capability(h platform.Host) platform.Capability {
	q := &Queues{off: h.Sysfs != "/sys", gate: h.Gate, log: h.Log, spooler: newSpooler(Socket), proc: h.Proc, spool: "/var/spool/cups", config: "/etc/cups",
		daemons: []string{"/usr/sbin/cupsd", "/usr/bin/cupsd"}, started: make(chan struct{}, 1), usb: "/var/ipp-usb/dev"}
	j := newJobs(h, q)
	return platform.Capability{
		Name: name, Claims: claims(), Probe: q.probe,
		Observers: []platform.Observer{q, j}, Backends: []platform.Backend{q}, Guards: []platform.Guard{newGuard(q), j}, Now: q.now,
		Uses: []platform.Port{platform.Borrow(platform.PortLook, func(f platform.LookInto) { j.look = f })},
	}
}

// probe says that nothing is printed on a simulated machine.
func (q *Queues) probe(context.Context) []platform.Claim {
	if !q.off {
		return nil
	}
	return []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Unsupported, Limit: "printing is not refused: this machine is simulated"}}
}

// now says how many queues are closed, as they were read last.
func (q *Queues) now(section, subject string) string {
	if section != setting.Section() || subject != "printing" {
		return ""
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	closed := 0
	for _, v := range q.last {
		if x, ok := fact.ParseQueue(v); ok && x.Shut() {
			closed++
		}
	}
	if len(q.last) == 0 {
		return "the spooler has no queue"
	}
	return fmt.Sprintf("%d queue(s), %d of them closed", len(q.last), closed)
}

// Observe lists the queues. A machine without a spooler has none.
func (q *Queues) Observe(ctx context.Context, out *fact.Machine) error {
	if q.off {
		out.Printing = fact.Is(fact.Printing{})
		return nil
	}
	ports, errPorts := q.local()
	list, odd, err := q.read(ctx)
	q.mu.Lock()
	if errPorts == nil {
		q.ports = ports
	}
	unheard := q.unheard
	q.mu.Unlock()
	out.Printing = fact.Is(fact.Printing{Queues: list, Odd: odd, Local: ports, Unheard: unheard})
	if err = errors.Join(err, errPorts); err != nil {
		out.Printing.OK, out.Printing.Why = false, err.Error()
	}
	return nil
}

// read lists the queues, and remembers them.
func (q *Queues) read(ctx context.Context) ([]fact.Queue, int, error) {
	list, odd, err := q.present(ctx)
	if err != nil {
		return nil, 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last = map[string]string{}
	for i := range list {
		// What a class says, the spooler does not keep when it is started anew.
		list[i].Told = list[i].Told || list[i].Shut() && q.told[list[i].Name]
		q.last[list[i].Name] = list[i].Value()
	}
	maps.DeleteFunc(q.told, func(name string, _ bool) bool { return q.last[name] == "" })
	return list, odd, nil
}

// present lists the queues, without starting a spooler that does not run: what it has saved is what it will have. Whether its socket
// is there says nothing: systemd removes it when the spooler is stopped.
func (q *Queues) present(ctx context.Context) ([]fact.Queue, int, error) {
	if q.runs() {
		list, odd, err := q.spooler.queues(ctx)
		if !errors.Is(err, errNoSpooler) || q.runs() { // otherwise it has ended since
			return list, odd, err
		}
	}
	if !q.installed() {
		return nil, 0, nil
	}
	return q.saved()
}

// Kinds is the one kind: a queue, which the spooler keeps on its disk, and which we never create or remove.
func (q *Queues) Kinds() []platform.Kind {
	return []platform.Kind{{Name: kind, Life: platform.Disk, Found: true, Safe: fact.QueueOpen, Ours: fact.QueueClosed,
		// One that says what we say was closed by us, and took jobs before, if nothing else is known of it.
		From: func(_ enforce.Key, seen enforce.Reading, _ func(enforce.Key) (enforce.Reading, bool)) enforce.Reading {
			if seen.Is(fact.QueueClosed) {
				seen.Value = fact.QueueOpen
			}
			return seen
		}}}
}

// List reads every queue.
func (q *Queues) List(ctx context.Context) (map[enforce.Key]enforce.Reading, error) {
	if q.off {
		return nil, nil
	}
	list, _, err := q.read(ctx)
	if err != nil {
		return nil, err
	}
	out := map[enforce.Key]enforce.Reading{}
	for i := range list {
		out[enforce.Key{Kind: kind, ID: list[i].Name}] = enforce.Reading{State: enforce.Present, Value: enforce.Value(list[i].Value()), How: how + q.spooler.socket}
	}
	return out, nil
}

// Apply closes or opens queues. A spooler that does not answer is asked once, and all of it has a deadline, so that what else the
// planner has to do is not kept waiting.
func (q *Queues) Apply(ctx context.Context, changes []enforce.Change) map[enforce.Key]error {
	ctx, cancel := context.WithTimeout(ctx, patienceOfAll)
	defer cancel()
	out := map[enforce.Key]error{}
	var gone error
	for _, c := range changes {
		err := gone
		if err == nil {
			err = q.change(ctx, c)
		}
		if err != nil {
			out[c.Key] = err
		}
		if errors.Is(err, errNoAnswer) || errors.Is(err, errNoSpooler) {
			gone = err
		}
	}
	return out
}

const patienceOfAll = 15 * time.Second

func (q *Queues) change(ctx context.Context, c enforce.Change) error {
	to, ok := fact.ParseQueue(string(c.To.Value))
	if c.Key.Kind != kind || q.off || !ok {
		return fmt.Errorf("there is no %s that is %q", c.Key, c.To.Value)
	}
	if err := q.gate(c); err != nil {
		return err
	}
	why := ""
	if to.Told {
		why = fact.QueueWhy
	}
	prints, takes := goipp.OpResumePrinter, goipp.OpCupsRejectJobs
	if to.Stopped {
		prints = goipp.OpPausePrinter
	}
	if to.Accepting {
		takes = goipp.OpCupsAcceptJobs
	}
	// In this order: what closes it first; and a queue that takes jobs again forgets why it is stopped, which the second then says.
	for _, op := range []goipp.Op{takes, prints} {
		if err := q.spooler.admin(ctx, op, c.Key.ID, why); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last != nil {
		q.last[c.Key.ID] = string(c.To.Value)
	}
	if q.told == nil {
		q.told = map[string]bool{}
	}
	if to.Told {
		q.told[c.Key.ID] = true
	} else {
		delete(q.told, c.Key.ID)
	}
	return nil
}
