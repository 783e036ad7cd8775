package firewall

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/warderd/warder/platform/link"
)

var bigEndian = binary.BigEndian

// The proof's destinations are addresses that nobody has (RFC 5737, RFC 3849), so that a packet which gets out reaches
// nobody: what must be refused, and what must be redirected, in each family.
var proofsOf = [][2]string{{"192.0.2.1:853", "192.0.2.53:53"}, {"[2001:db8::1]:853", "[2001:db8::53]:53"}}

// proveWithin is how long each proof may take; in force it takes well under a millisecond.
const proveWithin = 2 * time.Second

// prove tries what must not succeed, from a socket without our mark: a connection that must be refused, and a question to
// another server, which our own resolver must answer, by the lists that the table was made for. It says what went wrong, or
// "". A family without a route proves nothing and leaks nothing.
func prove(ctx context.Context, lists string) string {
	for _, p := range proofsOf {
		if why := proveOne(ctx, p[0], p[1], lists); why != "" {
			return why
		}
	}
	return ""
}

func proveOne(ctx context.Context, port, name, lists string) string {
	ctx, cancel := context.WithTimeout(ctx, proveWithin)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", port)
	if err == nil {
		_ = c.Close()
		return "a connection that must be refused was made (" + port + ")"
	}
	for _, none := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT} {
		if errors.Is(err, none) {
			return ""
		}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Sprintf("a connection that must be refused was not (%s: %v)", port, err)
	}
	if err := ask(ctx, name, lists); err != nil {
		return "a question to another name server was not answered by this machine's resolver (" + err.Error() + ")"
	}
	return ""
}

// ask sends a question for a name that only our resolver answers to a server that is not there.
func ask(ctx context.Context, server, lists string) error {
	name := strings.ToLower(rand.Text()[:16]) + link.ProofDomain
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 0x5744}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}}}
	b, err := q.Pack()
	if err != nil {
		return err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	// One question may be lost while a burst fills the resolver's queue.
	for try := 0; ; try++ {
		if _, err := c.Write(b); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(proveWithin / 4))
		got := make([]byte, 1500)
		n, err := c.Read(got)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() && try < 3 {
			continue
		}
		if err != nil {
			return err
		}
		var a dnsmessage.Message
		if err := a.Unpack(got[:n]); err != nil || a.ID != q.ID || len(a.Answers) != 1 {
			return errors.New("another server has answered")
		}
		txt, ok := a.Answers[0].Body.(*dnsmessage.TXTResource)
		if !ok || len(txt.TXT) != 1 || txt.TXT[0] != link.ProofText(name, lists) {
			return errors.New("another server has answered")
		}
		return nil
	}
}

// outward is an interface by which packets of a family would leave that is no tunnel; "" if there is none.
func outward(six bool, tunnels []int) string {
	list, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 || slices.Contains(tunnels, i.Index) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && (n.IP.To4() == nil) == six && n.IP.IsGlobalUnicast() {
				return i.Name
			}
		}
	}
	return ""
}

// bound dials from an interface.
func bound(name string) *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) { failed = syscall.BindToDevice(int(fd), name) }); err != nil {
			return err
		}
		return failed
	}}
}

// limitedOut reports whether nothing came back.
func limitedOut(err error) bool {
	var late net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &late) && late.Timeout()
}
