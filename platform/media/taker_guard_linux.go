package media

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// useTaker says what is done where the kernel takes no programs that keep files from growing.
func (l *Limit) useTaker(g *LimitGuard, own string) {
	l.taker = &taker{own: own, log: l.log, hand: g.taken, on: l.place}
	l.taker.free = func(path string) bool {
		r := g.ruling.Load()
		return r != nil && slices.Contains(r.files, path)
	}
	l.taker.died = func() {
		if f := l.touched.Load(); f != nil {
			(*f)(platform.Touch{Key: limitKey})
		}
	}
}

// place names the disk of a file, for people.
func (l *Limit) place(dev uint64) string {
	list, _ := l.disks()
	for _, d := range list {
		if _, devs := d.resting(); slices.Contains(devs, number(dev)) {
			x := l.describe(d)
			return subject(&x)
		}
	}
	return "device " + number(dev)
}

// under is the disk, by its place in a list, on which a path is.
func under(path string, list []fact.Medium) int {
	best, most := -1, -1
	for i := range list {
		for _, point := range list[i].Mounts {
			if (path == point || strings.HasPrefix(path, strings.TrimSuffix(point, "/")+"/")) && len(point) > most {
				best, most = i, len(point)
			}
		}
	}
	return best
}

// on is the disk, by its place in a list, on which a file is; -1 if it is on none of them.
func (l *Limit) on(j *job, list []fact.Medium) int {
	for i := range list {
		if d, is := l.disk(list[i].Name); is {
			if _, devs := d.resting(); slices.Contains(devs, number(j.dev)) {
				return i
			}
		}
	}
	return under(j.path, list) // a file system over several disks has a number of its own
}

// number is a device number as sysfs has it.
func number(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// takeFrom has the taker watch the file systems of the disks that are limited, and no others.
func (g *LimitGuard) takeFrom() error {
	g.judges.Lock()
	defer g.judges.Unlock()
	r := g.ruling.Load()
	if _, on := g.taker.state(); !on || r == nil {
		return nil // the planner starts it, and this is called again then
	}
	list, err := g.disks()
	if err != nil {
		return err
	}
	all, err := g.mounts()
	if err != nil {
		return err
	}
	var errs []error
	var watched []string
	for _, d := range list {
		if bus, _ := g.bus(d); bus == "" {
			continue
		}
		x := g.judged(d)
		v := r.judge.Judge(&x)
		done := map[string]bool{}
		for _, m := range d.mountsOf(all) {
			if !v.Allow {
				watched = append(watched, m.Point)
			}
			if done[m.Dev] {
				continue // another mount of the same file system
			}
			if err := g.taker.mark(m, !v.Allow); err != nil {
				errs = append(errs, fmt.Errorf("what is written to %s is not watched: %w", enforce.Plain(m.Point), err))
				continue
			}
			done[m.Dev] = true
		}
	}
	g.taker.keepOnly(watched)
	return errors.Join(errs...)
}

// judged is a disk as the rules see it.
func (g *LimitGuard) judged(d disk) fact.Medium {
	x := g.describe(d)
	if x.External.V && g.carries != nil {
		x.System = g.carries(d.device)
	}
	return x
}

// observeTaken adds to the disks whether files that are too large are taken off them.
func (l *Limit) observeTaken(out *fact.Machine) error {
	if _, on := l.taker.state(); !on || !out.Media.OK {
		return nil
	}
	is, err := l.taker.watched()
	if err != nil {
		return err
	}
	all, err := l.mounts()
	if err != nil {
		return err
	}
	for i := range out.Media.V {
		x := &out.Media.V[i]
		if !x.External.V {
			continue
		}
		d, there := l.disk(x.Name)
		if !there {
			continue
		}
		limited := true
		for _, m := range d.mountsOf(all) {
			limited = limited && is[m.Dev]
		}
		x.Limited, x.Taken = &limited, true
		if l.taker.missed() {
			x.Unread = "notices of files that were written were lost"
		}
	}
	for _, j := range l.taker.remaining() {
		if i := l.on(&j, out.Media.V); i >= 0 {
			out.Media.V[i].Over++
			out.Media.V[i].OverWhy = j.why
		}
	}
	return nil
}

// taken tells what became of a file that is too large.
func (g *LimitGuard) taken(t taken) {
	rule := g.ruling.Load()
	if rule == nil {
		return
	}
	list, err := g.disks()
	if err != nil {
		return
	}
	all, err := g.mounts()
	if err != nil {
		return
	}
	media := make([]fact.Medium, len(list))
	for i, d := range list {
		media[i].Name = d.name()
		for _, m := range d.mountsOf(all) {
			media[i].Mounts = append(media[i].Mounts, m.Point)
		}
	}
	i := g.on(&t.job, media)
	if i < 0 {
		return // it has gone
	}
	x := g.judged(list[i])
	v := rule.judge.Judge(&x)
	if v.Allow {
		return
	}
	// Who writes a thousand files is told of as often as who is refused a thousand times.
	who, what := fmt.Sprintf("%d@%d %d", t.dev, x.Turn, t.who.UID), t.id
	if t.id == "" {
		what = fmt.Sprint(t.ino)
	}
	g.tells.Lock()
	news := g.takenTold.News(who, what)
	if news {
		g.takenTold.Told(who, what)
	}
	g.tells.Unlock()
	if !news {
		return
	}
	is, err := g.taker.watched()
	limited := err == nil
	for _, m := range list[i].mountsOf(all) {
		limited = limited && is[m.Dev]
	}
	note := fmt.Sprintf("%s wrote %s, %d bytes: ", t.who, g.file(t.path), t.size)
	if t.id != "" {
		note += "what was in it was taken off the disk, and is in quarantine as " + t.id
	} else {
		note += "it is still there: " + t.why
	}
	g.Hand(platform.Decision{Section: sizeSetting.Section(), Key: enforce.Key{Kind: "filesize.taken", ID: fmt.Sprintf("%s %d %d %d", x.Key(), t.dev, t.ino, time.Now().UnixNano())},
		Subject: subject(&x), Verdict: v, Fact: &fact.Written{Medium: x, About: fact.AboutSize, Bytes: t.size}, Done: sizeReading(&limited),
		Reason: func() (string, string) { return rule.judge.Reason(v, &x) }, Note: note})
}
