package server

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

// A device's state is known for as long as it is heard of. It becomes old without a report, and every reader sees that.
// A last report ends it at once. What cannot be verified on a device does not count as compliant.
func TestAge(t *testing.T) {
	for name, database := range map[string]func(testing.TB) string{"sqlite": func(testing.TB) string { return "" },
		"postgres": postgrestest.URL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ahead atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			r := start(t, Options{HTTP: true, Database: database(t), Interval: 7 * time.Minute, now: now})
			r.admin, _ = mustKeys(t, r.dir).AdminToken("ann", "admin", 6*time.Hour, time.Now().Add(-2*time.Hour))
			l, other := r.laptop("l"), r.laptop("other")
			l.c.Now = now
			looked := time.Unix(1_770_000_123, 0).UTC()
			for _, x := range []*laptop{l, other} {
				x.rep.LookedAt = &looked
				x.sync()
				x.says(enforce.Compliant)
			}
			shows := func(what, compliance, why, status string) {
				t.Helper()
				d := r.ok(200, "GET", "/devices/"+l.out.DeviceID, "")
				said, _ := d["compliance_reason"].(string)
				if d["compliance"] != compliance || !strings.Contains(said, why) || why == "" && said != "" || d["status"] != status {
					t.Errorf("%s: %v, %q, %v; want %s, %q, %s", what, d["compliance"], said, d["status"], compliance, why, status)
				}
				if roll := d["rollup"].(map[string]any); roll["compliance"] != compliance {
					t.Errorf("%s: rollup %v", what, roll)
				}
				for _, c := range []string{"compliant", "unverified", "noncompliant", "unknown"} {
					found := strings.Contains(fmt.Sprint(r.ok(200, "GET", "/devices?compliance="+c, "")["data"]), l.out.DeviceID)
					if found != (c == compliance) {
						t.Errorf("%s: listed as %s: %v", what, c, found)
					}
				}
			}
			shows("heard of", "compliant", "", "online")
			if d := r.ok(200, "GET", "/devices/"+l.out.DeviceID, ""); d["looked_at"] != looked.Format(time.RFC3339) {
				t.Errorf("looked at %v", d["looked_at"])
			}
			ahead.Store(int64(11 * time.Minute)) // it polls every seven
			shows("between two polls", "compliant", "", "online")
			ahead.Store(int64(13 * time.Minute))
			shows("not heard of", "unknown", "last seen 13m0s ago; it said compliant", "online")
			sum := r.ok(200, "GET", "/compliance", "")
			if num(sum, "unknown") != 2 || num(sum, "compliant") != 0 || num(sum, "reported") != 2 {
				t.Errorf("%v", sum)
			}
			if s := sum["policies"].([]any)[0].(map[string]any)["settings"].([]any)[0].(map[string]any); num(s, "unknown") != 2 {
				t.Errorf("%v", s)
			}
			l.sync()
			// The time of a visit without news is written a little later.
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				if num(r.ok(200, "GET", "/compliance", ""), "compliant") == 1 {
					break
				}
			}
			shows("back", "compliant", "", "online")
			sum = r.ok(200, "GET", "/policies/policy-default/compliance", "")
			if num(sum, "unknown") != 1 || num(sum, "compliant") != 1 {
				t.Errorf("%v", sum)
			}

			// A last report.
			for ended, why := range map[string]string{protocol.EndedStopped: "was stopped", protocol.EndedOff: "shut down",
				protocol.EndedUnenrolled: "was unenrolled locally", "eaten": "ended: eaten"} {
				l.rep.Agent.Ended = ended
				if a, err := l.c.Exchange(t.Context(), l.rep); err != nil || a.Assignment != "" {
					t.Fatal(a, err)
				}
				shows(ended, "unknown", why, "offline")
				if sum := r.ok(200, "GET", "/compliance", ""); num(sum, "unknown") != 2 {
					t.Errorf("%s: %v", ended, sum)
				}
				l.rep.Agent.Ended = ""
				l.sync() // is news
				shows("back after "+ended, "compliant", "", "online")
			}

			// A last report counts whatever the server's clock did, and so does the next report.
			l.rep.Agent.Ended = strings.Repeat("x", 1000) + "\x1b"
			ahead.Add(-int64(30 * time.Minute))
			if _, err := l.c.Exchange(t.Context(), l.rep); err != nil {
				t.Fatal(err)
			}
			shows("ended, with the clock set back", "unknown", "ended: unknown", "offline")
			l.rep.Agent.Ended = ""
			l.sync()
			shows("back, with the clock set back", "compliant", "", "online")

			// Not all can be verified there.
			list := []enforce.Finding{{Setting: "usb.allowed", Mode: enforce.Enforce, Compliance: enforce.Compliant,
				Enforcement: enforce.Partial},
				{Setting: "dlp.print_allowed", Mode: enforce.Enforce, Compliance: enforce.Uncertain, Enforcement: enforce.Unsupported}}
			l.rep.Findings, l.rep.FindingsDigest = &list, "some"
			l.sync()
			shows("not all", "unverified", "", "online")
			if sum := r.ok(200, "GET", "/compliance", ""); num(sum, "unverified") != 1 || num(sum, "compliant") != 0 {
				t.Errorf("%v", sum)
			}
		})
	}
}
