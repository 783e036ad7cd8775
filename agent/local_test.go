//go:build linux

package agent

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warderd/warder/agent/dbfile"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/protocol"
)

// TestMain makes this program run as another user, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "slow-reader" {
		slowReader(os.Args[2])
	}
	os.Exit(m.Run())
}

// slowReader asks for all events over eight connections, as a user, and never reads.
func slowReader(socket string) {
	if err := syscall.Setuid(65534); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var keep []net.Conn
	for range 8 {
		c, err := net.Dial("unix", socket)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_, _ = io.WriteString(c, "GET /v1/events?last=10000 HTTP/1.1\r\nHost: warder\r\n\r\n")
		keep = append(keep, c)
	}
	fmt.Println("asked", len(keep))
	time.Sleep(time.Hour)
}

// cannot: a test that cannot run says why; with CI=true that is a failure.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// fill puts events into the store of an agent that does not run.
func fill(t *testing.T, l *lab, n int) {
	t.Helper()
	db, err := sql.Open("sqlite", dbfile.DSN(filepath.Join(l.dir, "agent", "store.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	facts, _ := json.Marshal(strings.Repeat("x", 4000))
	for i := range n {
		body, _ := json.Marshal(enforce.Event{At: time.Now(), Kind: enforce.Denied, Setting: "usb.allowed", Mode: enforce.Enforce,
			Subject: fmt.Sprint("usb 1-1 event ", i), Facts: enforce.Facts(facts), Users: []uint32{65534}})
		if _, err := tx.Exec(`INSERT INTO events (at, acked, setting, kind, body) VALUES (?, 1, 'usb.allowed', 'denied', ?)`,
			time.Now().UnixMilli(), string(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// A user who asks for everything and reads nothing costs the agent next to nothing, and does not delay root.
func TestSlowReaders(t *testing.T) {
	if os.Getuid() != 0 {
		cannot(t, "only root can ask as another user")
	}
	l := newLab(t)
	l.start()
	l.enroll()
	l.stop()
	fill(t, l, 3000)
	l.start()
	// The socket's directory is a test's, which others may not enter.
	for d := l.dir; d != filepath.Clean(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	_ = os.Chmod(l.dir+"/agent", 0o755)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	cmd := exec.Command(os.Args[0], "slow-reader", l.agent.o.Paths.Socket())
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line := make([]byte, 64)
	n, _ := out.Read(line)
	if string(line[:n]) != "asked 8\n" {
		t.Fatalf("%q", line[:n])
	}
	most := uint64(0)
	slowest := time.Duration(0)
	for begun := time.Now(); time.Since(begun) < 4*time.Second; {
		runtime.ReadMemStats(&after)
		most = max(most, after.HeapAlloc)
		asked := time.Now()
		l.status()
		slowest = max(slowest, time.Since(asked))
		time.Sleep(20 * time.Millisecond)
	}
	grown := int64(most) - int64(before.HeapAlloc)
	t.Logf("root's status took at most %s; the heap grew by %d MiB at most", slowest.Round(time.Millisecond), grown>>20)
	if grown > 30<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if slowest > 30*time.Second {
		t.Errorf("root waited %s for the status", slowest)
	}
	// Root reads everything nevertheless, in order.
	var events []enforce.Event
	if err := l.api.Do(context.Background(), "GET", "/v1/events?last=10000", nil, &events); err != nil || len(events) < 3000 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i := 1; i < len(events); i++ {
		if events[i].Seq != events[i-1].Seq+1 {
			t.Fatalf("event %d comes after %d", events[i].Seq, events[i-1].Seq)
		}
	}
}

// What is plugged in is shown to root and to those who were at the machine then; others see no serials.
func TestWhoSeesWhatIsPluggedIn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.sits(1000)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	s := l.until("enforced", version(2))
	l.until("journalled", func(Status) bool {
		list, _ := l.agent.store.Events(0, -100)
		return len(list) > 0
	})
	l.admin("POST", "/devices/"+s.DeviceID+"/exceptions", `{"usb":"46f4:0001:SN1","minutes":60,"reason":"slides"}`)
	l.until("excepted", func(s Status) bool { return len(s.Exceptions) == 1 })
	count := func(c caller) (n int) {
		err := l.agent.getEvents(context.Background(), c, &http.Request{URL: mustURL("/v1/events?last=100")}, func(v any) error {
			if v.(*enforce.Event).Mode != enforce.Monitor { // that is root's alone
				n++
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	// Events may still arrive during the count.
	seesAll := func(uid string) {
		t.Helper()
		l.until("user "+uid+" sees what root sees", func(Status) bool {
			n := count(caller{UID: uid})
			return n >= 2 && n == count(caller{Root: true})
		})
	}
	seesAll("1000")
	for _, uid := range []string{"1001", "", "65534", "-1"} {
		if n := count(caller{UID: uid}); n != 0 {
			t.Errorf("user %q sees %d events", uid, n)
		}
	}
	l.until("the stick is in use", func(Status) bool { return firstLine(l.sys+"/bus/usb/devices/1-1/authorized") == "1" })
	seesAll("1000")
	l.sits(1001) // the next user at the machine does not see earlier events
	before := count(caller{Root: true})
	if n := count(caller{UID: "1001"}); n > count(caller{Root: true})-before {
		t.Errorf("who came later sees %d events from before", n)
	}
	if n := count(caller{UID: "1000"}); n < 2 {
		t.Errorf("who was there sees %d events afterwards", n)
	}
	port := `{"port":"1-1"}`
	if _, err := l.agent.explain(context.Background(), caller{UID: "1000"}, aboutUSB(port)); err == nil ||
		!strings.Contains(err.Error(), "who sits at the machine") {
		t.Errorf("another user may ask about a port: %v", err)
	}
	if _, err := l.agent.explain(context.Background(), caller{UID: "1001"}, aboutUSB(port)); err != nil {
		t.Errorf("who sits at the machine may not ask about a port: %v", err)
	}
	for _, c := range []caller{{UID: "1000"}, {UID: "65534"}} {
		if text := string(encode(l.agent.status(l.agent.viewOf(c)))); strings.Contains(text, "SN1") {
			t.Errorf("the status shows a serial to user %s: %s", c.UID, text)
		}
	}
	if text := string(encode(l.agent.status(l.agent.viewOf(caller{UID: "1001"})))); !strings.Contains(text, "SN1") {
		t.Errorf("the status hides the exception from who sits here: %s", text)
	}
	// Nor does a question tell a stranger which stick has an exception.
	for uid, told := range map[string]bool{"65534": false, "1001": true} {
		a, err := l.agent.explain(context.Background(), caller{UID: uid},
			aboutUSB(`{"vendor":18164,"product":1,"serial":"SN1","classes":[8]}`))
		if err != nil || strings.Contains(a.Reason, "an exception") != told {
			t.Errorf("user %s: %+v %v", uid, a, err)
		}
	}
	// The doctor contacts the server now and then, however often it is asked.
	asked := 0
	l.in(func(a *Agent) {
		a.o.Reach = func(context.Context, string, string, bool) error { asked++; return nil }
	})
	for range 50 {
		if err := l.api.Do(context.Background(), "GET", "/v1/doctor", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("the server was asked %d times", asked)
	}
	flat, err := os.ReadFile(filepath.Join(l.agent.o.Paths.Run, flatName))
	if err != nil || strings.Contains(string(flat), "SN1") {
		t.Errorf("the flat status shows a serial: %s %v", flat, err)
	}
	// The server does not learn who was at the machine.
	b, _ := json.Marshal(l.admin("GET", "/devices/"+s.DeviceID+"/events", ""))
	if strings.Contains(string(b), `"users"`) {
		t.Errorf("the server is told: %s", b)
	}
}

// One user's attempts do not keep others from redeeming a code.
func TestJunkCodes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	s := l.until("enforced", version(2))
	code := l.admin("POST", "/devices/"+s.DeviceID+"/exceptions",
		`{"usb":"46f4:0001:SN1","minutes":5,"reason":"x","offline":true}`)["code"].(string)
	l.in(func(a *Agent) {
		for i := range 100 {
			if _, err := a.redeem("1000", ExceptionRequest{Code: "junk"}); err == nil {
				t.Error("junk is taken")
			}
			_, _ = a.redeem(fmt.Sprint(2000+i), ExceptionRequest{Code: "junk"})
		}
		at := time.Now().Add(time.Hour)
		if a.exceptions.paused("1000", at) || !a.exceptions.paused("1000", at.Add(codePause/2)) || a.exceptions.paused("1001", at) ||
			a.exceptions.paused("1000", at.Add(2*codePause)) {
			t.Error("the pause is not each user's own")
		}
		if _, err := a.redeem("0", ExceptionRequest{Code: code}); err != nil {
			t.Errorf("root's code: %v", err)
		}
	})
	l.reads("0", "1")
}

// A proxy's password is never shown, and an unusable proxy leaves the last good configuration in use, also over a
// restart.
func TestProxy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	proxied := make(chan string, 100)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		select {
		case proxied <- q.Header.Get("Proxy-Authorization"):
		default:
		}
		http.Error(w, "no", http.StatusBadGateway)
	})}
	go func() { _ = proxy.Serve(listener) }()
	defer proxy.Close()
	config := l.agent.o.Paths.ConfigFile()
	good := fmt.Sprintf("proxy = \"http://ann:hunter2@%s\"\n", listener.Addr())
	write(t, config, good)
	l.in(func(a *Agent) { a.o.Log.Debug("waiting") })
	uses := func(what string) {
		t.Helper()
		for len(proxied) > 0 {
			<-proxied
		}
		l.in(func(a *Agent) { a.contact.notYet = time.Time{}; a.checkIn() })
		select {
		case auth := <-proxied:
			if auth == "" {
				t.Errorf("%s: the proxy is used without its password", what)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: the proxy is not used", what)
		}
	}
	l.until("configured", func(Status) bool { l.agent.mu.Lock(); defer l.agent.mu.Unlock(); return l.agent.config.Proxy != "" })
	uses("configured")
	for _, bad := range []string{"proxy = \"http://ann:hunter2 @p:1\"\n", "proxy = \"ftp://ann:hunter2@p\"\n",
		"proxy = \"http://ann:hunter2\n"} {
		write(t, config, bad)
		s := l.until("said", func(s Status) bool { return strings.Contains(said(s), "last good configuration") })
		if text := string(encode(s)); strings.Contains(text, "hunter2") {
			t.Errorf("the status shows the password: %s", text)
		}
		uses(bad)
	}
	l.stop()
	l.start()
	l.until("said after a restart", func(s Status) bool { return strings.Contains(said(s), "last good configuration") })
	uses("after a restart")
	l.agent.health.set(partStopped, "Get: proxyconnect: http://ann:hunter2@p:1 is broken")
	var told protocol.Facts
	l.in(func(a *Agent) { told, _ = a.facts() })
	facts := string(encode(told))
	flat, _ := os.ReadFile(filepath.Join(l.agent.o.Paths.Run, flatName))
	for _, text := range []string{facts, string(flat), string(encode(l.agent.status(everything))),
		string(encode(l.agent.bundle(context.Background()))), fmt.Sprintf("%+v", l.agent.config)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("shown: %s", text)
		}
	}
	if info, err := os.Stat(l.agent.o.Paths.Kept); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the remembered configuration: %v %v", info, err)
	}
}

// A socket that is still open elsewhere, for example in an agent that was killed and is stuck in the kernel, does not
// prevent the next agent: the process lock alone decides who is the agent.
func TestSocketOfTheStuck(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := l.dir + "/agent/run/warder.sock"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l.start()
	if s := l.status(); s.Agent != "running" {
		t.Errorf("%+v", s)
	}
}

// A server that answers an enrollment with lies is refused.
func TestPlausibleEnrollment(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := protocol.EnrollResponse{DeviceID: "device-ABC_1", ServerTime: now, Recovery: uint64(now.Unix())}
	if err := plausible(good); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func(*protocol.EnrollResponse){
		"an id with escapes":   func(r *protocol.EnrollResponse) { r.DeviceID = "device-\x1b[31m" },
		"an id that is a path": func(r *protocol.EnrollResponse) { r.DeviceID = "../x" },
		"a long id":            func(r *protocol.EnrollResponse) { r.DeviceID = strings.Repeat("x", 65) },
		"the year 9999":        func(r *protocol.EnrollResponse) { r.ServerTime = now.AddDate(7000, 0, 0) },
		"no time":              func(r *protocol.EnrollResponse) { r.ServerTime = time.Time{} },
		"the highest counter":  func(r *protocol.EnrollResponse) { r.Recovery = 1<<64 - 1 },
	} {
		r := good
		f(&r)
		if plausible(r) == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}
