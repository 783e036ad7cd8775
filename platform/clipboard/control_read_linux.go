package clipboard

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/platform/datacontrol"
)

const (
	// readWait is how long a program may take to tell what it has.
	readWait = 8 * time.Second
	// nextWait is how long nothing comes of one form until the next one is asked for as well.
	nextWait = time.Second
	// maxRead bounds what is read of all forms of a copy, in bytes: the same text is there under several names, which counts once.
	maxRead = 3 * lookHead
	// maxReads bounds the copies that are being read: a program may never say all of one.
	maxReads = 4
	// drainWait is how long a program that says more than is looked into, or too slowly, is let say it: many do not expect that nobody
	// reads on.
	drainWait = 30 * time.Second
)

// telling is what a program on Wayland tells of what it has copied.
type telling struct {
	mu     sync.Mutex
	names  []string
	data   [][]byte
	size   int
	came   time.Time // the last part
	failed bool      // some of it did not come in time, or had no room
}

// forms are what has come: the first lookHead bytes, each text once.
func (r *telling) forms() []Form {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, room := &copied{}, lookHead
	for i, data := range r.data {
		if data = data[:min(len(data), room)]; len(data) > 0 && !c.has(data) {
			room -= len(data)
			c.Forms = append(c.Forms, Form{r.names[i], data})
		}
	}
	return c.Forms
}

// take takes in a part of a form, and reports whether more is wanted.
func (r *telling) take(n int, part []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	room := maxRead - r.size
	own := lookHead - len(r.data[n])
	r.failed = r.failed || len(part) >= room && own > room
	part = part[:min(len(part), room, own)]
	r.size += len(part)
	r.came = time.Now()
	r.data[n] = append(r.data[n], part...)
	return len(part) < room && len(part) < own
}

// ended notes that a form has come to its end, whole or not. One that is there already under another name gives its room back.
func (r *telling) ended(n int, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = r.failed || !whole
	for i, other := range r.data {
		if i != n && len(other) > 0 && slices.Equal(other, r.data[n]) {
			r.size -= len(other)
			r.data[n] = nil
			return
		}
	}
}

// since is when the last part has come.
func (r *telling) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came
}

func (r *telling) missing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

// read reads one form until it ends, and throws away what is not wanted.
func (r *telling) read(ctx context.Context, n int, f *os.File, until time.Time, over chan<- struct{}) {
	defer f.Close()
	_ = f.SetReadDeadline(until)
	// Nobody needs it any more: what it has begun to say it may end.
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now().Add(staleWait)) })()
	buf := make([]byte, 64<<10)
	for {
		k, err := f.Read(buf)
		more := r.take(n, buf[:k])
		if err == nil && more {
			continue
		}
		r.ended(n, err == nil || errors.Is(err, io.EOF))
		close(over)
		if errors.Is(err, io.EOF) {
			return
		}
		break
	}
	_ = f.SetReadDeadline(time.Now().Add(drainWait))
	if ctx.Err() != nil {
		_ = f.SetReadDeadline(time.Now().Add(staleWait))
	}
	_, _ = io.Copy(io.Discard, f)
}

// read reads forms of something that was copied, and hands them on: what has come after a moment, and all of it.
func (d *desktop) read(ctx context.Context, of heard, offer *datacontrol.Offer, list []string) {
	until := time.Now().Add(readWait)
	tell := func(h heard) {
		h.of, h.there, h.round = of.of, of.there, of.round
		if ctx.Err() != nil {
			return
		}
		select {
		case d.heard <- h:
		case <-ctx.Done():
		}
	}
	select {
	case d.reads <- struct{}{}:
		defer func() { <-d.reads }()
	case <-ctx.Done():
		return
	case <-time.After(readWait):
		tell(heard{all: true, failed: true})
		return
	}
	r := &telling{names: list, data: make([][]byte, len(list))}
	var reading sync.WaitGroup
	defer reading.Wait()
	moment := time.NewTimer(patience)
	defer moment.Stop()
	// After that moment, each form that has come is asked about at once.
	passed, asked := false, 0
	part := func() {
		size, forms := 0, r.forms()
		for i := range forms {
			size += len(forms[i].Data)
		}
		if passed && size > asked {
			asked = size
			tell(heard{forms: forms})
		}
	}
	// wait waits until one form has come, or until nothing has come for a while.
	wait := func(over <-chan struct{}, most time.Duration) bool {
		t := time.NewTimer(most)
		defer t.Stop()
		for {
			select {
			case <-over:
				part()
				return true
			case <-moment.C:
				passed = true
				part()
			case <-t.C:
				rest := min(most-time.Since(r.since()), time.Until(until))
				if rest <= 0 {
					return true
				}
				t.Reset(rest)
			case <-ctx.Done():
				return false
			}
		}
	}
	var all []chan struct{}
	for n, name := range list {
		f, err := d.c.Receive(offer, name)
		if errors.Is(err, datacontrol.ErrGone) {
			return
		}
		if err != nil {
			r.missing()
			continue
		}
		over := make(chan struct{})
		all = append(all, over)
		reading.Go(func() { r.read(ctx, n, f, until, over) })
		if !wait(over, min(nextWait, time.Until(until))) {
			return
		}
	}
	for _, over := range all {
		if !wait(over, readWait) {
			return
		}
	}
	r.mu.Lock()
	failed := r.failed
	r.mu.Unlock()
	tell(heard{forms: r.forms(), all: true, failed: failed})
}
