package tunnel

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The places in which VPN programs are configured, and how a server is written there: wg-quick(8), openvpn(8),
// nm-settings-keyfile(5), swanctl.conf(5), ipsec.conf(5).
var configs = []struct {
	pattern string
	read    func(line string, c *servers)
}{
	{"/etc/wireguard/*.conf", func(l string, c *servers) { c.setting(l, "endpoint") }},
	{"/etc/openvpn/*.conf", openvpn}, {"/etc/openvpn/client/*.conf", openvpn},
	{"/etc/NetworkManager/system-connections/*", networkManager},
	{"/etc/swanctl/*.conf", func(l string, c *servers) { c.setting(l, "remote_addrs") }},
	{"/etc/swanctl/conf.d/*.conf", func(l string, c *servers) { c.setting(l, "remote_addrs") }},
	{"/etc/ipsec.conf", func(l string, c *servers) { c.setting(l, "right") }},
}

const (
	maxConfigs = 256     // files of one place
	maxConfig  = 1 << 18 // bytes of one file
	maxServers = 64
)

// servers collects what is found.
type servers struct {
	list    []string
	section string // of the file that is being read
}

// networkManager reads a keyfile: elsewhere a gateway is a router.
func networkManager(line string, c *servers) {
	if strings.HasPrefix(line, "[") {
		c.section = line
	}
	if c.section == "[vpn]" {
		c.setting(line, "remote", "gateway")
	}
	c.setting(line, "endpoint")
}

// add takes one host, with a port or without. What is no host is left out: a pattern, a local end, a variable.
func (c *servers) add(s string) {
	s, _, _ = strings.Cut(s, "#") // a comment
	s = strings.Trim(s, `"' `)
	host := s
	switch {
	case strings.HasPrefix(s, "["):
		host, _, _ = strings.Cut(s[1:], "]")
	case strings.Count(s, ":") == 1:
		host, _, _ = strings.Cut(s, ":")
	}
	host = strings.ToLower(host)
	if a, err := netip.ParseAddr(host); err == nil {
		if a.IsUnspecified() || a.IsLoopback() {
			return
		}
	} else if !strings.Contains(host, ".") || len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" ||
		strings.Trim(host, "0123456789.") == "" {
		return
	}
	if s = strings.ToLower(s); !slices.Contains(c.list, s) && len(c.list) < maxServers {
		c.list = append(c.list, s)
	}
}

// setting reads "name = value", with several values separated by commas.
func (c *servers) setting(line string, names ...string) {
	name, value, ok := strings.Cut(line, "=")
	if !ok || !slices.Contains(names, strings.ToLower(strings.TrimSpace(name))) {
		return
	}
	for _, v := range strings.Split(value, ",") {
		v = strings.TrimSpace(v)
		if p := strings.Split(v, ":"); len(p) == 3 && p[0] != "" && !strings.Contains(v, "[") && strings.Trim(p[1], "0123456789") == "" && p[1] != "" { // NetworkManager's host:port:protocol
			v = p[0] + ":" + p[1]
		}
		c.add(v)
	}
}

// openvpn reads "remote host [port [protocol]]". Without a port every one is meant: the file may say it elsewhere.
func openvpn(line string, c *servers) {
	w := strings.Fields(line)
	switch {
	case len(w) < 2 || w[0] != "remote":
	case len(w) > 2 && strings.Trim(w[2], "0123456789") == "" && strings.Contains(w[1], ":"):
		c.add("[" + w[1] + "]:" + w[2])
	case len(w) > 2 && strings.Trim(w[2], "0123456789") == "":
		c.add(w[1] + ":" + w[2])
	default:
		c.add(w[1])
	}
}

// configured are the servers that VPN programs' configuration names, below a root directory. Files that not only root can
// write are left out, and so is whatever is no file: nothing here waits.
func configured(root string) []string {
	var c servers
	for _, x := range configs {
		list, err := filepath.Glob(root + x.pattern)
		if err != nil {
			continue
		}
		for _, path := range list[:min(len(list), maxConfigs)] {
			c.section = ""
			for line := range strings.Lines(rootsOwn(path)) {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
					x.read(line, &c)
				}
			}
		}
	}
	slices.Sort(c.list)
	return c.list
}

// rootsOwn is the text of a file that root alone can write; "" if it is another one.
func rootsOwn(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil || !i.Mode().IsRegular() || i.Size() > maxConfig || i.Mode().Perm()&0o022 != 0 {
		return ""
	}
	if s, ok := i.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return ""
	}
	return string(b)
}
