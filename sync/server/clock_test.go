package server

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/sync/protocol"
)

// A server whose clock is set back by hours sends no exception that lasts longer than it was granted for, neither to a
// device that knows it nor to one that does not.
func TestServerClockSetBack(t *testing.T) {
	var back atomic.Int64
	r := start(t, Options{HTTP: true, now: func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }})
	l := r.laptop("l")
	l.sync()
	r.ok(201, "POST", "/devices/"+l.out.DeviceID+"/exceptions", `{"usb":"0951:1666:S","minutes":30,"reason":"slides"}`)
	l.sync()
	back.Store(int64(2 * time.Hour))
	r.admin, _ = mustKeys(t, r.dir).AdminToken("ann", "admin", 6*time.Hour, time.Now().Add(-3*time.Hour))
	r.ok(200, "PUT", "/policies/policy-default", `{"description":"another version"}`)
	l.rep.Policy.Exceptions = "" // as a device that has lost them
	for range 3 {
		a, err := l.c.Exchange(t.Context(), l.rep)
		if err != nil {
			t.Fatal(err)
		}
		if a.Assignment == "" {
			continue
		}
		as, err := protocol.VerifyAssignment(a.Assignment, l.keys, l.out.DeviceID, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(as.Exceptions) != 1 || as.Exceptions[0].Seconds != 1800 || as.Exceptions[0].Until.Sub(as.IssuedAt) > 30*time.Minute {
			t.Errorf("issued at %s: %+v", as.IssuedAt, as.Exceptions)
		}
		return
	}
	t.Error("no assignment came")
}

// The time is signed for anybody, but only for their own question.
func TestTimeIsSigned(t *testing.T) {
	r := start(t, Options{HTTP: true})
	keys := mustKeys(t, r.dir)
	st, out := r.call("", "POST", "/time", `{"nonce":"0123456789abcdef"}`)
	if st != 200 {
		t.Fatal(st, out)
	}
	at, err := protocol.VerifyTime(out["time"].(string), "0123456789abcdef", keys.PolicyKeys())
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("%s %v", at, err)
	}
	for _, bad := range []string{`{}`, `{"nonce":"short"}`, `{"nonce":"` + strings.Repeat("x", 65) + `"}`,
		`{"nonce":"0123456789abcde\u0000"}`, `{"nonce":7}`, `{"nonce":"0123456789abcdef","x":1}`, `x`,
		`{"nonce":"` + strings.Repeat("x", 2000) + `"}`} {
		if st, out := r.call("", "POST", "/time", bad); st != 400 && st != 413 {
			t.Errorf("%.40s: %d %v", bad, st, out)
		}
	}
}

func mustKeys(t *testing.T, dir string) *Keys {
	t.Helper()
	k, err := LoadKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
