package firewall

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
)

// kernel is a connection to the kernel's nftables that is kept open, and opened when first needed. Its owner has a lock.
type kernel struct {
	conn *nftables.Conn
	own  uint32 // our port at netlink, by which our own messages are told from others'
}

// socketBuffer is the size of the netlink socket's buffers: a transaction of a long list is one message.
const socketBuffer = 8 << 20

func (k *kernel) open() (*nftables.Conn, error) {
	if k.conn != nil {
		return k.conn, nil
	}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(n *netlink.Conn) error {
		k.own = n.PID()
		return errors.Join(n.SetReadBuffer(socketBuffer), n.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the kernel's packet filter: %w", err)
	}
	k.conn = c
	return c, nil
}

// close closes a connection on which something failed, because its answers may be out of step.
func (k *kernel) close() {
	if k.conn != nil {
		_ = k.conn.CloseLasting()
		k.conn = nil
	}
}

// untorn reads until no transaction of another program came in between: then the kernel interrupts a list.
func untorn[T any](read func() (T, error)) (T, error) {
	for try := 0; ; try++ {
		v, err := read()
		if err == nil || try == 5 || !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return v, err
		}
	}
}

// each makes changes one by one, and returns the errors of those that failed.
func each(changes []enforce.Change, change func(enforce.Change) error) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := change(c); err != nil {
			failed[c.Key] = err
		}
	}
	return failed
}

// isAs reports whether a chain is as it was made; nil is none.
func isAs(x *nftables.Chain, want *chain) bool {
	return x != nil && x.Type == want.Type && same(x.Hooknum, want.Hooknum) && same(x.Priority, want.Priority) &&
		(want.Policy == nil || same(x.Policy, want.Policy))
}

// chainsOf are the chains of one table, by name.
func chainsOf(c *nftables.Conn, table string) (map[string]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	out := map[string]*nftables.Chain{}
	for _, x := range all {
		if x.Table.Name == table {
			out[x.Name] = x
		}
	}
	return out, nil
}
