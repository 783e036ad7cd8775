//go:build linux

package agent

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/sync/server"
)

const denyAll = `{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"]},"storage":{"external_storage_allowed":false},` +
	`"network":{},"dlp":{}}}`

// An exception lets this stick pass on this device for its time, and no longer; the rest of the policy is unchanged.
func TestExceptionFromTheServer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	s := l.until("enforced", version(2))
	l.reads("0", "0")
	x := l.admin("POST", "/devices/"+s.DeviceID+"/exceptions", `{"usb":"46f4:0001:SN1","minutes":60,"reason":"slides"}`)
	l.until("excepted", func(s Status) bool { return len(s.Exceptions) == 1 })
	l.until("applied", func(Status) bool { return firstLine(l.sys+"/bus/usb/devices/1-1/authorized") == "1" })
	l.reads("0", "1")
	// Another stick of the same kind stays out.
	if a, err := l.agent.explain(context.Background(), caller{Root: true},
		aboutUSB(`{"vendor":18164,"product":1,"serial":"SN2","classes":[8]}`)); err != nil || a.Answer.Answer != "deny" {
		t.Errorf("%+v %v", a, err)
	}
	// It survives a restart.
	l.stop()
	l.start()
	l.until("excepted after a restart", func(s Status) bool { return len(s.Exceptions) == 1 })
	l.reads("0", "1")
	// Taken back before its time, it ends at once.
	l.admin("DELETE", "/devices/"+s.DeviceID+"/exceptions/"+x["id"].(string), "")
	l.until("ended", func(s Status) bool { return len(s.Exceptions) == 0 })
	l.until("refused again", func(Status) bool { return firstLine(l.sys+"/bus/usb/devices/1-1/authorized") == "0" })
}

// A code works without the server, once, for the stick and the device it was made for.
func TestExceptionByCode(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	s := l.until("enforced", version(2))
	other := l.admin("POST", "/devices/"+s.DeviceID+"/exceptions",
		`{"usb":"46f4:0001:OTHER","minutes":5,"reason":"x","offline":true}`)["code"].(string)
	code := l.admin("POST", "/devices/"+s.DeviceID+"/exceptions",
		`{"usb":"46f4:0001:SN1","minutes":5,"reason":"x","offline":true}`)["code"].(string)
	try := func(code, usb string) (x identity.Exception, err error) {
		l.agent.do(func() { l.agent.exceptions.redeemed = nil }) // the pause is tried below
		err = l.api.Do(context.Background(), "POST", "/v1/exceptions", ExceptionRequest{Code: code, Section: "usb", Subject: usb}, &x)
		return x, err
	}
	for _, bad := range []string{"", "AAAAA", other, strings.Repeat("A", 26), "née"} {
		if _, err := try(bad, ""); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	x, err := try(strings.ToLower(strings.ReplaceAll(code, "-", " ")), "")
	if err != nil || x.Subject != "46f4:0001:SN1" || time.Until(x.Until) > 5*time.Minute || time.Until(x.Until) < 4*time.Minute {
		t.Fatalf("%+v %v", x, err)
	}
	l.reads("0", "1")
	if _, err := try(code, "46f4:0001:SN1"); err == nil || !strings.Contains(err.Error(), "was used") {
		t.Errorf("a code twice: %v", err)
	}
	if _, err := try(other, "46f4:0001:OTHER"); err != nil {
		t.Errorf("a stick that is not plugged in, by name: %v", err)
	}
	if err := l.api.Do(context.Background(), "POST", "/v1/exceptions", ExceptionRequest{Code: other}, nil); err == nil ||
		!strings.Contains(err.Error(), "moment ago") {
		t.Errorf("guessing at full speed: %v", err)
	}
	// Its end: the clock can shorten it, but not lengthen it.
	if err := l.agent.call(context.Background(), func() {
		st := l.agent.custody.state
		for i := range st.Exceptions {
			// The clock was set back by hours, but only a moment is left by the monotonic clock.
			st.Exceptions[i].Until = time.Now().Add(3 * time.Hour)
			st.Exceptions[i].Since = time.Now().Add(-time.Hour)
			l.agent.exceptions.mu.Lock()
			l.agent.exceptions.deadlines[st.Exceptions[i].ID] = time.Now().Add(100 * time.Millisecond)
			l.agent.exceptions.mu.Unlock()
		}
		_ = l.agent.custody.save(st)
		l.agent.exceptions.arm(l.agent.custody.state.Exceptions)
	}); err != nil {
		t.Fatal(err)
	}
	l.until("over", func(s Status) bool { return len(s.Exceptions) == 0 })
	l.until("refused again", func(Status) bool { return firstLine(l.sys+"/bus/usb/devices/1-1/authorized") == "0" })
}

// A bundle arrives when it is asked for, and contains no secret.
func TestDiagnostics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	s := l.status()
	l.admin("POST", "/devices/"+s.DeviceID+"/diagnostics", "")
	var id string
	for range 1500 {
		if data := l.admin("GET", "/devices/"+s.DeviceID+"/diagnostics", "")["data"].([]any); len(data) > 0 {
			id = data[0].(map[string]any)["id"].(string)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if id == "" {
		t.Fatal("no bundle has come")
	}
	req, _ := http.NewRequest("GET", l.url+"/api/v1/devices/"+s.DeviceID+"/diagnostics/"+id, nil)
	req.Header.Set("Authorization", "Bearer "+l.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	z, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(z)
	var b Bundle
	if err := json.Unmarshal(raw, &b); err != nil || !b.Status.Enrolled || b.Status.DeviceID != s.DeviceID || b.Process.Goroutines == 0 {
		t.Errorf("%v %s", err, raw)
	}
	var key struct{ D string }
	_ = json.Unmarshal(l.agent.custody.state.Device.Key, &key)
	secret := string(encode(l.agent.custody.state.Device.CodeSecret))
	for _, word := range []string{key.D, strings.Trim(secret, `"`), "code_secret", `"d":`} {
		if word == "" || strings.Contains(string(raw), word) {
			t.Errorf("the bundle contains %q", word)
		}
	}
}

// The policy key is rotated, by the old key and by the recovery key: the agent follows, and takes
// policies under the new one.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	keys, err := server.LoadKeys(l.dir + "/server")
	if err != nil {
		t.Fatal(err)
	}
	before := l.agent.custody.pinned()
	for i, recovery := range []bool{false, true} {
		key := recoveryKey(t, l.dir+"/server/recovery.key")
		if !recovery {
			key = nil
		}
		if err := keys.RotatePolicy(key, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2500 * time.Millisecond) // the server reads changes every two seconds
		l.admin("PUT", "/policies/policy-default", `{"policy_data":{"usb":{"allowed":`+[]string{"true", "false"}[i]+`}}}`)
		l.until("a policy under the new key", version(i+2))
		if l.agent.custody.pinned() != keys.Pinned() || l.agent.custody.pinned() == before {
			t.Errorf("pinned %s, want %s", l.agent.custody.pinned(), keys.Pinned())
		}
		before = l.agent.custody.pinned()
	}
	if s := l.status(); len(s.Health) > 0 {
		t.Errorf("%v", s.Health)
	}
}

func recoveryKey(t *testing.T, path string) *jose.JSONWebKey {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var k jose.JSONWebKey
	if err := json.Unmarshal(b, &k); err != nil {
		t.Fatal(err)
	}
	return &k
}
