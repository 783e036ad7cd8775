package api

import (
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// download is an answer that may take long, if it goes on. It has a place among the downloads.
type download struct {
	http.ResponseWriter
	of    *downloads
	who   string
	c     *http.ResponseController
	until time.Time
	over  atomic.Bool // its receiver has asked anew
}

// Write writes on.
func (d *download) Write(b []byte) (int, error) {
	next := time.Now().Add(uploadRest)
	if next.After(d.until) {
		next = d.until
	}
	_ = d.c.SetWriteDeadline(next)
	if d.over.Load() {
		return 0, errors.New("the receiver has asked anew")
	}
	return d.ResponseWriter.Write(b)
}

// maxDownloads bounds the lists that one node sends at a time (to administrators as many again), and downloadLimit how long one may
// take; a device goes on where it stopped.
const (
	maxDownloads  = 64
	downloadLimit = 10 * time.Minute
)

// downloads counts the lists that are being sent, one to each receiver, and estimates how long those that wait have to.
type downloads struct {
	mu            sync.Mutex
	by            map[string]*download
	since         time.Time // the beginning of the present window
	refused, sent int       // in it
	estimate      float64   // seconds until all that wait have been served
}

// The bounds of what a device is told to wait, and the window over which the estimate is made, in seconds.
const (
	waitLeast  = 5
	waitMost   = 900
	waitWindow = 10
)

// enter takes a place for one receiver; false if there is none. What the same receiver is being sent already ends: it has asked
// anew.
func (d *downloads) enter(who string, w http.ResponseWriter) (*download, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[string]*download{}
	}
	if before := d.by[who]; before != nil {
		before.over.Store(true)
		_ = before.c.SetWriteDeadline(time.Now())
	} else if len(d.by) >= maxDownloads {
		return nil, false
	}
	x := &download{ResponseWriter: w, of: d, who: who, c: http.NewResponseController(w), until: time.Now().Add(downloadLimit)}
	d.by[who] = x
	return x, true
}

// leave gives the place back.
func (x *download) leave() {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.of.sent++
	if x.of.by[x.who] == x {
		delete(x.of.by, x.who)
	}
}

// wait is when one that was refused should come again, in seconds. Those that wait come once in each such time: from how many
// came, and how many were served, follows how long it takes to serve all.
func (d *downloads) wait(now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.estimate == 0 {
		d.since, d.estimate = now, 2*waitLeast
	}
	d.refused++
	if took := now.Sub(d.since).Seconds(); took > max(waitWindow, d.estimate) {
		waiting := float64(d.refused) / took * d.estimate
		next := min(waitMost, max(waitLeast, waiting/max(float64(d.sent)/took, 0.1)))
		d.estimate = (d.estimate + next) / 2
		d.since, d.refused, d.sent = now, 0, 0
	}
	return int(math.Ceil(d.estimate * (0.5 + rand.Float64()))) //nolint:gosec // no secret
}
