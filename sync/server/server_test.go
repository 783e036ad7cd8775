package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// rig is a real server on a real socket, with a data directory of its own.
type rig struct {
	t           testing.TB
	dir, url    string
	admin, view string
	ca          string
	database    string
	answer      http.Header // of the last call
	client      *http.Client
	stop        func()
}

// http trusts the server's own authority.
func (r *rig) http() *http.Client {
	if r.client == nil {
		pool := x509.NewCertPool()
		if b, err := os.ReadFile(filepath.Join(r.dir, "ca.pem")); err == nil {
			pool.AppendCertsFromPEM(b)
		}
		r.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
		r.t.Cleanup(r.client.CloseIdleConnections)
	}
	return r.client
}

func start(t *testing.T, o Options) *rig {
	t.Helper()
	return startT(t, o)
}

func startT(t testing.TB, o Options) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), database: o.Database}
	if !o.HTTP {
		ca, err := LoadCA(r.dir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.ca = ca.Fingerprint()
	}
	r.serve(o)
	keys, err := LoadKeys(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	r.admin, _ = keys.AdminToken("ann@example.com", "admin", time.Hour, time.Now())
	r.view, _ = keys.AdminToken("vic@example.com", "viewer", time.Hour, time.Now())
	return r
}

func (r *rig) serve(o Options) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	o.Data, o.Listen, o.Log = r.dir, "127.0.0.1:0", slog.New(slog.DiscardHandler)
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	o.tick = 200 * time.Millisecond
	if o.Database == "" {
		o.Database = r.database
	}
	o.Ready = func(u string) { ready <- u }
	go func() { done <- Serve(ctx, o) }()
	select {
	case r.url = <-ready:
	case err := <-done:
		r.t.Fatal(err)
	}
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		r.stop = func() {}
	}
	r.t.Cleanup(func() { r.stop() })
}

func (r *rig) call(token, method, path, body string, headers ...string) (int, map[string]any) {
	r.t.Helper()
	req, _ := http.NewRequest(method, r.url+"/api/v1"+path, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := r.http().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	r.answer = res.Header
	b, _ := io.ReadAll(res.Body)
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		r.t.Fatalf("%s %s: %d %q", method, path, res.StatusCode, b)
	}
	return res.StatusCode, out
}

func (r *rig) ok(status int, method, path, body string) map[string]any {
	r.t.Helper()
	got, out := r.call(r.admin, method, path, body)
	if got != status {
		r.t.Fatalf("%s %s: %d %v, want %d", method, path, got, out, status)
	}
	return out
}

// shape names what an object lacks.
func shape(m map[string]any, names ...string) string {
	var missing []string
	for _, n := range names {
		if _, ok := m[n]; !ok {
			missing = append(missing, n)
		}
	}
	return strings.Join(missing, " ")
}

