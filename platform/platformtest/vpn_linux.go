package platformtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The inner addresses of a VPN: the machine's, and those of the server outside.
const (
	Inner4, Inner6   = "10.99.0.2", "fd99::2"
	Server4, Server6 = "10.99.0.1", "fd99::1"
)

// WireGuard is a VPN with a real peer outside: by the kernel where it has WireGuard, otherwise by wireguard-go.
type WireGuard struct {
	t       testing.TB
	o       *Outside
	Name    string // the interface on this machine
	Peer    string // the public key of the peer outside
	kernel  bool
	private string
}

// NewWireGuard starts the peer outside, at port 51820 of the router's addresses. The tunnel is down.
func NewWireGuard(t testing.TB, o *Outside, name string) *WireGuard {
	t.Helper()
	w := &WireGuard{t: t, o: o, Name: name}
	w.kernel = exec.Command("ip", "link", "add", "wgprobe", "type", "wireguard").Run() == nil
	if w.kernel {
		run(t, "ip", "link", "del", "wgprobe")
	} else {
		if err := os.MkdirAll("/var/run/wireguard", 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "mount", "-t", "tmpfs", "-o", "mode=755", "none", "/var/run/wireguard")
	}
	theirs, mine := genkey(t), genkey(t)
	w.Peer, w.private = pubkey(t, theirs), mine
	w.create(w.outside, "wgo")
	dir := t.TempDir()
	for _, line := range []string{"wg set wgo listen-port 51820 private-key " + keep(t, dir, theirs) + " peer " + pubkey(t, mine) +
		" allowed-ips " + Inner4 + "/32," + Inner6 + "/128", "ip addr add " + Server4 + "/24 dev wgo", "ip -6 addr add " + Server6 + "/64 dev wgo nodad",
		"ip link set wgo up"} {
		w.outside(strings.Fields(line)...)
	}
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", name).Run()
		_, _ = o.Run("ip", "link", "del", "wgo")
	})
	return w
}

