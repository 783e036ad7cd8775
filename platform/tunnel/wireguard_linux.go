package tunnel

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/warderd/warder/enforce/fact"
)

const (
	// session is how long WireGuard uses the keys of one handshake (REJECT_AFTER_TIME of its paper, section 6.1): whatever is
	// sent later needs another one.
	session = 180 * time.Second
	// handshakes is how long such a handshake may take: it is tried every five seconds.
	handshakes = 15 * time.Second
	// wgLimit is how long a program that is a WireGuard tunnel may take for an answer.
	wgLimit = 2 * time.Second
	// sockets is where such programs can be asked.
	sockets = "/var/run/wireguard/"
)

// hearing is what is remembered of a tunnel. Times are read from a clock that nobody sets.
type hearing struct {
	handshake time.Time // the latest, by its own word
	at        time.Time // when it was first seen; earlier, if it was old then
	sent      int64     // bytes, when it had ended
	unheard   time.Time // since when more than that is sent without another handshake

	asking bool // it is being asked
	index  int  // the interface's number
	peers  []fact.Peer
}

// begin forgets what was heard of an earlier handshake.
func (h *hearing) begin(handshake, at time.Time, sent int64) {
	h.handshake, h.at, h.sent, h.unheard = handshake, at, sent, time.Time{}
}

// userspace reports whether a tun device is WireGuard's. Only root may say so.
func userspace(name string) bool {
	for _, path := range []string{sockets, sockets + name + ".sock"} {
		i, err := os.Stat(path)
		if err != nil {
			return false
		}
		if s, ok := i.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 || i.IsDir() && i.Mode().Perm()&0o022 != 0 {
			return false
		}
	}
	return true
}

// wireguard asks about a tunnel's peers. The answer contains keys, which are not kept.
func (r *Reader) wireguard(ctx context.Context, t *fact.Tunnel) {
	if !r.ask(t.Name, true) {
		r.unanswered(t) // it is still being asked
		return
	}
	type answer struct {
		d   *wgtypes.Device
		err error
	}
	got, name := make(chan answer, 1), t.Name
	go func() {
		var a answer
		c, err := wgctrl.New()
		if a.err = err; err == nil {
			a.d, a.err = c.Device(name)
			_ = c.Close()
		}
		r.ask(name, false)
		got <- a
	}()
	limit := time.NewTimer(wgLimit)
	defer limit.Stop()
	select {
	case a := <-got:
		if a.err != nil {
			t.Silent = "it cannot be asked about its peers"
			if !errors.Is(a.err, fs.ErrNotExist) {
				r.log.Warn("cannot ask WireGuard", "interface", t.Name, "error", a.err)
			}
			return
		}
		r.peers(t, a.d, time.Now())
	case <-limit.C:
		r.unanswered(t)
	case <-ctx.Done():
		r.unanswered(t)
	}
}

// ask notes that a tunnel is being asked, or no longer. It reports false if it is already.
func (r *Reader) ask(name string, begins bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hearing(name)
	if begins && h.asking {
		return false
	}
	h.asking = begins
	return true
}

// hearing is what is remembered of a tunnel. The caller has the lock.
func (r *Reader) hearing(name string) *hearing {
	h := r.heard[name]
	if h == nil {
		h = &hearing{}
		r.heard[name] = h
	}
	return h
}

// unanswered describes a tunnel whose program does not answer: its peers are those that it last had, if it is still the same.
func (r *Reader) unanswered(t *fact.Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Silent = "its program does not answer"
	if h := r.hearing(t.Name); h.index == t.Index {
		t.Peers = slices.Clone(h.peers)
	}
}

// forget forgets tunnels that are no longer there.
func (r *Reader) forget(list []fact.Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.heard, func(name string, h *hearing) bool {
		return !h.asking && !slices.ContainsFunc(list, func(t fact.Tunnel) bool { return t.Name == name })
	})
}

// peers fills in the peers, and whether they answer.
func (r *Reader) peers(t *fact.Tunnel, d *wgtypes.Device, now time.Time) {
	var latest time.Time
	var sent int64
	for i := range d.Peers {
		p := &d.Peers[i]
		x := fact.Peer{Key: fact.PeerKey(p.PublicKey.String())}
		if p.Endpoint != nil {
			ap := p.Endpoint.AddrPort()
			x.Endpoint = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
		t.Peers = append(t.Peers, x)
		if p.LastHandshakeTime.After(latest) {
			latest = p.LastHandshakeTime
		}
		sent += p.TransmitBytes
	}
	slices.SortFunc(t.Peers, func(a, b fact.Peer) int { return strings.Compare(a.Key, b.Key) })
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hearing(t.Name)
	if h.index != t.Index {
		*h = hearing{asking: h.asking, index: t.Index}
	}
	h.peers = slices.Clone(t.Peers)
	t.Silent = h.note(latest, sent, now)
}

// note takes what is read now, and says why packets probably do not arrive.
func (h *hearing) note(handshake time.Time, sent int64, now time.Time) string {
	if handshake.IsZero() || handshake.Unix() == 0 {
		h.begin(time.Time{}, time.Time{}, 0)
		return "there was no handshake with its peer yet"
	}
	if !handshake.Equal(h.handshake) {
		at := now
		if age := now.Round(0).Sub(handshake); h.handshake.IsZero() && age > 0 {
			at = now.Add(-age) // it was there before us
		}
		h.begin(handshake, at, sent)
	}
	if now.Sub(h.at) <= session {
		h.sent, h.unheard = sent, time.Time{}
		return ""
	}
	if sent <= h.sent {
		return "" // nobody sends anything, so nobody has to answer
	}
	if h.unheard.IsZero() {
		h.unheard = now
	}
	if now.Sub(h.unheard) < handshakes {
		return ""
	}
	return "its peer does not answer: the last handshake is too old for what is sent"
}
