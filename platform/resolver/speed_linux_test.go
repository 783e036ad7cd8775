//go:build bench

package resolver

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// TestSpeed prints figures of a machine with a million blocked names, beside unbound and dnsmasq with the same names, in one
// run ("make bench"). It sets no limits.
func TestSpeed(t *testing.T) {
	if file := os.Getenv("WARDER_TEST_RESOLVER"); file != "" {
		answerAlone(t, file)
		return
	}
	for _, tool := range []string{"dnsperf", "unbound", "dnsmasq", "iperf3"} {
		if _, err := exec.LookPath(tool); err != nil {
			platformtest.Cannot(t, tool+" is not installed")
		}
	}
	if !platformtest.InNetwork(t) {
		return
	}
	const million = 1_000_000
	dir := t.TempDir()
	names := make([]string, million)
	for i := range names {
		names[i] = fmt.Sprintf("ads%d.tracker-%d.example.net", i%7, i)
	}
	slices.Sort(names)
	rnd := rand.New(rand.NewPCG(1, 2))
	var questions strings.Builder
	for range 200_000 {
		fmt.Fprintf(&questions, "www.%s A\n", names[rnd.IntN(million)])
	}
	write := func(name string, line func(string) string, head string) string {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := bufio.NewWriter(f)
		_, _ = w.WriteString(head)
		for _, n := range names {
			_, _ = w.WriteString(line(n))
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	asked := filepath.Join(dir, "questions")
	if err := os.WriteFile(asked, []byte(questions.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &laptop{Outside: platformtest.NewOutside(t), t: t}
	l.Zone("docs.example.com. 3600 IN A " + platformtest.Web4)
	for i := range 4000 {
		l.Zone(fmt.Sprintf("n%d.example.com. 300 IN A 203.0.%d.%d", i, 114+i/200, i%200))
	}
	l.Names(platformtest.DNS4)
	l.Use(platformtest.DNS4)

	programs := []struct {
		name, port string
		args       []string
	}{
		{"warder", "353", nil},
		{"unbound", "5301", []string{"unbound", "-d", "-p", "-c", write("unbound.conf",
			func(n string) string { return "local-zone: \"" + n + "\" always_nxdomain\n" },
			"server:\ndo-daemonize: no\nusername: \"\"\nchroot: \"\"\npidfile: \"\"\nuse-syslog: no\nlogfile: \""+filepath.Join(dir, "unbound.log")+
				"\"\ninterface: 127.0.0.1@5301\nnum-threads: 2\nso-reuseport: yes\naccess-control: 127.0.0.0/8 allow\n")}},
		{"dnsmasq", "5302", []string{"dnsmasq", "-k", "-C", write("dnsmasq.conf", func(n string) string { return "address=/" + n + "/\n" },
			"port=5302\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file=\n")}},
	}
	list := write("list", func(n string) string { return n + "\n" }, "")
	blocked := "www." + names[5]
	var pids []int
	var ends []func()
	for _, p := range programs {
		began := time.Now()
		pid, end := l.serve(p.args, list, "", net.JoinHostPort("127.0.0.1", p.port), blocked)
		t.Logf("%-8s ready after %v", p.name, time.Since(began).Round(10*time.Millisecond))
		pids, ends = append(pids, pid), append(ends, end)
	}
	served := map[string][]float64{}
	ratios := map[string][]float64{}
	for range 5 {
		for _, p := range programs {
			n := dnsperf(t, p.port, asked)
			served[p.name] = append(served[p.name], n)
			ratios[p.name] = append(ratios[p.name], served["warder"][len(served["warder"])-1]/n)
		}
	}
	for i, p := range programs {
		slices.Sort(ratios[p.name])
		t.Logf("%-8s %.0f questions/s at best, resident %s; warder/%s %.2f (%.2f to %.2f)", p.name, slices.Max(served[p.name]), resident(pids[i]),
			p.name, ratios[p.name][2], ratios[p.name][0], ratios[p.name][4])
	}
	ends[1]()
	ends[2]()
	l.latencies()
	l.feeds(list, blocked, ends[0])
}

// serve starts one of the programs, with no arguments ours, and waits until it refuses a name.
func (l *laptop) serve(args []string, list, policy, at, blocked string) (pid int, end func()) {
	t := l.t
	t.Helper()
	if args == nil {
		args = []string{os.Args[0], "-test.run", "^TestSpeed$", "-test.v"}
	}
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // the programs of this test
	cmd.Env = append(os.Environ(), "WARDER_TEST_RESOLVER="+list, "WARDER_TEST_POLICY="+policy)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "the kernel") {
				t.Log(strings.TrimSpace(line))
			}
		}
	})
	t.Cleanup(end)
	m := new(dns.Msg)
	m.SetQuestion(blocked+".", dns.TypeA)
	c := dns.Client{Timeout: 200 * time.Millisecond}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		got, _, err := c.Exchange(m, at)
		if err == nil && got.Rcode == dns.RcodeNameError {
			return cmd.Process.Pid, end
		}
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("%s does not answer: %v %s", args[0], err, out.String())
		}
	}
}