func (w *WireGuard) outside(args ...string) {
	w.t.Helper()
	if out, err := w.o.Run(args[0], args[1:]...); err != nil {
		w.t.Fatalf("outside: %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (w *WireGuard) inside(args ...string) {
	w.t.Helper()
	run(w.t, args[0], args[1:]...)
}

// create makes an interface where do runs.
func (w *WireGuard) create(do func(...string), name string) {
	w.t.Helper()
	if w.kernel {
		do("ip", "link", "add", name, "type", "wireguard")
		return
	}
	// It goes on in the background, and must not keep a pipe to us.
	do("bash", "-c", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1 wireguard-go "+name+" >/dev/null 2>&1 </dev/null")
}

// Up brings the tunnel up as wg-quick(8) does: with a mark, a table of its own, and rules, for both families. endpoint is
// the peer's address and port.
func (w *WireGuard) Up(endpoint string) {
	w.t.Helper()
	w.Bare(endpoint)
	for _, f := range []string{"-4", "-6"} {
		for _, line := range []string{"route add default dev " + w.Name + " table 51820", "rule add not fwmark 51820 table 51820",
			"rule add table main suppress_prefixlength 0"} {
			run(w.t, "ip", append([]string{f}, strings.Fields(line)...)...)
		}
	}
}

// Bare makes the interface with its addresses and peer, without routes.
func (w *WireGuard) Bare(endpoint string) {
	w.t.Helper()
	w.create(w.inside, w.Name)
	for _, line := range []string{"wg set " + w.Name + " fwmark 51820 private-key " + keep(w.t, w.t.TempDir(), w.private) + " peer " + w.Peer +
		" endpoint " + endpoint + " allowed-ips 0.0.0.0/0,::/0", "ip addr add " + Inner4 + "/32 dev " + w.Name,
		"ip -6 addr add " + Inner6 + "/128 dev " + w.Name + " nodad", "ip link set mtu 1420 up dev " + w.Name} {
		w.inside(strings.Fields(line)...)
	}
}

// Down takes the tunnel down, as wg-quick does.
func (w *WireGuard) Down() {
	w.t.Helper()
	for _, f := range []string{"-4", "-6"} {
		_ = exec.Command("ip", f, "rule", "del", "table", "51820").Run()
		_ = exec.Command("ip", f, "rule", "del", "table", "main", "suppress_prefixlength", "0").Run()
	}
	w.inside("ip", "link", "del", w.Name)
}

// Deafen lets the peer outside hear nothing, or hear again.
func (w *WireGuard) Deafen(deaf bool) {
	w.t.Helper()
	if !deaf {
		w.outside("nft", "delete", "table", "inet", "deaf")
		return
	}
	w.outside("nft", "add table inet deaf { chain in { type filter hook input priority 0; udp dport 51820 drop; }; }")
}

// Shake sends something through the tunnel until there was a handshake.
func (w *WireGuard) Shake() {
	w.t.Helper()
	for range 300 {
		_ = exec.Command("bash", "-c", "echo x >/dev/udp/"+Server4+"/9").Run()
		out, err := exec.Command("wg", "show", w.Name, "latest-handshakes").Output()
		if f := strings.Fields(string(out)); err == nil && len(f) == 2 && f[1] != "0" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatal("there is no handshake")
}

// Handshake is when the last handshake was, in seconds since 1970.
func (w *WireGuard) Handshake() string {
	w.t.Helper()
	out, err := exec.Command("wg", "show", w.Name, "latest-handshakes").Output()
	f := strings.Fields(string(out))
	if err != nil || len(f) != 2 {
		w.t.Fatalf("%v: %q", err, out)
	}
	return f[1]
}

// Rekey gives this machine another key, as VPN services do every now and then. The tunnel goes on after a handshake.
func (w *WireGuard) Rekey() {
	w.t.Helper()
	old := pubkey(w.t, w.private)
	w.private = genkey(w.t)
	time.Sleep(time.Second) // handshakes are told apart by their second
	w.outside("wg", "set", "wgo", "peer", old, "remove")
	w.outside(strings.Fields("wg set wgo peer " + pubkey(w.t, w.private) + " allowed-ips " + Inner4 + "/32," + Inner6 + "/128")...)
	w.inside("wg", "set", w.Name, "private-key", keep(w.t, w.t.TempDir(), w.private))
}

func genkey(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("wg", "genkey").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func pubkey(t testing.TB, private string) string {
	t.Helper()
	c := exec.Command("wg", "pubkey")
	c.Stdin = strings.NewReader(private)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// keep writes a key into a file.
func keep(t testing.TB, dir, key string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "key")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, key); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// OpenVPN is a VPN of OpenVPN with a static key, its server outside.
type OpenVPN struct {
	t    testing.TB
	key  string
	dir  string
	stop func()
}

// NewOpenVPN starts the server outside, at port 1194 of the router's address. The tunnel is down.
func NewOpenVPN(t testing.TB, o *Outside) *OpenVPN {
	t.Helper()
	dir := t.TempDir()
	v := &OpenVPN{t: t, dir: dir, key: filepath.Join(dir, "static.key")}
	run(t, "openvpn", "--genkey", "secret", v.key)
	pid := filepath.Join(dir, "server.pid")
	if out, err := o.Run("openvpn", append(v.args("tuno", Server4, Inner4), "--daemon", "--writepid", pid, "--lport", "1194")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { v.Down(); end(pid) })
	for range 100 {
		if out, err := o.Run("ip", "addr", "show", "dev", "tuno"); err == nil && strings.Contains(out, Server4) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return v
}

func (v *OpenVPN) args(dev, own, far string) []string {
	return []string{"--dev", dev, "--dev-type", "tun", "--secret", v.key, "--cipher", "AES-256-CBC", "--ifconfig", own, far, "--proto", "udp", "--verb", "1", "--log", filepath.Join(v.dir, dev+".log")}
}

// Up brings the tunnel up, with all of IPv4 through it.
func (v *OpenVPN) Up() {
	v.t.Helper()
	pid := filepath.Join(v.dir, "client.pid")
	run(v.t, "openvpn", append(v.args("tunc", Inner4, Server4), "--daemon", "--writepid", pid, "--remote", Router4, "1194", "--nobind",
		"--redirect-gateway", "def1")...)
	v.stop = func() { end(pid) }
	for range 300 {
		if exec.Command("bash", "-c", "ip route get 203.0.113.10 | grep -q tunc").Run() == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(v.dir, "tunc.log"))
	v.t.Fatalf("OpenVPN does not come up:\n%s", log)
}

// Down takes it down.
func (v *OpenVPN) Down() {
	if v.stop != nil {
		v.stop()
		v.stop = nil
	}
}

// end ends the process whose number is in a file, and waits for it.
func end(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	pid := strings.TrimSpace(string(b))
	_ = exec.Command("kill", pid).Run()
	for range 100 {
		if exec.Command("kill", "-0", pid).Run() != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = exec.Command("kill", "-9", pid).Run()
}
