//go:build linux

package systemd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/platform/platformtest"
)

func descriptors(classes ...byte) string {
	b := []byte{18, 1, 0, 2, 0, 0, 0, 64, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 9, 2, byte(9 + 9*len(classes)), 0, byte(len(classes)), 1,
		0, 0x80, 50}
	for i, c := range classes {
		b = append(b, 9, 4, byte(i), 0, 0, c, 0, 0, 0)
	}
	return string(b)
}

// TestOpen: the last resort lets in inputs and nothing else, and the hubs before them.
func TestOpen(t *testing.T) {
	root := t.TempDir()
	want := map[string]string{}
	for i, d := range []struct {
		classes    []byte
		authorized string
		want       string
	}{{[]byte{3}, "0", "1"}, {[]byte{3, 3}, "0", "1"}, {[]byte{8}, "0", "0"}, {[]byte{3, 8}, "0", "0"}, {[]byte{9}, "0", "1"},
		{nil, "0", "0"}, {[]byte{3, 9}, "0", "1"}, {[]byte{9, 8}, "0", "0"}, {[]byte{8}, "1", "1"}} {
		dir := filepath.Join(root, "sys/bus/usb/devices", fmt.Sprintf("1-%d", i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"authorized": d.authorized + "\n", "descriptors": descriptors(d.classes...)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want[dir] = d.want
	}
	cmd := exec.Command("sh", "last-resort", "open")
	cmd.Env = append(os.Environ(), "WARDER_SYS="+root+"/sys", "WARDER_RUN="+root+"/run")
	if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "logger") {
		t.Fatalf("%v\n%s", err, out)
	}
	for dir, w := range want {
		b, _ := os.ReadFile(filepath.Join(dir, "authorized"))
		if got := strings.TrimSpace(string(b)); got != w {
			t.Errorf("%s: %s, want %s", filepath.Base(dir), got, w)
		}
	}
	if b, err := os.ReadFile(root + "/run/last-resort"); err != nil || !strings.Contains(string(b), "1-1 1-2 1-5") {
		t.Errorf("it says %q, %v", b, err)
	}
}

// TestCount: five crashes without a healthy minute between them call for the last resort. Starts that exceed their time
// limit do not count.
func TestCount(t *testing.T) {
	for _, c := range []struct {
		name    string
		results []string
		want    string // what is counted in the end, and whether the last resort was called
	}{
		{"crashes", []string{"exit-code", "signal", "core-dump", "exit-code", "exit-code"}, "5 called"},
		{"four crashes", []string{"exit-code", "signal", "signal", "exit-code"}, "4 "},
		{"time-outs", []string{"timeout", "timeout", "timeout", "timeout", "timeout", "timeout"}, " "},
		{"time-outs between crashes", []string{"signal", "timeout", "signal", "timeout", "timeout", "signal"}, "3 "},
		{"a success ends a series", []string{"signal", "signal", "signal", "signal", "success", "signal"}, "1 "},
		{"watchdogs", []string{"watchdog", "watchdog", "watchdog", "watchdog", "watchdog"}, "5 called"},
	} {
		run, bin := t.TempDir(), t.TempDir()
		script := "#!/bin/sh\necho called >>" + run + "/called\n"
		if err := os.WriteFile(bin+"/systemctl", []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.results {
			cmd := exec.Command("sh", "last-resort", "count")
			cmd.Env = append(os.Environ(), "WARDER_RUN="+run, "SERVICE_RESULT="+r, "PATH="+bin+":"+os.Getenv("PATH"))
			_, _ = cmd.CombinedOutput() // its exit code only says whether it was called
		}
		ends, _ := os.ReadFile(run + "/ends")
		n, _, _ := strings.Cut(string(ends), " ")
		called, _ := os.ReadFile(run + "/called")
		if got := n + " " + strings.TrimSpace(string(called)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestEarly: after an early start that was killed the kernel lets in new devices, and inputs that it refused are let
// in. One that ended by itself, or was followed by an agent, is left as it is.
func TestEarly(t *testing.T) {
	for _, c := range []struct {
		name, result string
		over         bool
		want         string // parameter, default, keyboard, stick
	}{
		{"killed", "signal", false, "1 1 1 0"}, {"killed by a time-out", "timeout", false, "1 1 1 0"},
		{"ended", "success", false, "0 0 0 0"}, {"taken over", "signal", true, "0 0 0 0"},
	} {
		root := t.TempDir()
		files := []string{"sys/module/usbcore/parameters/authorized_default", "sys/bus/usb/devices/usb1/authorized_default",
			"sys/bus/usb/devices/1-1/authorized", "sys/bus/usb/devices/1-2/authorized"}
		put := func(name, text string) {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range files {
			put(f, "0\n")
		}
		put("sys/bus/usb/devices/1-1/descriptors", descriptors(3))
		put("sys/bus/usb/devices/1-2/descriptors", descriptors(8))
		if c.over {
			put("run/early-over", "boot")
		}
		cmd := exec.Command("sh", "last-resort", "early")
		cmd.Env = append(os.Environ(), "WARDER_SYS="+root+"/sys", "WARDER_RUN="+root+"/run", "SERVICE_RESULT="+c.result)
		out, _ := cmd.CombinedOutput()
		var got []string
		for _, f := range files {
			b, _ := os.ReadFile(filepath.Join(root, f))
			got = append(got, strings.TrimSpace(string(b)))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s, want %s (%s)", c.name, strings.Join(got, " "), c.want, out)
		}
	}
}

// TestOpenServer: with a list of what is allowed in force and nobody to answer, the policy server's name is looked up, and
// no other, and that server can be reached.
func TestOpenServer(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	const server = "policy-server.a-rather-long-name-of-a-company.example.com"
	o.Zone(server+". 300 IN A "+platformtest.Web4, "xpolicy-server.a-rather-long-name-of-a-company.example.com. 300 IN A "+platformtest.Other4,
		server+".evil.example. 300 IN A "+platformtest.Other4, "other.example.net. 300 IN A "+platformtest.Other4)
	o.Names(platformtest.DNS4)
	o.Use(platformtest.DNS4)
	o.Web(platformtest.Web4+":443", platformtest.Other4+":443")
	// As the agent makes it, as far as it matters here.
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table inet warder {
		set named4 { type ipv4_addr; size 16384; flags timeout; }
		set named6 { type ipv6_addr; size 16384; flags timeout; }
		chain refuse { meta l4proto tcp counter reject with tcp reset; counter reject with icmpx admin-prohibited; }
		chain out { type filter hook output priority filter; policy accept; oifname "lo" accept
			fib daddr type local udp dport 353 accept
			udp dport 53 goto refuse; ct state established,related accept
			ip daddr @named4 accept; ip6 daddr @named6 accept; goto refuse; }
		chain names { type nat hook output priority -100; policy accept; oifname "lo" accept
			meta nfproto ipv4 udp dport 53 counter dnat ip to ip saddr:353; }
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	looked := func(name string) string {
		m := new(dns.Msg)
		m.SetQuestion(name+".", dns.TypeA)
		a, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, platformtest.DNS4+":53")
		if err != nil || len(a.Answer) == 0 {
			return "nothing"
		}
		return strings.TrimPrefix(a.Answer[0].String(), a.Answer[0].Header().String())
	}
	reached := func(addr string) bool {
		c, err := net.DialTimeout("tcp", addr+":443", time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	if looked(server) != "nothing" || reached(platformtest.Web4) {
		t.Fatal("the table closes nothing")
	}
	root := t.TempDir()
	if err := os.MkdirAll(root+"/run", 0o755); err != nil {
		t.Fatal(err)
	}
	status := fmt.Sprintf(`{"agent":"running","server":"https://%s:8443","policy":{"name":"\"server\":\"https://other.example.net\""}}`, server)
	if err := os.WriteFile(root+"/run/status.json", []byte(status), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "last-resort", "open")
	cmd.Env = append(os.Environ(), "WARDER_SYS="+root+"/sys", "WARDER_RUN="+root+"/run")
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "logger") {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{server: platformtest.Web4, "x" + server: "nothing", server + ".evil.example": "nothing",
		"other.example.net": "nothing"} {
		if got := looked(name); got != want {
			t.Errorf("%s: %s, wanted %s\n%s", name, got, want, out)
		}
	}
	if !reached(platformtest.Web4) || reached(platformtest.Other4) {
		t.Errorf("the server: %v, another: %v\n%s", reached(platformtest.Web4), reached(platformtest.Other4), out)
	}
}

// TestOpenSwitch: with the kill switch closed and no agent, any tunnel can be used, and nothing else.
func TestOpenSwitch(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Web(platformtest.Web4+":443", platformtest.Server4+":443")
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table inet warder_switch {
		set closed { type nf_proto; elements = { ipv4, ipv6 }; }
		set doors4 { type ipv4_addr . inet_proto . inet_service; elements = { ` + platformtest.Router4 + ` . udp . 51820 }; }
		chain refuse { meta l4proto tcp counter reject with tcp reset; counter reject with icmpx admin-prohibited; }
		chain out { type filter hook output priority -10; policy accept; oifname "lo" accept
			meta nfproto != @closed accept; ip daddr . meta l4proto . th dport @doors4 accept; goto refuse; }
		chain forward { type filter hook forward priority -10; policy accept; goto refuse; }
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	reached := func(addr string) bool {
		c, err := net.DialTimeout("tcp", addr+":443", 3*time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	w.Up(platformtest.Router4 + ":51820")
	if reached(platformtest.Server4) || reached(platformtest.Web4) {
		t.Fatal("the table closes nothing")
	}
	cmd := exec.Command("sh", "last-resort", "open")
	cmd.Env = append(os.Environ(), "WARDER_SYS="+t.TempDir(), "WARDER_RUN="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "logger") {
		t.Fatalf("%v\n%s", err, out)
	}
	through := false
	for i := 0; i < 20 && !through; i++ { // wireguard-go is a tun device; the kernel's own is of the kind wireguard
		through = reached(platformtest.Server4)
	}
	w.Down()
	if !through || reached(platformtest.Web4) {
		t.Errorf("through the tunnel: %v, past it: %v\n%s", through, reached(platformtest.Web4), out)
	}
}
