//go:build unix

package guide

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// blocks are the fenced blocks ("sh") of a Markdown text, in order, each with the number of its first line.
func blocks(text string) (out []string, lines []int) {
	var block []string
	in := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case line == "```sh":
			in, block = true, nil
			lines = append(lines, i+2)
		case line == "```" && in:
			in = false
			out = append(out, strings.Join(block, "\n"))
		case in:
			block = append(block, line)
		}
	}
	return out, lines
}

// TestGuide types the guide's commands. It changes the data directory and the address, which are this test's own.
// "sudo" runs the command as it is, "warder" has a state directory of the test, and after the enrollment the test starts
// the agent, as the service would.
func TestGuide(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "sed"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	for _, name := range []string{"warder", "warder-server"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(bin, "real", name), "../../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	data := filepath.Join(dir, "data")
	script := func(name, text string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/bash\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("sudo", `exec "$@"`)
	// A server stays in the background; the next command is typed when it serves.
	script("warder-server", fmt.Sprintf(`real=%s/real/warder-server
[ "$1" = serve ] || exec $real "$@"
$real "$@" 2>%s/server.log >/dev/null &
echo $! >>%s/pids
for _ in $(seq 300); do grep -q msg=serving %s/server.log && exit 0; sleep 0.1; done
cat %s/server.log >&2; exit 1`, bin, dir, dir, dir, dir))
	// The agent of an enrolled laptop runs.
	script("warder", fmt.Sprintf(`real="%s/real/warder --state %s/laptop"
# Its exit code says how the laptop stands, which is not what is tried.
[ "$1" = status ] && { $real "$@" || [ $? -le 2 ]; exit; }
$real "$@" || exit
[ "$1" = enroll ] || exit 0
$real run 2>%s/agent.log >/dev/null &
echo $! >>%s/pids
for _ in $(seq 300); do $real status | grep -q '^  policy' && exit 0; sleep 0.1; done
cat %s/agent.log >&2; exit 1`, bin, dir, dir, dir, dir))
	t.Cleanup(func() {
		b, _ := os.ReadFile(filepath.Join(dir, "pids"))
		pids := strings.Fields(string(b))
		for i := len(pids) - 1; i >= 0; i-- { // end the agent before its server
			var pid int
			if _, err := fmt.Sscan(pids[i], &pid); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGTERM)
				for begun := time.Now(); syscall.Kill(pid, 0) == nil &&
					time.Since(begun) < 20*time.Second; time.Sleep(50 * time.Millisecond) {
				}
			}
		}
	})
	guide, err := os.ReadFile("../../docs/admin-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	list, lines := blocks(string(guide))
	if len(list) < 10 {
		t.Fatalf("the guide has only %d blocks", len(list))
	}
	ours := strings.NewReplacer("/var/lib/warder-server", data, "0.0.0.0:8443", address, "policy.example.com:8443", address)
	var typed strings.Builder
	typed.WriteString("set -euo pipefail\n")
	for i, b := range list {
		fmt.Fprintf(&typed, "echo '== line %d' >&2\n%s\n", lines[i], ours.Replace(b))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", typed.String())
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "WARDER_DATA="+data, "NO_COLOR=1", "WARDER_SERVER=", "WARDER_TOKEN=",
		"WARDER_CA=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"POLICY  ", `"devices"`, "Enrolled. ", "Default Security Policy, version 1", "Finance", `"template-strict"`,
		"Engineering, version 1: created", "would be created",
		`"running"`, "slides of a customer", "policy.created", "restored into",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in what the guide's commands print:\n%s", want, out.String())
			break
		}
	}
}
