package firewall

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/warderd/warder/platform"
)

// Admit lets addresses be reached for a time, and returns when the kernel has taken them. An address that is there already
// gets the new time. Without a table nothing needs to be admitted: the next one begins with all that is known. The whole list
// is one transaction. If there is no room, what would end soonest makes some.
func (f *Firewall) Admit(list []platform.Admission) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.there || len(list) == 0 {
		return nil
	}
	var errs []error
	for range 2 {
		c, err := f.open()
		if err != nil {
			return err
		}
		if err = f.admit(c, list); err == nil {
			return nil
		}
		errs = append(errs, err)
		f.broken()
		if err := f.makeRoom(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// makeRoom removes the quarter of the admitted addresses that would end soonest, from each set that is nearly full.
func (f *Firewall) makeRoom() error {
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
		if len(list) < maxNamed*3/4 {
			continue
		}
		slices.SortFunc(list, func(a, b nftables.SetElement) int { return cmp.Compare(a.Timeout, b.Timeout) })
		if err := f.remove(c, set, list[:len(list)/4]); err != nil {
			return err
		}
	}
	return nil
}

// remove removes elements of a named set. One may have ended meanwhile, and to delete it would fail the transaction: so each
// is added once more before.
func (f *Firewall) remove(c *nftables.Conn, set string, list []nftables.SetElement) error {
	s := &nftables.Set{Table: &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}, Name: set, HasTimeout: true}
	for part := range slices.Chunk(list, perMessage) {
		keys := make([]nftables.SetElement, len(part))
		for i := range part {
			keys[i] = nftables.SetElement{Key: part[i].Key}
		}
		if err := errors.Join(c.SetAddElements(s, part), c.SetDeleteElements(s, keys)); err != nil {
			return err
		}
	}
	return f.flush(c)
}

// admit adds elements. Adding one again does not change its time-out in older kernels, and deleting one that is not there
// fails the transaction: so each that may be there is added, deleted, and added.
func (f *Firewall) admit(c *nftables.Conn, list []platform.Admission) error {
	if f.has == nil || len(f.has) > 4*maxNamed {
		if err := f.know(c); err != nil {
			return err
		}
	}
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	four, six := &nftables.Set{Table: t, Name: setNamed4, HasTimeout: true}, &nftables.Set{Table: t, Name: setNamed6, HasTimeout: true}
	four.KeyType, six.KeyType = nftables.TypeIPAddr, nftables.TypeIP6Addr
	by := map[*nftables.Set][]nftables.SetElement{}
	seen := map[netip.Addr]bool{}
	for _, a := range list {
		addr := a.Address.Unmap()
		if !addr.IsValid() || seen[addr] {
			continue
		}
		seen[addr] = true
		s := six
		if addr.Is4() {
			s = four
		}
		by[s] = append(by[s], nftables.SetElement{Key: addr.AsSlice(), Timeout: a.For, Comment: comment(a.Name)})
	}
	for s, elems := range by {
		for part := range slices.Chunk(elems, perMessage) {
			var again, keys []nftables.SetElement
			for _, e := range part {
				if a, _ := netip.AddrFromSlice(e.Key); f.may(a) {
					again, keys = append(again, e), append(keys, nftables.SetElement{Key: e.Key})
				}
			}
			err := c.SetAddElements(s, part)
			if len(again) > 0 {
				err = errors.Join(err, c.SetDeleteElements(s, keys), c.SetAddElements(s, again))
			}
			if err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); err != nil {
		return err
	}
	for a := range seen {
		f.has[a] = struct{}{}
	}
	return nil
}

// may reports whether an address may be in a named set.
func (f *Firewall) may(a netip.Addr) bool { _, ok := f.has[a]; return ok }

// know reads which addresses are in the named sets.
func (f *Firewall) know(c *nftables.Conn) error {
	named, err := f.named(c)
	if err != nil {
		return err
	}
	f.has = map[netip.Addr]struct{}{}
	for _, list := range named {
		for _, e := range list {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				f.has[a] = struct{}{}
			}
		}
	}
	return nil
}

// comment is a name as an element's comment, which has at most 128 bytes with its end (NFT_USERDATA_MAXLEN is 256, and nft
// prints no more). A longer name is cut at its beginning: what is above it says more.
func comment(name string) string {
	const most = 120
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' {
			return c
		}
		return '?' // it is printed on root's terminal, and loaded again by nft
	}, name)
	if len(name) > most {
		return name[len(name)-most:]
	}
	return name
}

// Admitted lists what was admitted and has not ended, with the time that each has left. After a kill it is still there. nil
// means that there is no table.
func (f *Firewall) Admitted() (out []platform.Admission, err error) {
	if f.off {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.open()
	if err != nil {
		return nil, err
	}
	named, err := f.named(c)
	if err != nil {
		f.broken()
		return nil, err
	}
	if named == nil {
		return nil, nil
	}
	out = []platform.Admission{}
	for _, list := range named {
		for _, e := range list {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				out = append(out, platform.Admission{Name: e.Comment, Address: a, For: e.Timeout})
			}
		}
	}
	return out, nil
}

// Left says what an earlier run left.
func (f *Firewall) Left() (list []platform.Admission, lists string, err error) {
	if f.off {
		return nil, "", nil
	}
	f.mu.Lock()
	c, err := f.open()
	if err == nil {
		t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
		var has map[string]*nftables.Set
		if has, err = known(c, t); has != nil {
			if rules, err := c.GetRules(t, &nftables.Chain{Name: chainNames, Table: t}); err == nil {
				lists = listsOf(rules)
			}
		}
	}
	f.mu.Unlock()
	if err != nil || lists == "" {
		return nil, "", err
	}
	list, err = f.Admitted()
	return list, lists, err
}

// known are the sets of the table by name; nil if there is no table. The library's errors do not tell that apart.
func known(c *nftables.Conn, t *nftables.Table) (map[string]*nftables.Set, error) {
	tables, err := c.ListTablesOfFamily(t.Family)
	if err != nil || !slices.ContainsFunc(tables, func(x *nftables.Table) bool { return x.Name == t.Name }) {
		return nil, err
	}
	list, err := c.GetSets(t)
	if err != nil {
		return nil, err
	}
	out := map[string]*nftables.Set{}
	for _, s := range list {
		out[s.Name] = s
	}
	return out, nil
}

// named reads the elements of the named sets; the Timeout of each is what it has left. nil if there is no table.
func (f *Firewall) named(c *nftables.Conn) (map[string][]nftables.SetElement, error) {
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	has, err := known(c, t)
	if err != nil || has == nil {
		return nil, err
	}
	out := map[string][]nftables.SetElement{}
	for _, s := range sets(t) {
		if s.Name != setNamed4 && s.Name != setNamed6 || has[s.Name] == nil {
			continue
		}
		list, err := c.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.Expires > 0 {
				e.Timeout = e.Expires
			}
			out[s.Name] = append(out[s.Name], nftables.SetElement{Key: e.Key, Timeout: e.Timeout, Comment: e.Comment})
		}
	}
	return out, nil
}
