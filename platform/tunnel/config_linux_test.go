package tunnel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The servers that VPN programs are configured with, in their own formats; what others can write, and what is no host, is left out.
func TestConfigured(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("etc/wireguard/wg0.conf", "[Peer]\nPublicKey = x=\n Endpoint=vpn.Example.com:51820\n#Endpoint = no.example.com:1\n[Peer]\nEndpoint = [2001:db8::1]:51820\n", 0o600)
	put("etc/openvpn/client/work.conf", "client\nremote 198.51.100.7 1194 udp\nremote ovpn.example.com\nremote 2001:db8::2 1194\nremote-cert-tls server\n", 0o644)
	put("etc/NetworkManager/system-connections/a.nmconnection", "[wireguard-peer.K=]\nendpoint=nm.example.com:443\n[vpn]\nremote=one.example.com:1194:udp, two.example.com\ngateway=ssl.example.com\n[ipv4]\ngateway=192.168.1.1\n", 0o600)
	put("etc/swanctl/conf.d/w.conf", "connections {\n w {\n  remote_addrs = ike.example.com, %any\n  local_addrs = 192.0.2.9\n", 0o600)
	put("etc/ipsec.conf", "conn w\n  left=%defaultroute\n  right=old.example.com\n", 0o644)
	put("etc/wireguard/theirs.conf", "Endpoint = evil.example.com:1\n", 0o666)
	put("etc/wireguard/junk.conf", "Endpoint = \nEndpoint = 1.2.3\nEndpoint = a b.c\nEndpoint = 0.0.0.0:1\nEndpoint = $X.y\n"+strings.Repeat("x", 1000), 0o600)
	if err := os.Symlink("/dev/zero", filepath.Join(root, "etc/wireguard/zero.conf")); err != nil {
		t.Fatal(err)
	}
	got := configured(root)
	want := []string{"198.51.100.7:1194", "[2001:db8::1]:51820", "[2001:db8::2]:1194", "ike.example.com", "nm.example.com:443",
		"old.example.com", "one.example.com:1194", "ovpn.example.com", "ssl.example.com", "two.example.com", "vpn.example.com:51820"}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nnot\n%q", got, want)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("remote a.b 1 udp")
	f.Add("Endpoint = [::1]:1")
	f.Fuzz(func(t *testing.T, line string) {
		for _, x := range configs {
			var c servers
			x.read(line, &c)
			for _, s := range c.list {
				if s == "" || strings.ContainsAny(s, " \t\n%$/\\") {
					t.Errorf("%q: %q", line, s)
				}
			}
		}
	})
}
