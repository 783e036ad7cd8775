package platformtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Cannot skips a test that this machine cannot run, and says why. With CI=true that is a failure.
func Cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// InNetwork runs the rest of a test in a network namespace of its own, with real packets and a real firewall, and with mounts
// of its own: this program starts itself again there, and true is returned in that process alone.
func InNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv("WARDER_TEST_NETWORK") != "" {
		run(t, "mount", "--make-rprivate", "/")
		run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	if os.Getuid() != 0 {
		Cannot(t, "only root can make a network of its own")
	}
	for _, tool := range []string{"nft", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			Cannot(t, tool+" is not installed")
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count=1") //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), "WARDER_TEST_NETWORK=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// The addresses of the network outside: the router that is the machine's gateway has all of them.
const (
	Machine4, Machine6 = "10.77.0.2", "fd77::2"
	Router4, Router6   = "10.77.0.1", "fd77::1"
	DNS4, DNS6         = "198.51.100.53", "2001:db8:53::53"
	Web4, Web6         = "203.0.113.10", "2001:db8:10::10"
	Other4, Other6     = "203.0.113.20", "2001:db8:20::20"
)

// Outside is another network namespace, joined to the test's by a pair of veth interfaces: a router, a name server and web
// servers.
type Outside struct {
	t    testing.TB
	work chan func()
	// Close removes it before the test ends.
	Close func()

	mu    sync.Mutex
	zone  map[string][]dns.RR
	asked []string              // "name TYPE server"
	lie   func(q []byte) []byte // makes the name servers' answers instead
	seen  map[string]int        // connections, by address
}

// NewOutside makes the network outside. It ends with the test.
func NewOutside(t testing.TB) *Outside {
	o := &Outside{t: t, work: make(chan func()), zone: map[string][]dns.RR{}, seen: map[string]int{}}
	made := make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- 0
			return
		}
		made <- unix.Gettid()
		for f := range o.work {
			f()
		}
	}()
	tid := <-made
	if tid == 0 {
		t.Fatal("no second network namespace can be made")
	}
	o.Close = sync.OnceFunc(func() {
		_ = exec.Command("ip", "link", "del", "eth0").Run()
		for exec.Command("umount", "/etc/resolv.conf").Run() == nil {
		}
		close(o.work)
	})
	t.Cleanup(o.Close)
	ns := fmt.Sprint(tid)
	run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "out0", "netns", ns)
	for _, line := range []string{"addr add " + Machine4 + "/24 dev eth0", "-6 addr add " + Machine6 + "/64 dev eth0 nodad", "link set eth0 up"} {
		run(t, "ip", strings.Fields(line)...)
	}
	o.in(func() {
		for _, line := range []string{"link set lo up", "addr add " + Router4 + "/24 dev out0", "-6 addr add " + Router6 + "/64 dev out0 nodad",
			"link set out0 up", "addr add " + DNS4 + "/32 dev lo", "addr add " + Web4 + "/32 dev lo", "addr add " + Other4 + "/32 dev lo",
			"-6 addr add " + DNS6 + "/128 dev lo nodad", "-6 addr add " + Web6 + "/128 dev lo nodad", "-6 addr add " + Other6 + "/128 dev lo nodad"} {
			run(t, "ip", strings.Fields(line)...)
		}
	})
	o.Use(DNS4, DNS6)
	run(t, "ip", "route", "add", "default", "via", Router4)
	run(t, "ip", "-6", "route", "add", "default", "via", Router6)
	return o
}

// Use sets the name servers of the machine, and its search domain.
func (o *Outside) Use(servers ...string) {
	o.t.Helper()
	text := "search corp.example\n"
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	f := filepath.Join(o.t.TempDir(), "resolv.conf")
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil { //nolint:gosec // everybody reads it
		o.t.Fatal(err)
	}
	_ = exec.Command("umount", "/etc/resolv.conf").Run() // of an earlier call
	run(o.t, "mount", "--bind", f, "/etc/resolv.conf")
}

// in runs f on the thread that is in the other namespace.
func (o *Outside) in(f func()) {
	done := make(chan struct{})
	o.work <- func() { defer close(done); f() }
	<-done
}

// Listen listens outside, for TCP.
func (o *Outside) Listen(addr string) (l net.Listener, err error) {
	o.in(func() { l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr) })
	return l, err
}

