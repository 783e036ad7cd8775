package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// end ends what may not go on: admitted addresses that no allowed name has any more, open connections to what may no longer
// be reached, and those on port 53 and past our resolver, which were made before their packets were redirected. The kernel
// forgets the connection, and its next packet is judged as the first of a new one. fresh says that the table was just
// made: later on, connections on port 53 that are not redirected are the resolver's own. The caller has the lock.
func (f *Firewall) end(x filling, fresh bool) error {
	if x.keep == nil {
		return nil
	}
	if x.reach.Only {
		if err := f.revoke(x); err != nil {
			return err
		}
	}
	c, err := conntrack.Dial(nil)
	if err != nil {
		return fmt.Errorf("cannot reach the kernel's connection tracking: %w", err)
	}
	defer c.Close()
	flows, err := c.Dump(nil)
	if err != nil {
		return fmt.Errorf("cannot list the open connections: %w", err)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	local := map[netip.Addr]bool{}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				local[addr.Unmap()] = true
			}
		}
	}
	var errs []error
	var over []connection
	for _, o := range outgoing("/proc/thread-self/net") {
		if to := o.far.Addr(); !local[to] && !to.IsLoopback() && o.far.Port() != 53 && x.ends(o.proto, to, o.far.Port(), fresh) {
			over = append(over, o)
		}
	}
	for _, w := range flows {
		to, port := w.TupleOrig.IP.DestinationAddress, w.TupleOrig.Proto.DestinationPort
		if !local[w.TupleOrig.IP.SourceAddress] || local[to] || to.IsLoopback() || local[w.TupleReply.IP.SourceAddress] {
			continue // it stays on this machine; the last are questions that were redirected already
		}
		if !x.ends(w.TupleOrig.Proto.Protocol, to, port, fresh) {
			continue
		}
		// Those on port 53 need no burial: their packets are refused unless they are redirected.
		if from := w.TupleOrig; port != 53 {
			over = append(over, connection{from.Proto.Protocol, netip.AddrPortFrom(from.IP.SourceAddress, from.Proto.SourcePort),
				netip.AddrPortFrom(to, port)})
		}
		gone := conntrack.Flow{TupleOrig: w.TupleOrig, TupleReply: w.TupleReply, Zone: w.Zone}
		if err := c.Delete(gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, f.bury(over))...)
}

// endedFor is how long an ended connection stays refused. The other side gives up long before.
const endedFor = 10 * time.Minute

// bury remembers ended connections in the kernel.
func (f *Firewall) bury(list []connection) error {
	c, err := f.open()
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	by := map[string][]nftables.SetElement{}
	seen := map[string]bool{}
	for _, w := range list {
		set, to := setEnded6, w.far.Addr().Unmap()
		if to.Is4() {
			set = setEnded4
		}
		key := to.AsSlice()
		for _, p := range []uint16{w.far.Port(), w.own.Port()} {
			key = append(key, byte(p>>8), byte(p), 0, 0) // each part of a key is filled up to four bytes
		}
		if seen[string(key)] || len(by[set]) >= maxEnded/2 {
			continue
		}
		seen[string(key)] = true
		by[set] = append(by[set], nftables.SetElement{Key: key, Timeout: endedFor})
	}
	for _, s := range sets(t) {
		for part := range slices.Chunk(by[s.Name], perMessage) {
			if err := c.SetAddElements(s, part); err != nil {
				return err
			}
		}
	}
	if len(by) == 0 {
		return nil
	}
	return f.flush(c)
}

// ends reports whether an open connection has to end.
func (x *filling) ends(proto uint8, to netip.Addr, port uint16, fresh bool) bool {
	ports := proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP
	switch {
	case ports && port == 53:
		return fresh
	case ports && port == 853:
		return true
	case in(x.reach.Refuse, to):
		return true
	case ports && port == 443 && in(x.reach.Resolvers, to):
		return true
	}
	return x.reach.Only && !in(x.reach.Allow, to) && !x.keep(to)
}

// revoke removes admitted addresses that may not be reached any more.
func (f *Firewall) revoke(x filling) error {
	c, err := f.open()
	if err != nil {
		return err
	}
	named, err := f.named(c)
	if err != nil {
		f.broken()
		return err
	}
	for set, list := range named {
		var gone []nftables.SetElement
		for _, e := range list {
			if a, ok := netip.AddrFromSlice(e.Key); ok && !x.keep(a) {
				gone = append(gone, e)
			}
		}
		if len(gone) > 0 {
			if err := f.remove(c, set, gone); err != nil {
				return err
			}
		}
	}
	return nil
}

// in reports whether an address is in one of the sorted ranges.
func in[R interface{ Has(netip.Addr) bool }](list []R, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(r R) bool { return r.Has(a) })
}
