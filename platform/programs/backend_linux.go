package programs

import (
	"context"
	"errors"
	"fmt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

const howDoorman = "the kernel's list of what the agent is asked about"

// how is where what is pinned was read.
func (g *group) how() string { return "the programs pinned at /sys/fs/bpf/warder/" + g.name }

// Kinds is the one kind: programs in the kernel, which end with a boot.
func (c *Control) Kinds() []platform.Kind {
	return []platform.Kind{{Name: c.name, Life: platform.Boot, Made: true}}
}

// List reads what is pinned.
func (c *Control) List(context.Context) (out map[enforce.Key]enforce.Reading, err error) {
	out = map[enforce.Key]enforce.Reading{}
	if c.off {
		return nil, nil
	}
	if c.falls.Load() {
		unused := c.held.Unused()
		switch ids, on, changed, err := c.doorman.state(); {
		case unused != nil:
			out[c.key] = enforce.Reading{State: enforce.Present, Value: enforce.Value("changed: " + unused.Error()), How: c.how()}
		case err != nil:
			out[c.key] = enforce.Reading{State: enforce.Unknown, How: howDoorman + ": " + err.Error()}
		case changed != "":
			out[c.key] = enforce.Reading{State: enforce.Present, Value: enforce.Value("changed: " + changed), How: howDoorman}
		case on:
			out[c.key] = enforce.Reading{State: enforce.Present, Value: enforce.Value(c.refused(ids)), How: howDoorman}
		}
		return out, nil
	}
	c.held.With(func(p *bpf.Pinned, why error) {
		var ids []string
		if why == nil && p != nil {
			ids, why = c.list(p)
		}
		if last := c.last.Load(); why == nil && p != nil && last != nil {
			var same bool
			if same, why = last.told(p); why == nil && !same {
				why = &bpf.Changed{Why: "they know other contents than they were told"}
			}
		}
		if why == nil {
			why = c.set.Strays()
		}
		if why == nil && p != nil {
			why = c.held.Overlooked(p)
		}
		var changed *bpf.Changed
		switch {
		case errors.As(why, &changed):
			out[c.key] = enforce.Reading{State: enforce.Present, Value: enforce.Value("changed: " + changed.Why), How: c.how()}
		case why != nil:
			out[c.key] = enforce.Reading{State: enforce.Unknown, How: c.how() + ": " + why.Error()}
		case p != nil:
			out[c.key] = enforce.Reading{State: enforce.Present, Value: enforce.Value(c.refused(ids)), How: c.how()}
		}
	})
	return out, nil
}

// Apply attaches the programs, tells them of other apps, or removes them.
func (c *Control) Apply(ctx context.Context, changes []enforce.Change) map[enforce.Key]error {
	out := map[enforce.Key]error{}
	for _, x := range changes {
		if err := c.change(ctx, x); err != nil {
			out[x.Key] = err
		}
	}
	return out
}

func (c *Control) change(ctx context.Context, x enforce.Change) error {
	if x.Key != c.key || c.off {
		return fmt.Errorf("there is no %s", x.Key)
	}
	if err := c.gate(x); err != nil {
		return err
	}
	if x.To.State == enforce.Absent {
		c.last.Store(nil)
		c.doorman.stop()
		if c.falls.Load() {
			return c.held.Leave()
		}
		return c.held.Remove()
	}
	ids, ok := c.parse(string(x.To.Value))
	if !ok {
		return fmt.Errorf("%q does not name %s", x.To.Value, c.what)
	}
	has, unread := c.find(ids) // before anything is locked
	if c.falls.Load() {
		err := errors.Join(c.doorman.start(ids, has, unread), c.held.Leave())
		if poke := c.poke.Load(); poke != nil {
			(*poke)()
		}
		return err
	}
	put := func(p *bpf.Pinned) error { // the names, whatever cannot be read
		if err := c.held.Overlooked(p); err != nil {
			return err
		}
		err := c.names(p, ids)
		if err == nil && unread == nil {
			if err = has.tell(p); err == nil {
				c.last.Store(&has)
			}
		}
		return errors.Join(err, unread)
	}
	var err error
	told := false
	c.held.With(func(p *bpf.Pinned, why error) {
		if told = p != nil && why == nil && c.set.Strays() == nil; told {
			err = put(p)
		}
	})
	if !told {
		c.last.Store(nil)
		if err := c.set.Calls(ctx, c.run); err != nil {
			c.cannot.Store(true) // what runs is stopped more often
			return err
		}
		err = c.held.Make(ctx, func(p, _ *bpf.Pinned) error { return put(p) }, ids...)
		if c.cannot.Store(err != nil); err == nil {
			c.doorman.stop() // it was needed for a while
		}
	}
	if poke := c.poke.Load(); poke != nil {
		(*poke)() // what was started while this was done
	}
	return err
}

// Watch reports that another program has removed something that is pinned.
func (c *Control) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if c.off {
		<-ctx.Done()
		return nil
	}
	touched := func() { changed(platform.Touch{Key: c.key}) }
	c.touched.Store(&touched)
	if c.falls.Load() {
		<-ctx.Done()
		return nil
	}
	return c.held.Watch(ctx, touched)
}
