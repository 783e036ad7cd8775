package printing

import (
	"context"
	"errors"
	"time"

	"github.com/OpenPrinting/goipp"
	"github.com/godbus/dbus/v5"

	"github.com/warderd/warder/platform"
)

// Guard hears of new and changed queues while printing is refused: the spooler tells it over D-Bus.
type Guard struct {
	platform.Listener
	q       *Queues
	changed chan struct{} // the rules are others
}

func newGuard(q *Queues) *Guard { return &Guard{q: q, changed: make(chan struct{}, 1)} }

// refuser is what the section's rules say.
type refuser interface {
	AboutPrinting() bool // in any mode
	CanStopPrinting() bool
}

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return setting.Section() }

// Load replaces the rules.
func (g *Guard) Load(r platform.Rules) error {
	x, ok := r.(refuser)
	g.q.asked.Store(ok && x.AboutPrinting())
	g.q.refuses.Store(ok && !g.q.off && x.CanStopPrinting())
	select {
	case g.changed <- struct{}{}:
	default:
	}
	return nil
}

// lease is how long the spooler tells us without being asked again, so that it forgets an agent that was killed.
const lease = 20 * time.Minute

// The signals of the spooler's notifier (cups(7), CUPS 2.4, notifier/dbus.c).
const (
	notifierName = "org.cups.cupsd.Notifier"
	notifierPath = "/org/cups/cupsd/Notifier"
)

// signal says that there was one, however many: what they say does not matter, and any local user can send them.
type signal chan struct{}

// DeliverSignal is for godbus.
func (s signal) DeliverSignal(_, _ string, _ *dbus.Signal) {
	select {
	case s <- struct{}{}:
	default:
	}
}

// unheardRest is how often the spooler is asked while it does not tell, and tellAgain how often it is asked to tell.
const (
	unheardRest = 3 * time.Second
	tellAgain   = time.Minute
)

// Run subscribes while printing is refused, and asks for a look when something has changed, until ctx ends. A spooler that does not
// tell, as any local user can bring about by using up its subscriptions, is asked instead.
func (g *Guard) Run(ctx context.Context) error {
	var next time.Time // when it is asked to tell
	for ctx.Err() == nil {
		var soon <-chan time.Time
		switch refused := g.q.refuses.Load() && g.q.runs(); {
		case refused && !time.Now().Before(next):
			why := g.follow(ctx)
			g.unheard(why)
			if why == nil {
				continue
			}
			next = time.Now().Add(tellAgain)
			fallthrough
		case refused:
			if keys, _ := g.q.news(ctx); len(keys) > 0 { // not what it does not answer
				g.Look(true)
			}
			soon = time.After(unheardRest)
		default:
			next = time.Time{}
			g.unheard(nil)
		}
		select {
		case <-ctx.Done():
		case <-g.changed:
		case <-g.q.started:
			g.ask(ctx)
			next = time.Time{}
		case <-soon:
		}
	}
	return nil
}

// unheard notes whether the spooler tells, and why not, and has it reported if that has changed.
func (g *Guard) unheard(why error) {
	now := ""
	if why != nil {
		now = why.Error()
	}
	g.q.mu.Lock()
	before := g.q.unheard
	g.q.unheard = now
	g.q.mu.Unlock()
	if (before == "") == (now == "") {
		return
	}
	if why != nil {
		g.q.log.Warn("the print spooler does not tell of new queues; it is asked every few seconds instead", "error", why)
	}
	g.Look(true)
}

// ask asks for a look if there is something to do.
func (g *Guard) ask(ctx context.Context) {
	if !g.q.refuses.Load() {
		return
	}
	if _, look := g.q.news(ctx); look {
		g.Look(true)
	}
}

// follow subscribes, and listens until the rules change, the subscription is to be made anew, the spooler is started anew, or ctx ends.
func (g *Guard) follow(ctx context.Context) error {
	told := make(signal, 1)
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx), dbus.WithSignalHandler(told))
	if err != nil {
		return err
	}
	defer bus.Close()
	if err := bus.AddMatchSignalContext(ctx, dbus.WithMatchInterface(notifierName), dbus.WithMatchObjectPath(notifierPath)); err != nil {
		return err
	}
	id, err := g.q.spooler.subscribe(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = g.q.spooler.unsubscribe(end, id) // otherwise it ends by itself
	}()
	g.unheard(nil)
	g.ask(ctx) // what came before
	anew := time.NewTimer(lease / 2)
	defer anew.Stop()
	p := newPace(calm)
	defer p.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.changed:
			if !g.q.refuses.Load() {
				return nil
			}
		case <-g.q.started:
			return nil
		case <-anew.C:
			return nil
		case <-bus.Context().Done():
			return errors.New("the system bus has ended")
		case <-told:
			p.begin()
		case <-p.C:
			p.ended()
			g.ask(ctx)
		}
	}
}

// events are what we are told of.
var events = []string{"printer-added", "printer-deleted", "printer-modified", "printer-state-changed", "job-created"}

// subscribe has the spooler tell of queues over D-Bus.
func (s *spooler) subscribe(ctx context.Context) (id int, err error) {
	q := request(goipp.OpCreatePrinterSubscriptions)
	q.Operation.Add(goipp.MakeAttribute("printer-uri", goipp.TagURI, goipp.String("ipp://localhost/")))
	q.Operation.Add(goipp.MakeAttribute("requesting-user-name", goipp.TagName, goipp.String("root")))
	q.Subscription.Add(goipp.MakeAttribute("notify-recipient-uri", goipp.TagURI, goipp.String("dbus://")))
	list := goipp.Attribute{Name: "notify-events"}
	for _, e := range events {
		list.Values.Add(goipp.TagKeyword, goipp.String(e))
	}
	q.Subscription.Add(list)
	q.Subscription.Add(goipp.MakeAttribute("notify-lease-duration", goipp.TagInteger, goipp.Integer(lease/time.Second)))
	a, err := s.ask(ctx, "/", q)
	if err != nil {
		return 0, err
	}
	for _, x := range a.Subscription {
		if n, is := valueOf(x).(goipp.Integer); is && x.Name == "notify-subscription-id" {
			return int(n), nil
		}
	}
	return 0, errNoSubscription
}

func valueOf(x goipp.Attribute) goipp.Value {
	if len(x.Values) == 0 {
		return nil
	}
	return x.Values[0].V
}

// unsubscribe ends it.
func (s *spooler) unsubscribe(ctx context.Context, id int) error {
	q := request(goipp.OpCancelSubscription)
	q.Operation.Add(goipp.MakeAttribute("printer-uri", goipp.TagURI, goipp.String("ipp://localhost/")))
	q.Operation.Add(goipp.MakeAttribute("notify-subscription-id", goipp.TagInteger, goipp.Integer(id)))
	q.Operation.Add(goipp.MakeAttribute("requesting-user-name", goipp.TagName, goipp.String("root")))
	_, err := s.ask(ctx, "/", q)
	return err
}

// Work lists nothing: all of it is done at once.
func (g *Guard) Work() []platform.Work { return nil }

// Stop has nothing to end.
func (g *Guard) Stop() {}