// ListenPacket listens outside, for UDP.
func (o *Outside) ListenPacket(addr string) (c net.PacketConn, err error) {
	o.in(func() { c, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", addr) })
	return c, err
}

// Run runs a command outside.
func (o *Outside) Run(name string, args ...string) (out string, err error) {
	o.in(func() { b, e := exec.Command(name, args...).CombinedOutput(); out, err = string(b), e })
	return out, err
}

// Web accepts connections at addresses with ports, and echoes what comes.
func (o *Outside) Web(addrs ...string) {
	o.t.Helper()
	for _, a := range addrs {
		l, err := o.Listen(a)
		if err != nil {
			o.t.Fatal(err)
		}
		o.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					continue
				}
				o.mu.Lock()
				o.seen[a]++
				o.mu.Unlock()
				go func() {
					defer c.Close()
					b := make([]byte, 4096)
					for {
						n, err := c.Read(b)
						if err != nil {
							return
						}
						if _, err := c.Write(b[:n]); err != nil {
							return
						}
					}
				}()
			}
		}()
	}
}

// Seen is how many connections an address got.
func (o *Outside) Seen(addr string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen[addr]
}

// Zone adds records to what the name servers know, in the form of a zone file.
func (o *Outside) Zone(records ...string) {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			o.t.Fatal(err)
		}
		n := strings.ToLower(rr.Header().Name)
		o.zone[n] = append(o.zone[n], rr)
	}
}

// Rezone replaces the records of the names that are given.
func (o *Outside) Rezone(records ...string) {
	o.t.Helper()
	o.mu.Lock()
	for _, s := range records {
		if rr, err := dns.NewRR(s); err == nil {
			delete(o.zone, strings.ToLower(rr.Header().Name))
		}
	}
	o.mu.Unlock()
	o.Zone(records...)
}

// Names starts name servers at addresses, over UDP and TCP.
func (o *Outside) Names(addrs ...string) {
	o.t.Helper()
	for _, a := range addrs {
		at := net.JoinHostPort(a, "53")
		p, err := o.ListenPacket(at)
		if err != nil {
			o.t.Fatal(err)
		}
		l, err := o.Listen(at)
		if err != nil {
			o.t.Fatal(err)
		}
		h := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { o.answer(w, m, a) })
		for _, s := range []*dns.Server{{PacketConn: p, Handler: h}, {Listener: l, Handler: h}} {
			s.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
			go func() { _ = s.ActivateAndServe() }()
			o.t.Cleanup(func() { _ = s.Shutdown() })
		}
	}
}

// answer answers from the zone, following CNAMEs.
func (o *Outside) answer(w dns.ResponseWriter, m *dns.Msg, at string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lie != nil {
		q, err := m.Pack()
		if err == nil {
			if a := o.lie(q); a != nil {
				_, _ = w.Write(a)
			}
		}
		return
	}
	r := new(dns.Msg)
	r.SetReply(m)
	r.RecursionAvailable = true
	if opt := m.IsEdns0(); opt != nil {
		r.SetEdns0(1232, opt.Do())
	}
	name := strings.ToLower(m.Question[0].Name)
	o.asked = append(o.asked, fmt.Sprintf("%s %s %s", strings.TrimSuffix(name, "."), dns.TypeToString[m.Question[0].Qtype], at))
	known := false
	for range 10 {
		list, ok := o.zone[name]
		known = known || ok
		next := ""
		for _, rr := range list {
			if rr.Header().Rrtype == m.Question[0].Qtype {
				r.Answer = append(r.Answer, rr)
			} else if c, is := rr.(*dns.CNAME); is {
				r.Answer, next = append(r.Answer, rr), strings.ToLower(c.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if !known {
		r.Rcode = dns.RcodeNameError
		soa, _ := dns.NewRR(". 60 IN SOA ns. host. 1 60 60 60 60")
		r.Ns = append(r.Ns, soa)
	}
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if udp {
		size := 512
		if opt := m.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		r.Truncate(size)
	}
	_ = w.WriteMsg(r)
}

// Lie lets f make the name servers' answers; nil: they are honest.
func (o *Outside) Lie(f func(q []byte) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lie = f
}

// Asked lists what the name servers were asked, and forgets it: "name TYPE server".
func (o *Outside) Asked() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.asked
	o.asked = nil
	return out
}
