package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

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
	for _, w := range flows {
		to, port := w.TupleOrig.IP.DestinationAddress, w.TupleOrig.Proto.DestinationPort
		if !local[w.TupleOrig.IP.SourceAddress] || local[to] || to.IsLoopback() || w.TupleReply.IP.SourceAddress.IsLoopback() {
			continue // it stays on this machine; the last are questions that were redirected already
		}
		if !x.ends(w.TupleOrig.Proto.Protocol, to, port, fresh) {
			continue
		}
		if err := c.Delete(conntrack.Flow{TupleOrig: w.TupleOrig, TupleReply: w.TupleReply, Zone: w.Zone}); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	for set, list := range named {
		var gone []nftables.SetElement
		for _, e := range list {
			if a, ok := netip.AddrFromSlice(e.Key); ok && !x.keep(a) {
				gone = append(gone, nftables.SetElement{Key: e.Key})
			}
		}
		for part := range slices.Chunk(gone, perMessage) {
			if err := c.SetDeleteElements(&nftables.Set{Table: t, Name: set}, part); err != nil {
				return err
			}
		}
		// One that ended in between fails the message: the others are tried on the next occasion, and it is gone.
		if err := c.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.broken()
			return err
		}
	}
	return nil
}

// in reports whether an address is in one of the sorted ranges.
func in[R interface{ Has(netip.Addr) bool }](list []R, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(r R) bool { return r.Has(a) })
}
