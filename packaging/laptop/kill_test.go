//go:build linux

package laptop

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"github.com/warderd/warder/agent/killpoint"
)

// TestKill: SIGKILL under plugging and policy changes, at every named point of the code. After each restart the machine
// equals the policy, the ledger equals the machine, and no journalled event is lost or duplicated on the server.
func TestKill(t *testing.T) {
	parallel(t, 4)
	r := start(t, Options{})
	r.medium("k", 16)
	r.server("")
	r.install()
	r.sh("systemctl stop warder; cp /host/warder-killpoints /usr/bin/warder; systemctl start warder")
	r.enroll()
	kills := 15
	if soak() {
		kills = 200
	}
	hit := map[string]int{}
	plugged := false
	for i := range kills {
		point := killpoint.Points[i%len(killpoint.Points)]
		if i >= len(killpoint.Points) && i%3 == 0 {
			point = "at_random"
		}
		if point == "at_random" {
			r.sh("(sleep 0.%d; kill -9 $(systemctl show -P MainPID warder)) & echo", rand.IntN(9)+1)
		} else {
			r.sh("echo %s >/run/warder-killpoint", point)
		}
		// A policy change and a plug at once, from a policy that asks nothing to one that uses everything in the
		// section.
		enforce := i%2 == 0 || point == "guard.noted" // below enforce the guard writes nothing
		body := `{"compliance":"monitor","policy_data":{"usb":{"allowed_classes":["hid"]}}}`
		if enforce {
			body = `{"policy_data":{"usb":{"allowed_classes":["hid"]},"network":{"blocked_domains":["blocked.example"]}}}`
		}
		r.change(body)
		if plugged {
			r.unplug("s1")
			r.unplug("m1")
			r.gone("2-1")
			r.gone("1-2")
		}
		r.plug("usb-storage", "s1", map[string]any{"drive": "k", "port": "1"})
		r.plug("usb-tablet", "m1", map[string]any{"port": "2"})
		plugged = true
		if point != "at_random" {
			r.wait("the point "+point+" is hit", "test ! -e /run/warder-killpoint || { warder check-in >/dev/null 2>&1; false; }")
		}
		hit[point]++
		r.wait("the agent is back", "warder check-in && warder status --json | grep -q '\"agent\": \"running\"'")
		r.settled()
		if enforce {
			r.authorized("2-1", "0")
			r.authorized("1-2", "1")
			if got := r.defaults(); got != "usb1 0\nusb2 0\nparam 0" {
				t.Errorf("kill %d at %s: the defaults are %q under enforce", i, point, got)
			}
			r.wait("the table is there", "nft list table inet warder >/dev/null")
		} else {
			r.authorized("2-1", "1")
			r.authorized("1-2", "1")
			if got := r.defaults(); got != fresh {
				t.Errorf("kill %d at %s: the defaults are %q under monitor", i, point, got)
			}
			r.wait("no table is left", "! nft list table inet warder 2>/dev/null")
		}
		r.ledgerEqualsMachine(fmt.Sprintf("kill %d at %s", i, point))
	}
	var names []string
	for n := range hit {
		names = append(names, fmt.Sprintf("%s ×%d", n, hit[n]))
	}
	sort.Strings(names)
	t.Logf("%d kills: %s", kills, strings.Join(names, ", "))
	for _, p := range killpoint.Points {
		if hit[p] == 0 {
			t.Errorf("the point %s was never hit", p)
		}
	}
	r.noEventLost()
	r.sh("dpkg -r warder")
	if got := r.defaults(); got != fresh {
		t.Errorf("after removal the defaults are %q", got)
	}
}

// ledgerEqualsMachine: each row's last value is what is read now, and nothing is intended.
func (r *rig) ledgerEqualsMachine(when string) {
	r.t.Helper()
	r.wait(when+": the ledger equals the machine",
		`warder ledger --json >/tmp/ledger && test "$(grep -c '"key"' /tmp/ledger)" = "$(grep -A5 '"key"' /tmp/ledger | awk -F'"' `+
			`'/"last"/{l=$4} /"now"/{if ($4==l) n++} END{print n+0}')" && ! grep '"next"' /tmp/ledger | grep -v unknown`)
}

// noEventLost compares every event of the device's journal with what the server has.
func (r *rig) noEventLost() {
	r.t.Helper()
	r.wait("all is acknowledged", `warder check-in >/dev/null; warder status --json | grep -q '"events_waiting": 0'`)
	type event struct {
		Seq  int    `json:"seq"`
		Kind string `json:"kind"`
	}
	mine := map[int]string{}
	for line := range strings.Lines(r.sh("warder events --json --last 10000")) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			r.t.Fatal(err)
		}
		mine[e.Seq] = e.Kind
	}
	var theirs struct {
		Data []event `json:"data"`
	}
	id := r.status()["device_id"].(string)
	if err := json.Unmarshal([]byte(r.curl("GET", "/devices/"+id+"/events?page_size=10000", "")), &theirs); err != nil {
		r.t.Fatal(err)
	}
	seen := map[int]int{}
	for _, e := range theirs.Data {
		seen[e.Seq]++
		if mine[e.Seq] != e.Kind {
			r.t.Errorf("event %d is %q on the server and %q on the device", e.Seq, e.Kind, mine[e.Seq])
		}
	}
	for seq := range mine {
		if seen[seq] != 1 {
			r.t.Errorf("event %d is %d times on the server", seq, seen[seq])
		}
	}
	r.t.Logf("%d events journalled, %d on the server, none lost or doubled", len(mine), len(theirs.Data))
}