// feeds prints what it costs to let an address be reached: the answer to a question that nobody has asked before, with and
// without it. And what the rules cost a connection.
func (l *laptop) feeds(list, blocked string, end func()) {
	ask := func(from int) (out []time.Duration) {
		for i := range 1500 {
			out = append(out, l.once(platformtest.DNS4+":53", fmt.Sprintf("n%d.example.com", from+i)))
		}
		return out
	}
	plain := ask(0)
	end()
	_, end = l.serve(nil, list, `,"allowed_domains":["example.com"],"allowed_lists":[]`, "127.0.0.1:353", blocked)
	l.quantiles("a new answer, nothing to admit", plain, nil)
	l.quantiles("a new answer, admitted", ask(1500), plain)
	l.once(platformtest.DNS4+":53", "docs.example.com")
	rules := ruleset(l.t)
	end()
	// Beside no firewall at all, and beside the least that any firewall with a memory of connections does.
	const least = "table inet least { chain out { type filter hook output priority 0; ct state established,related accept; }; }"
	var bare, beside []float64
	for range 20 {
		rate := map[string]float64{}
		for _, text := range []string{"", rules, least} {
			l.nft("flush ruleset")
			load := exec.Command("nft", "-f", "-")
			load.Stdin = strings.NewReader(text)
			if err := load.Run(); err != nil {
				l.t.Fatal(err)
			}
			rate[text] = l.throughput()
		}
		bare, beside = append(bare, rate[rules]/rate[""]), append(beside, rate[rules]/rate[least])
	}
	l.nft("flush ruleset")
	slices.Sort(bare)
	slices.Sort(beside)
	l.t.Logf("throughput of an allowed connection, medians of 20 turns with their intervals (95%%): %.3f (%.3f to %.3f) of that without a firewall, "+
		"%.3f (%.3f to %.3f) of that with one rule that accepts established connections", (bare[9]+bare[10])/2, bare[5], bare[14],
		(beside[9]+beside[10])/2, beside[5], beside[14])
}

