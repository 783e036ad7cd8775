//go:build linux

package laptop

import (
	"strings"
	"testing"
)

// TestHostileServer: whatever the server answers, the last good policy stays, and each kind of answer is reported with
// its own message.
func TestHostileServer(t *testing.T) {
	parallel(t, 6)
	r := start(t, Options{})
	r.medium("h", 16)
	r.server("--http")
	r.sh(`systemd-run -q --unit=hostile /host/hostile -token $(/host/warder-server enrollment create --data /srv/server)`)
	r.wait("the proxy is up", "curl -s http://127.0.0.1:9443/healthz")
	r.install()
	r.sh("warder enroll --server http://127.0.0.1:9443 --token $(/host/warder-server enrollment create --data /srv/server)")
	r.wait("the policy is in force", `warder status --json | grep -q '"state": "active"'`)
	plain := func(method, path, body string) string {
		return r.sh(`curl -s --fail-with-body -X %s -H "Authorization: Bearer $(cat /root/token)" http://127.0.0.1:8443/api/v1%s `+
			`--data-binary '%s'`, method, path, body)
	}
	plain("PUT", "/policies/policy-default",
		`{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"]},"storage":{},"network":{},"dlp":{}}}`)
	r.sh("warder check-in")
	r.plug("usb-storage", "s1", map[string]any{"drive": "h", "port": "1"})
	r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
	r.authorized("2-1", "0")
	r.wait("nothing is left to report", `warder status --json | grep -q '"events_waiting": 0'`)
	before := r.status()["policy"].(map[string]any)["digest"]

	// On the server the stick is allowed by now: none of these answers may have that effect on the device.
	plain("PUT", "/policies/policy-default",
		`{"compliance":"enforce","policy_data":{"usb":{"allowed":true},"storage":{},"network":{},"dlp":{}}}`)
	for _, c := range []struct{ mode, says string }{
		{"garbage", "makes no sense"}, {"500", "answered 500: out of order"}, {"429", "try again in 12m57s"},
		{"badsig", "bad signature"}, {"older", "older than one already seen"}, {"other", "for another device"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			r := &rig{r.Laptop, t, r.dir, r.policy}
			r.sh("echo %s >/tmp/hostile.mode", c.mode)
			res := r.try("warder check-in")
			out := res.Out + res.Err + r.try("warder status").Out
			if !strings.Contains(out, c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, out)
			}
			r.authorized("2-1", "0")
			if now := r.status()["policy"].(map[string]any)["digest"]; now != before {
				t.Errorf("the policy in force is %v, was %v", now, before)
			}
			if code := r.try("warder status").Code; code != 2 {
				t.Errorf("status exits %d, want 2", code)
			}
		})
	}
	t.Run("away", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.sh("rm -f /tmp/hostile.mode; systemctl stop hostile policy-server; systemctl restart warder")
		r.wait("it says that it cannot reach the server", "warder status | grep -q 'cannot reach the server'")
		r.authorized("2-1", "0")
		contains(t, r.try("warder status").Out, "cannot reach the server")
	})
	// A clock three days off, on the server and so, to the device, its own: one retry learns it.
	for _, skew := range []string{"72h", "-72h"} {
		t.Run("clock_"+skew, func(t *testing.T) {
			r := &rig{r.Laptop, t, r.dir, r.policy}
			r.sh(`systemctl stop skewed 2>/dev/null; WARDER_CLOCK_SKEW=%s systemd-run -q --unit=skewed -E WARDER_CLOCK_SKEW=%s `+
				`/host/warder-server-skewed serve --data /srv/server --listen 127.0.0.1:9443 --http --no-push`, skew, skew)
			r.wait("the skewed server is up", "curl -s http://127.0.0.1:9443/healthz")
			r.sh("warder check-in")
		})
	}
	// With the server well again, the device follows: the stick is allowed now.
	r.authorized("2-1", "1")
}