// The shapes of the Policies API.
func TestPolicies(t *testing.T) {
	r := start(t, Options{HTTP: true})
	// A new server has a default policy, in monitor mode.
	d := r.ok(200, "GET", "/policies/default", "")
	if d["compliance"] != "monitor" || d["version"] != 1.0 ||
		shape(d, "id", "name", "policy_data", "active", "device_count", "created_at", "updated_at", "organization_id",
			"description") != "" {
		t.Errorf("%v", d)
	}
	made := r.ok(201, "POST", "/policies",
		`{"name":"Marketing Team Policy","description":"x","policy_data":{"dlp":{"clipboard_sharing":true,`+
			`"clipboard_direction":"personal_to_work"},"usb":{"allowed":true,"allowed_classes":["hid","audio"],"audit_only":false}}}`)
	id := made["id"].(string)
	if made["version"] != 1.0 || made["active"] != true || made["device_count"] != 0.0 ||
		!strings.HasSuffix(made["created_at"].(string), "Z") {
		t.Errorf("%v", made)
	}
	// A given section replaces that section; the rest stays; each update is a version.
	up := r.ok(200, "PUT", "/policies/"+id, `{"name":"Marketing Team Policy","policy_data":{"dlp":{"screenshot_allowed":false}}}`)
	if up["version"] != 2.0 || shape(up, "id", "name", "updated_at") != "" {
		t.Errorf("%v", up)
	}
	got := r.ok(200, "GET", "/policies/"+id, "")
	data, _ := json.Marshal(got["policy_data"])
	if want := `{"dlp":{"screenshot_allowed":false},"usb":{"allowed":true,"allowed_classes":["hid","audio"],"audit_only":false}}`; string(
		data) != want {
		t.Errorf("%s", data)
	}
	// The answer to a GET can be sent back; a stale version is 409.
	whole, _ := json.Marshal(got)
	r.ok(200, "PUT", "/policies/"+id, string(whole))
	if got, _ := r.call(r.admin, "PUT", "/policies/"+id, string(whole)); got != 409 {
		t.Errorf("a stale version: %d", got)
	}
	list := r.ok(200, "GET", "/policies?page=1&page_size=1", "")
	if list["total"] != 2.0 || list["page"] != 1.0 || list["page_size"] != 1.0 || len(list["data"].([]any)) != 1 {
		t.Errorf("%v", list)
	}
	r.ok(200, "PUT", "/policies/default", `{"policy_id":"`+id+`"}`)
	if r.ok(200, "GET", "/policies/default", "")["id"] != id {
		t.Error("the default is not changed")
	}
	status, bad := r.call(r.admin, "POST", "/policies/validate", `{"policy_data":{"dlp":{"clipboard_sharing":"invalid"}}}`)
	if b, _ := json.Marshal(bad); status != 400 || string(
		b) != `{"errors":[{"field":"dlp.clipboard_sharing","message":"must be a boolean","received":"invalid"}],"valid":false}` {
		t.Errorf("%d %s", status, b)
	}
	good := r.ok(200, "POST", "/policies/validate", `{"policy_data":{"usb":{"whitelist":["046d:*"]}}}`)
	if good["valid"] != true || len(good["warnings"].([]any)) != 1 {
		t.Errorf("%v", good)
	}
	dev := r.ok(200, "GET", "/policies/"+id+"/devices", "")
	if dev["total"] != 0.0 || len(dev["data"].([]any)) != 0 {
		t.Errorf("%v", dev)
	}
	for _, c := range []struct {
		token, method, path, body string
		want                      int
	}{
		{"", "GET", "/policies", "", 401}, {"nonsense", "GET", "/policies", "", 401}, {r.view, "GET", "/policies", "", 200},
		{r.view, "POST", "/policies", `{"name":"x","policy_data":{}}`, 403}, {r.admin, "GET", "/policies/none", "", 404},
		{r.admin, "POST", "/policies", `{"policy_data":{}}`, 400},
		{r.admin, "POST", "/policies", `{"name":"x","policy_data":{"usb":{"alowed":1}}}`, 400},
		{r.admin, "POST", "/policies", `{"name":"x","policy_data":{},"surprise":1}`, 400}, {r.admin, "POST", "/policies", "not json", 400},
		{r.admin, "PUT", "/policies/" + id, `{"policy_data":{"usb":{"allowed":"yes"}}}`, 400},
		{r.admin, "PUT", "/policies/default", `{"policy_id":"none"}`, 404},
		{r.admin, "GET", "/policies?page=0", "", 400}, {r.admin, "GET", "/nowhere", "", 404},
		{r.admin, "POST", "/policies", strings.Repeat(" ", 2<<20), 413},
	} {
		if got, out := r.call(c.token, c.method, c.path, c.body); got != c.want {
			t.Errorf("%s %s: %d %v, want %d", c.method, c.path, got, out, c.want)
		}
	}
}