// throughput is what iperf3 says of a connection to a web server, in Gbit/s.
func (l *laptop) throughput() (rate float64) {
	l.t.Helper()
	{
		if out, err := l.Run("iperf3", "-s", "-1", "-D", "-B", platformtest.Web4); err != nil {
			l.t.Fatal(out, err)
		}
		var got struct {
			End struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		var out []byte
		var err error
		for range 20 {
			if out, err = exec.Command("iperf3", "-c", platformtest.Web4, "-t", "2", "-J").Output(); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil || json.Unmarshal(out, &got) != nil {
			l.t.Fatalf("iperf3: %v\n%s", err, out)
		}
		rate = got.End.Received.Rate / 1e9
	}
	return rate
}

// answerAlone is a process that only judges names, with a list. Its want is in force until its input ends.
func answerAlone(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	sum := h.Sum(nil)
	l := &laptop{t: t, lists: map[string]string{hex.EncodeToString(sum): file}}
	l.start()
	more := os.Getenv("WARDER_TEST_POLICY")
	l.load(fmt.Sprintf(`{"blocked_lists":[{"id":"ads","sha256":"%x"}]%s}`, sum, more))
	if more != "" {
		var took []time.Duration
		for i := range 3000 {
			a := netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)})
			began := time.Now()
			if err := l.guard.(*Resolver).Admit([]platform.Admission{{Name: "docs.example.com", Address: a, For: time.Hour}}); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(began))
			time.Sleep(200 * time.Microsecond)
		}
		slices.Sort(took)
		fmt.Printf("the kernel takes one address: p50 %v, p99 %v\n", took[len(took)/2], took[len(took)*99/100])
	}
	// An echo that nobody judges, in the same process: what a question costs at least.
	echo, err := net.ListenPacket("udp", "127.0.0.1:5309")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

var perSecond = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)

func dnsperf(t *testing.T, port, file string) float64 {
	t.Helper()
	out, err := exec.Command("dnsperf", "-s", "127.0.0.1", "-p", port, "-d", file, "-e", "-l", "4", "-c", "8", "-q", "200").CombinedOutput()
	m := perSecond.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("dnsperf: %v\n%s", err, out)
	}
	f, _ := strconv.ParseFloat(string(m[1]), 64)
	return f
}

// resident is a process's memory in use.
func resident(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && (f[0] == "VmRSS:" || f[0] == "RssAnon:") {
			n, _ := strconv.Atoi(f[1])
			out = append(out, fmt.Sprintf("%s %d MB", strings.Trim(f[0], "VmRs:"), n/1024))
		}
	}
	return strings.Join(out, ", ")
}

// latencies prints how long single questions take: one that is answered from memory, and an echo that nobody judges.
func (l *laptop) latencies() {
	l.once(platformtest.DNS4+":53", "docs.example.com")
	const n = 5000
	var ours, theirs, direct []time.Duration
	for range n {
		theirs = append(theirs, l.once("127.0.0.1:5309", "docs.example.com"))
		ours = append(ours, l.once(platformtest.DNS4+":53", "docs.example.com"))
		direct = append(direct, l.once("127.0.0.1:353", "docs.example.com"))
	}
	l.quantiles("an answer from memory, not redirected", direct, theirs)
	l.quantiles("an echo on loopback", theirs, nil)
	l.quantiles("an answer from memory", ours, theirs)
}

func (l *laptop) once(server, name string) time.Duration {
	l.t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name+".", dns.TypeA)
	m.SetEdns0(1232, false)
	q, err := m.Pack()
	if err != nil {
		l.t.Fatal(err)
	}
	c, err := (&net.Dialer{}).DialContext(context.Background(), "udp", server)
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	var b [1500]byte
	began := time.Now()
	if _, err := c.Write(q); err != nil {
		l.t.Fatal(err)
	}
	if _, err := c.Read(b[:]); err != nil {
		l.t.Fatalf("%s %s: %v", server, name, err)
	}
	return time.Since(began)
}

func (l *laptop) quantiles(what string, list, less []time.Duration) {
	slices.Sort(list)
	at := func(q float64) time.Duration { return list[int(q*float64(len(list)-1))].Round(time.Microsecond) }
	text := fmt.Sprintf("%-38s p50 %v, p99 %v", what, at(0.5), at(0.99))
	if less != nil {
		slices.Sort(less)
		text += fmt.Sprintf(" (p50 %v more)", (list[len(list)/2] - less[len(less)/2]).Round(time.Microsecond))
	}
	l.t.Log(text)
}
