package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"crypto/tls"
	"crypto/x509"
)

// node is one running server.
type node struct {
	url  string
	data string
	args []string
	cmd  *exec.Cmd
}

// target is what the load goes to: one node on SQLite, or several on PostgreSQL.
type target struct {
	nodes []*node
	ca    string
	admin string
	http  *http.Client
}

// start runs the server's own binary.
func (n *node) start(binary string) error {
	n.cmd = exec.Command(binary, n.args...)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := n.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := n.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan string, 1)
	go func() {
		s := bufio.NewScanner(pipe)
		for s.Scan() {
			if _, rest, ok := strings.Cut(s.Text(), "msg=serving url="); ok {
				ready <- strings.Fields(rest)[0]
			}
			if strings.Contains(s.Text(), "level=ERROR") {
				fmt.Fprintln(os.Stderr, s.Text())
			}
		}
		close(ready)
	}()
	select {
	case u := <-ready:
		if u == "" {
			return fmt.Errorf("the server did not start")
		}
		n.url = u
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("the server was not ready in 30 s")
	}
}

func (n *node) stop(sig syscall.Signal) {
	_ = n.cmd.Process.Signal(sig)
	_ = n.cmd.Wait()
}

// rss is the resident memory, in KiB.
func (n *node) rss() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			k, _ := strconv.Atoi(strings.Fields(rest)[0])
			return k
		}
	}
	return 0
}

// newTarget starts a server per data directory; all but the first get the first one's keys.
func newTarget(binary, dir, database string, nodes int, more ...string) (*target, error) {
	t := &target{}
	for i := range nodes {
		n := &node{data: filepath.Join(dir, fmt.Sprint("node", i))}
		if i > 0 {
			if err := os.MkdirAll(n.data, 0o700); err != nil {
				return nil, err
			}
			for _, k := range []string{"policy.key", "admin.key", "codes.key", "recovery.pub", "ca.pem"} {
				b, err := os.ReadFile(filepath.Join(t.nodes[0].data, k))
				if err != nil {
					return nil, err
				}
				if err := os.WriteFile(filepath.Join(n.data, k), b, 0o600); err != nil {
					return nil, err
				}
			}
		}
		n.args = append([]string{"serve", "--data", n.data, "--listen", "127.0.0.1:0", "--spread", "10s"}, more...)
		if database != "" {
			n.args = append(n.args, "--database", database)
		}
		t.nodes = append(t.nodes, n)
		if err := n.start(binary); err != nil {
			return t, err
		}
		// It comes back at the same address.
		for j, a := range n.args {
			if a == "127.0.0.1:0" {
				n.args[j] = strings.TrimPrefix(n.url, "https://")
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(t.nodes[0].data, "ca.pem"))
	if err != nil {
		return t, err
	}
	t.ca = string(b[:strings.Index(string(b), "-----END CERTIFICATE-----")]) + "-----END CERTIFICATE-----\n"
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(t.ca))
	t.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
		Timeout: time.Minute}
	out, err := exec.Command(binary, "token", "create", "--data", t.nodes[0].data, "--role", "admin", "--ttl", "24h").Output()
	t.admin = strings.TrimSpace(string(out))
	return t, err
}

// stop ends every node.
func (t *target) stop() {
	for _, n := range t.nodes {
		if n.cmd != nil {
			n.stop(syscall.SIGTERM)
		}
	}
}

// call is one administrator's request.
func (t *target) call(node int, method, path, body string, out any) error {
	req, err := http.NewRequestWithContext(context.Background(), method, t.nodes[node].url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+t.admin)
	res, err := t.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %d %s", method, path, res.StatusCode, b)
	}
	if s, ok := out.(*string); ok {
		*s = string(b)
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// token makes an enrollment token.
func (t *target) token(uses int) (string, error) {
	var out struct {
		Token string `json:"token"`
	}
	err := t.call(0, "POST", "/api/v1/enrollments", fmt.Sprintf(`{"uses":%d}`, uses), &out)
	return out.Token, err
}

// metric sums one metric over all nodes.
func (t *target) metric(name string) (sum float64) {
	for i := range t.nodes {
		var text string
		if t.call(i, "GET", "/metrics", "", &text) != nil {
			continue
		}
		for _, line := range strings.Split(text, "\n") {
			if rest, ok := strings.CutPrefix(line, name+" "); ok {
				v, _ := strconv.ParseFloat(rest, 64)
				sum += v
			}
		}
	}
	return sum
}

// rss is the resident memory of all nodes together, in KiB.
func (t *target) rss() (kib int) {
	for _, n := range t.nodes {
		kib += n.rss()
	}
	return kib
}
