package tunnel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/tick"
)

// What is joined: changes of interfaces, addresses, routes and rules, and of IPsec's associations and policies
// (linux/rtnetlink.h and linux/xfrm.h; the numbers are RTNLGRP_* and XFRMNLGRP_*).
var groups = []struct {
	family int
	list   []uint32
}{
	{unix.NETLINK_ROUTE, []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP}},
	{unix.NETLINK_XFRM, []uint32{2, 3, 4, 7, 8}}, // EXPIRE, SA, POLICY, MIGRATE, MAPPING
}

const (
	// rest is how long the network must be at rest before it is read again: a tunnel comes with a dozen messages.
	rest = 50 * time.Millisecond
	// restMost is how long that is waited for at most.
	restMost = 500 * time.Millisecond
	// readBurst is how long the network may be read at a stretch, and readPart the part of the time beyond that: whoever runs the
	// network can bring about thousands of routes that change all the time.
	readBurst = time.Second
	readPart  = 5
	// pace is how often WireGuard is asked whether its peers still answer, which nothing announces.
	pace = 20 * time.Second
)

// Watch reports changes of what is observed, until ctx ends.
func (r *Reader) Watch(ctx context.Context, changed func()) error {
	if r.off {
		<-ctx.Done()
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stirred := make(chan struct{}, 1)
	stir := func() {
		r.told.Add(1)
		select {
		case stirred <- struct{}{}:
		default:
		}
	}
	var all sync.WaitGroup
	errs := make(chan error, len(groups)+1)
	for _, g := range groups {
		c, err := netlink.Dial(g.family, nil)
		if errors.Is(err, unix.EPROTONOSUPPORT) && g.family == unix.NETLINK_XFRM {
			continue // a kernel without IPsec
		}
		if err != nil {
			cancel()
			all.Wait()
			return fmt.Errorf("cannot watch the network: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		for _, n := range g.list {
			if err := c.JoinGroup(n); err != nil && ctx.Err() == nil {
				stop()
				_ = c.Close()
				cancel()
				all.Wait()
				return fmt.Errorf("cannot watch the network: %w", err)
			}
		}
		all.Go(func() {
			defer stop()
			for ctx.Err() == nil {
				// An error means that messages were lost, or the end.
				if _, err := c.Receive(); err != nil && ctx.Err() == nil && !errors.Is(err, unix.ENOBUFS) {
					errs <- fmt.Errorf("cannot watch the network: %w", err)
					cancel()
				}
				stir()
			}
		})
	}
	r.watched.Store(true)
	stir() // what changed before is not announced any more
	defer r.watched.Store(false)
	all.Go(func() { r.watchServers(ctx, stir) })
	all.Go(func() {
		if err := tick.Every(ctx, pace, func() {
			if r.listens() {
				stir()
			}
		}); err != nil {
			errs <- err
			cancel()
		}
	})
	for {
		select {
		case <-ctx.Done():
			all.Wait()
			select {
			case err := <-errs:
				return err
			default:
				return nil
			}
		case <-stirred:
		}
		r.mu.Lock()
		wait := r.debt.wait(time.Now())
		r.mu.Unlock()
		sleep(ctx, wait)
		for range 2 { // at once, and when all has come
			if r.guard != nil && ctx.Err() == nil {
				r.guard.stirred(ctx)
			}
			settle(ctx, stirred)
		}
		r.told.Add(1) // not everything is announced: what came with it is read, too
		if ctx.Err() == nil && r.changed(ctx) {
			if r.guard != nil {
				r.guard.stirred(ctx)
			}
			changed()
		}
	}
}

// debt is for how long the network was read, less the part of the time since that may be used for it.
type debt struct {
	left time.Duration
	at   time.Time
}

// wait is how long the next reading has to wait.
func (d *debt) wait(now time.Time) time.Duration {
	d.left, d.at = max(d.left-now.Sub(d.at)/readPart, 0), now
	return max(d.left-readBurst, 0) * readPart
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// watchServers reports changes of the files that name this machine's name servers: the kill switch lets the VPN's server be looked up
// at those alone. A directory that is not there yet comes with a network's change, which is announced by itself.
func (r *Reader) watchServers(ctx context.Context, changed func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		r.log.Warn("changes of the name servers are found by the regular look", "error", err)
		return
	}
	defer w.Close()
	files := link.Configured()
	dirs := map[string]bool{}
	for _, f := range files {
		if d := filepath.Dir(f); !dirs[d] {
			dirs[d] = w.Add(d) == nil
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if slices.Contains(files, e.Name) {
				changed()
			}
		case _, ok := <-w.Errors: // events were lost
			if !ok {
				return
			}
			changed()
		}
	}
}

// settle waits until nothing has stirred for a moment.
func settle(ctx context.Context, stirred <-chan struct{}) {
	end := time.NewTimer(restMost)
	defer end.Stop()
	for {
		quiet := time.NewTimer(rest)
		select {
		case <-ctx.Done():
		case <-end.C:
		case <-quiet.C:
		case <-stirred:
			quiet.Stop()
			continue
		}
		quiet.Stop()
		return
	}
}

// listens reports whether there is a WireGuard tunnel.
func (r *Reader) listens() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.last.V.List {
		if len(t.Peers) > 0 && t.Peers[0].Key != "" || t.Silent != "" {
			return true
		}
	}
	return false
}
