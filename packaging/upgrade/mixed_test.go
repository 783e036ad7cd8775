//go:build linux

package upgrade

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// old is the commit of the oldest version in use.
const (
	oldCommit  = "1f64be4d6927ced3b326e29ba9df95ae8cc22784"
	oldVersion = "0.2.0"
)

// build builds agent and server of a source tree.
func build(t *testing.T, tree, version string) (agent, server string) {
	t.Helper()
	to := t.TempDir()
	for _, p := range []string{"warder", "warder-server"} {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version="+version, "-o", filepath.Join(to, p),
			"./cmd/"+p)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot build %s of %s: %v\n%s", p, version, err, out)
		}
	}
	return filepath.Join(to, "warder"), filepath.Join(to, "warder-server")
}

// oldTree checks the old version out. In a shallow clone it is fetched first.
func oldTree(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", root}, args...)...)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if _, err := git("cat-file", "-e", oldCommit+"^{commit}"); err != nil {
		if out, err := git("fetch", "--depth", "1", "origin", oldCommit); err != nil {
			why := fmt.Sprintf("version %s (commit %.7s) is not in this clone and cannot be fetched: %s", oldVersion, oldCommit, out)
			if os.Getenv("CI") == "true" {
				t.Fatal(why)
			}
			t.Skip(why)
		}
	}
	dir := filepath.Join(t.TempDir(), "old")
	if out, err := git("worktree", "add", "--detach", dir, oldCommit); err != nil {
		t.Fatalf("cannot check version %s out: %s", oldVersion, out)
	}
	t.Cleanup(func() {
		if out, err := git("worktree", "remove", "--force", dir); err != nil {
			t.Error(out)
		}
	})
	return dir
}

// pair is an agent of one version with a server of another, over TLS, on this machine.
type pair struct {
	t              *testing.T
	warder, server string
	dir, url       string
	token          string
}

// free returns a port that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *pair) spawn(name string, args ...string) {
	p.t.Helper()
	cmd := exec.Command(name, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("%s:\n%s", filepath.Base(name), log.String())
		}
	})
}

