package printing

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// places are directories in which something appears when a spooler starts, a job comes, or the list of queues or of printers at USB
// is written.
func (q *Queues) places() []string {
	return []string{filepath.Dir(q.spooler.socket), q.spool, q.config, q.usb}
}

// arm watches the places, and for those that are not there the directory in which they would appear.
func arm(w *fsnotify.Watcher, places []string) error {
	for _, dir := range places {
		for {
			err := w.Add(dir)
			if err == nil {
				break
			}
			if up := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && up != dir {
				dir = up
				continue
			}
			return err
		}
	}
	return nil
}

// Watch reports that a job has come, that the spooler has written its list of queues, or that it has started, until ctx ends, if the
// queues are others then. A queue that is changed without a job is written half a minute later; the spooler itself tells sooner (Guard).
func (q *Queues) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if q.off {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := arm(w, q.places()); err != nil {
		return err
	}
	p, started := newPace(rest), false
	defer p.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			p.begin()
		case e, ok := <-w.Events:
			if !ok {
				return nil
			}
			if e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				if err := arm(w, q.places()); err != nil {
					return err
				}
				started = started || filepath.Dir(e.Name) == filepath.Dir(q.spooler.socket)
				p.begin()
			}
		case <-p.C:
			p.ended()
			if started {
				started = false
				select {
				case q.started <- struct{}{}:
				default:
				}
			}
			if !q.asked.Load() {
				continue
			}
			keys, look := q.news(ctx)
			for _, k := range keys {
				changed(platform.Touch{Key: k})
			}
			if look && len(keys) == 0 {
				changed(platform.Touch{})
			}
		}
	}
}

// pace lets what has begun come to rest for a moment, and lets no more than one look in a while follow, however much goes on:
// any local user can cause files and signals.
type pace struct {
	*time.Timer
	calm  time.Duration // how long it waits for more of what has begun
	armed bool
	last  time.Time
}

const (
	// calm is for what the spooler tells, which runs then, and rest for what was seen in its directories: a spooler that ends writes its
	// files, too, and if it were asked then, systemd would start it again, and again.
	calm = 20 * time.Millisecond
	rest = 2 * time.Second
	// between is how long there is at least between two looks.
	between = time.Second
)

func newPace(calm time.Duration) *pace {
	p := &pace{Timer: time.NewTimer(0), calm: calm}
	p.Stop()
	return p
}

func (p *pace) begin() {
	if !p.armed {
		p.armed = true
		p.Reset(max(p.calm, between-time.Since(p.last)))
	}
}

func (p *pace) ended() { p.armed, p.last = false, time.Now() }

func (p *pace) stop() { p.Stop() }

// news says of which queues there is something to do: those that are open and are to be closed, or, where nothing is refused, those
// that are others than when they were read last. look is set if there is something else to look at.
func (q *Queues) news(ctx context.Context) (keys []enforce.Key, look bool) {
	list, _, err := q.present(ctx)
	ports, errPorts := q.local()
	if err != nil || errPorts != nil {
		return nil, true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	refuses := q.refuses.Load()
	for i := range list {
		if x := &list[i]; refuses && !x.Shut() || !refuses && q.last[x.Name] != x.Value() {
			keys = append(keys, enforce.Key{Kind: kind, ID: x.Name})
		}
	}
	return keys, len(keys) > 0 || !slices.Equal(ports, q.ports) || !refuses && len(list) != len(q.last)
}