// device is an enrolled client.
func (r *rig) device(name, machine string) (*checkin.Client, protocol.EnrollResponse) {
	r.t.Helper()
	token := r.ok(201, "POST", "/enrollments", `{}`)["token"].(string)
	key, _ := protocol.NewDeviceKey()
	out, server, err := checkin.Enroll(context.Background(), checkin.Server{URL: r.url}, r.ca, token, key,
		protocol.Host{Name: name, OS: "linux"}, machine)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, _, err := checkin.Enroll(context.Background(), checkin.Server{URL: r.url}, r.ca, token, key, protocol.Host{Name: name},
		machine); err == nil {
		r.t.Error("a token is used twice")
	}
	c, err := checkin.NewClient(server, out.DeviceID, key, time.Now)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c, out
}

func (r *rig) exchange(c *checkin.Client, rep protocol.Report) protocol.Answer {
	r.t.Helper()
	a, err := c.Exchange(context.Background(), rep)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func verify(t testing.TB, out protocol.EnrollResponse, a protocol.Answer, highest int64) *protocol.Assignment {
	t.Helper()
	keys, err := protocol.ParseKeys(out.PolicyKeys)
	if err != nil {
		t.Fatal(err)
	}
	as, err := protocol.VerifyAssignment(a.Assignment, keys, out.DeviceID, highest)
	if err != nil {
		t.Fatal(err)
	}
	return as
}

func currentOf(t testing.TB, as *protocol.Assignment) protocol.PolicyState {
	t.Helper()
	var p struct {
		ID      string `json:"id"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(as.Policy, &p); err != nil {
		t.Fatal(err)
	}
	return protocol.PolicyState{ID: p.ID, Version: p.Version, Digest: digestOf(as.Policy), Serial: as.Serial, State: "active"}
}

func TestDevices(t *testing.T) {
	r := start(t, Options{})
	c, out := r.device("laptop", "m1")

	a := r.exchange(c, protocol.Report{Epoch: "e1"})
	as := verify(t, out, a, 0)
	current := currentOf(t, as)
	if a := r.exchange(c, protocol.Report{Policy: current, Epoch: "e1"}); a.Assignment != "" {
		t.Error("an assignment without news")
	}
	// Events are stored once, in order, by (epoch, seq).
	ev := func(seqs ...uint64) []enforce.Event {
		var list []enforce.Event
		for _, s := range seqs {
			list = append(list, enforce.Event{Seq: s, At: time.Now(), Kind: enforce.Denied, Setting: "usb.allowed", Subject: fmt.Sprint(s)})
		}
		return list
	}
	if a := r.exchange(c, protocol.Report{Policy: current, Epoch: "e1", Events: ev(1, 2)}); a.AckSeq != 2 {
		t.Errorf("ack %d", a.AckSeq)
	}
	if a := r.exchange(c, protocol.Report{Policy: current, Epoch: "e1", Events: ev(1, 2, 5)}); a.AckSeq != 5 {
		t.Errorf("ack %d", a.AckSeq)
	}
	if a := r.exchange(c, protocol.Report{Policy: current, Epoch: "e2", Events: ev(1)}); a.AckSeq != 1 {
		t.Errorf("a new epoch begins anew: ack %d", a.AckSeq)
	}
	if _, err := c.Exchange(context.Background(), protocol.Report{Policy: current, Epoch: "e2", Events: ev(9, 8)}); err == nil {
		t.Error("numbers that fall pass")
	}
	if stored := r.ok(200, "GET", "/devices/"+out.DeviceID+"/events?page_size=100", "")["data"].([]any); len(stored) != 4 {
		t.Errorf("%d events stored, want 4", len(stored))
	}
	// A device that reports a serial above the server's (a restored backup) gets a still higher one.
	ahead := current
	ahead.Serial, ahead.Digest = 1_000_000, "sha256:other"
	if as := verify(t, out, r.exchange(c, protocol.Report{Policy: ahead, Epoch: "e2"}), 1_000_000); as.Serial <= 1_000_000 {
		t.Errorf("serial %d", as.Serial)
	}
	// What it refused is not sent again.
	refused := current
	refused.Digest, refused.Refused = "sha256:older", current.Digest
	if a := r.exchange(c, protocol.Report{Policy: refused, Epoch: "e2"}); a.Assignment != "" {
		t.Error("a refused policy is sent again")
	}
	// Digests that the server does not know are asked for in full.
	if a := r.exchange(c, protocol.Report{Policy: current, Epoch: "e2", DeviceDigest: "new", FindingsDigest: "new"}); len(a.Request) == 0 {
		t.Error("no full report is asked for")
	}
	// A second machine with the same key: both are told to enroll again.
	if _, err := c.Exchange(context.Background(), protocol.Report{Policy: current, Agent: protocol.Agent{Machine: "m2"}}); err == nil ||
		!strings.Contains(err.Error(), "enroll") {
		t.Errorf("clone: %v", err)
	}
	if _, err := c.Exchange(context.Background(), protocol.Report{Policy: current, Agent: protocol.Agent{Machine: "m1"}}); err == nil {
		t.Error("the first machine goes on")
	}

	// Retired: the next check-in gets a signed release.
	c, out = r.device("other", "m3")
	r.ok(200, "DELETE", "/devices/"+out.DeviceID, "")
	keys, _ := protocol.ParseKeys(out.PolicyKeys)
	if _, err := protocol.VerifyRelease(r.exchange(c, protocol.Report{}).Release, keys, out.DeviceID); err != nil {
		t.Error(err)
	}
}

// A replayed request changes nothing, and a foreign token opens nothing.
func TestReplay(t *testing.T) {
	r := start(t, Options{HTTP: true})
	c, out := r.device("laptop", "m")
	body, _ := json.Marshal(protocol.Report{Counter: 5, Epoch: "e", Events: []enforce.Event{{Seq: 1, Kind: "x"}}})
	path := "/api/v1/devices/" + out.DeviceID + "/checkin"
	token, err := c.Sign("POST", path, body)
	if err != nil {
		t.Fatal(err)
	}
	send := func(token string, body []byte) int {
		req, _ := http.NewRequest("POST", r.url+path, bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := r.http().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := send(token, body); got != 200 {
		t.Fatal(got)
	}
	if got := send(token, body); got != 409 {
		t.Errorf("a replay: %d", got)
	}
	if got := send(token, append(body, ' ')); got != 401 {
		t.Errorf("another body: %d", got)
	}
	if got := send(r.admin, body); got != 401 {
		t.Errorf("an administrator's token: %d", got)
	}
	if got, _ := r.call(token, "GET", "/policies", ""); got != 401 {
		t.Errorf("a device's token on the Policies API: %d", got)
	}
}

func TestSecretsAndListen(t *testing.T) {
	r := start(t, Options{HTTP: true})
	if _, err := LoadCA(r.dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"policy.key", "recovery.key", "admin.key", "codes.key", "ca.pem", "server.db"} {
		info, err := os.Stat(filepath.Join(r.dir, f))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info.Mode(), err)
		}
	}
	err := Serve(context.Background(), Options{Data: t.TempDir(), Listen: "0.0.0.0:0", HTTP: true, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "this machine alone") {
		t.Errorf("plain HTTP for all: %v", err)
	}
	// The same keys, policies and devices after a restart.
	id := r.ok(201, "POST", "/policies", `{"name":"kept","policy_data":{}}`)["id"].(string)
	r.stop()
	r.serve(Options{HTTP: true})
	r.ok(200, "GET", "/policies/"+id, "")
}

// A key file that is empty, as a power cut may leave it, is refused, and not used as a key that anybody has.
func TestEmptySecrets(t *testing.T) {
	for _, f := range []string{"policy.key", "admin.key", "codes.key"} {
		dir := t.TempDir()
		if _, err := LoadKeys(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, f), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKeys(dir); err == nil || !strings.Contains(err.Error(), f) {
			t.Errorf("%s is empty: %v", f, err)
		}
	}
}