func (p *pair) run(name string, args ...string) string {
	p.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && strings.Contains(strings.Join(args, " "), "status")) {
		p.t.Fatalf("%s %v: %v\n%s", filepath.Base(name), args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (p *pair) agent(args ...string) string {
	p.t.Helper()
	return p.run(p.warder, append([]string{"--state", p.dir + "/agent"}, args...)...)
}

// wait repeats for as long as half a minute.
func (p *pair) wait(what string, ok func() bool) {
	p.t.Helper()
	if !soon(ok) {
		p.t.Fatalf("%s: it did not come", what)
	}
}

func soon(ok func() bool) bool {
	for range 300 {
		if ok() {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// until is wait for what the agent's status shows.
func (p *pair) until(what string, ok func() bool) {
	p.t.Helper()
	if !soon(ok) {
		p.t.Fatalf("%s: it did not come: %s", what, p.agent("status", "--json"))
	}
}

func (p *pair) admin(method, path, body string) map[string]any {
	p.t.Helper()
	req, _ := http.NewRequestWithContext(context.Background(), method, p.url+"/api/v1"+path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+p.token)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil || res.StatusCode/100 != 2 {
		p.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, b)
	}
	return out
}

func (p *pair) status() (s struct {
	DeviceID string `json:"device_id"`
	Version  string `json:"version"`
	Policy   struct {
		Version int    `json:"version"`
		State   string `json:"state"`
	} `json:"policy"`
	Exceptions []any    `json:"exceptions"`
	Health     []string `json:"health"`
	CheckIn    struct {
		Push bool `json:"push"`
	} `json:"check_in"`
}) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.agent("status", "--json")), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// TestMixed: an agent of 0.2.0 with the present server, and the reverse: policies, exceptions and rotations of keys
// arrive, reports are accepted.
func TestMixed(t *testing.T) {
	oldAgent, oldServer := build(t, oldTree(t), oldVersion)
	newAgent, newServer := build(t, "../..", "present")
	for _, c := range []struct{ name, warder, server, version string }{
		{"old agent, new server", oldAgent, newServer, oldVersion},
		{"new agent, old server", newAgent, oldServer, "present"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &pair{t: t, warder: c.warder, server: c.server, dir: t.TempDir()}
			listen := free(t)
			p.url = "https://" + listen
			data := p.dir + "/server"
			p.spawn(c.server, "serve", "--data", data, "--listen", listen, "--interval", "10s")
			p.wait("the server listens", func() bool {
				conn, err := net.Dial("tcp", listen)
				if err == nil {
					_ = conn.Close()
				}
				return err == nil
			})
			p.token = p.run(c.server, "token", "create", "--data", data, "--role", "admin", "--subject", "ann")
			var e struct {
				Token string `json:"token"`
				CA    string `json:"ca_pin"`
			}
			if made := p.run(c.server, "enrollment", "create", "--data", data, "--json"); json.Unmarshal([]byte(made), &e) != nil {
				t.Fatal(made)
			}
			p.spawn(c.warder, "--state", p.dir+"/agent", "run")
			p.wait("the agent listens", func() bool {
				_, err := os.Stat(p.dir + "/agent/run/warder.sock")
				return err == nil
			})
			p.agent("enroll", "--server", p.url, "--token", e.Token, "--ca-pin", e.CA)
			p.until("a policy is in force", func() bool { s := p.status(); return s.Policy.State == "active" && s.Version == c.version })
			p.until("the socket is up", func() bool { return p.status().CheckIn.Push })
			id := p.status().DeviceID
			p.admin("PUT", "/policies/policy-default",
				`{"compliance":"monitor","policy_data":{"usb":{"allowed_classes":["hid"]},"storage":{},"network":{},"dlp":{}}}`)
			p.until("the next version", func() bool { return p.status().Policy.Version == 2 })
			p.admin("POST", "/devices/"+id+"/exceptions", `{"usb":"46f4:0001:SN1","minutes":60,"reason":"slides"}`)
			p.until("the exception", func() bool { return len(p.status().Exceptions) == 1 })
			if c.version == oldVersion { // which knows no long lists: it says so, and keeps the rest
				list := p.admin("POST", "/lists?name=Ads", "tracker.example\n")
				p.admin("PUT", "/policies/policy-default", fmt.Sprintf(
					`{"policy_data":{"network":{"blocked_lists":[{"id":%q,"sha256":%q}]}}}`, list["id"], list["sha256"]))
				p.until("long lists are unsupported there", func() bool {
					b, _ := json.Marshal(p.admin("GET", "/devices/"+id, "")["findings"])
					return strings.Contains(string(b), `"network.blocked_lists"`) && strings.Contains(string(b), `"unsupported"`)
				})
			} else {
				p.admin("PUT", "/policies/policy-default", `{"description":"one more"}`)
				p.until("the version after it", func() bool { return p.status().Policy.Version == 3 })
			}
			for i, recovery := range []bool{false, true, true} {
				args := []string{"keys", "rotate", "--data", data}
				if recovery {
					args = append(args, "--recovery-key", data+"/recovery.key")
				}
				p.run(c.server, args...)
				time.Sleep(2500 * time.Millisecond) // the server looks every two seconds
				p.admin("PUT", "/policies/policy-default", fmt.Sprintf(`{"description":"rotation %d"}`, i))
				p.until(fmt.Sprintf("a policy under key %d", i+1), func() bool { return p.status().Policy.Version == 4+i })
			}
			p.until("the server has the report", func() bool {
				d := p.admin("GET", "/devices/"+id, "")
				b, _ := json.Marshal(d)
				return strings.Contains(string(b), `"version":6`) && strings.Contains(string(b), `"usb.allowed_classes"`)
			})
			if s := p.status(); len(s.Health) > 0 {
				t.Errorf("it complains: %v", s.Health)
			}
		})
	}
}
