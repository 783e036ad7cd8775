package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/push"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

// served makes the test's own binary a server, for tests that kill one.
func served() bool {
	raw := os.Getenv("WARDER_TEST_SERVE")
	if raw == "" {
		return false
	}
	var o Options
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		panic(err)
	}
	o.Log = slog.New(slog.DiscardHandler)
	o.Ready = func(u string) { fmt.Println(u) }
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Serve(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// process is a server that can be killed.
type process struct {
	url string
	cmd *exec.Cmd
}

func spawn(t *testing.T, o Options) *process {
	t.Helper()
	o.HTTP, o.Interval = true, time.Minute
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	raw, _ := json.Marshal(struct {
		Data, Database, Listen string
		HTTP                   bool
		Interval, Spread       time.Duration
	}{o.Data, o.Database, o.Listen, o.HTTP, o.Interval, o.Spread})
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), "WARDER_TEST_SERVE="+string(raw))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	p.url = strings.TrimSpace(line)
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

func (p *process) end(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait()
}

// Killed at any moment, again and again, under load: what was acknowledged is there. The same after an orderly stop.
func TestKillServer(t *testing.T) {
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) {
			o := Options{Data: t.TempDir(), Spread: 100 * time.Millisecond}
			if database == "postgres" {
				o.Database = postgrestest.URL(t)
			}
			p := spawn(t, o)
			o.Listen = strings.TrimPrefix(p.url, "http://")
			keys, err := LoadKeys(o.Data)
			if err != nil {
				t.Fatal(err)
			}
			r := &rig{t: t, dir: o.Data, url: p.url, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
			r.admin, _ = keys.AdminToken("ann", "admin", time.Hour, time.Now())
			const devices = 8
			var acked [devices]atomic.Uint64
			var laptops []*laptop
			for i := range devices {
				l := r.laptop(fmt.Sprint("l", i))
				l.sync()
				laptops = append(laptops, l)
			}
			ctx, stop := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			for i, l := range laptops {
				wg.Go(func() {
					for ctx.Err() == nil {
						rep, from := l.rep, acked[i].Load()
						for n := range uint64(5) {
							rep.Events = append(rep.Events, enforce.Event{Seq: from + n + 1, At: time.Now(), Kind: enforce.Denied,
								Subject: "x"})
						}
						a, err := l.c.Exchange(ctx, rep)
						if err != nil {
							time.Sleep(20 * time.Millisecond)
							continue
						}
						acked[i].Store(max(acked[i].Load(), a.AckSeq))
					}
				})
			}
			var made []string
			for round := range 6 {
				time.Sleep(time.Duration(150+70*round) * time.Millisecond)
				made = append(made, r.policy(fmt.Sprint("round ", round), `"policy_data":{}`))
				sig := syscall.SIGKILL
				if round == 5 {
					sig = syscall.SIGTERM
				}
				p.end(sig)
				p = spawn(t, o)
			}
			time.Sleep(300 * time.Millisecond)
			stop()
			wg.Wait()
			total := uint64(0)
			for i, l := range laptops {
				have := map[float64]bool{}
				for _, e := range r.ok(200, "GET", "/devices/"+l.out.DeviceID+"/events?page_size=10000", "")["data"].([]any) {
					seq := num(e.(map[string]any), "seq")
					if have[seq] {
						t.Errorf("device %d: %v is there twice", i, seq)
					}
					have[seq] = true
				}
				for seq := uint64(1); seq <= acked[i].Load(); seq++ {
					if !have[float64(seq)] {
						t.Errorf("device %d: %d was acknowledged and is lost", i, seq)
					}
				}
				total += acked[i].Load()
			}
			if total < 200 {
				t.Errorf("only %d events were acknowledged: the test says little", total)
			}
			for _, id := range made {
				r.ok(200, "GET", "/policies/"+id, "")
			}
			t.Logf("%d events acknowledged over five kills and a stop, all there", total)
		})
	}
}

// Two nodes on one database: what one changes, the other knows, and its devices are nudged.
func TestTwoNodes(t *testing.T) {
	db := postgrestest.URL(t)
	one := start(t, Options{HTTP: true, Database: db})
	two := &rig{t: t, dir: t.TempDir(), database: db, admin: one.admin, view: one.view}
	// A node with keys of its own is refused: devices would not trust it.
	err := Serve(context.Background(), Options{Data: t.TempDir(), Database: db, Listen: "127.0.0.1:0", HTTP: true,
		Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "copy the key files") {
		t.Fatalf("a node with other keys: %v", err)
	}
	for _, k := range keyFiles {
		if b, err := os.ReadFile(filepath.Join(one.dir, k)); err == nil {
			if err := os.WriteFile(filepath.Join(two.dir, k), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	two.serve(Options{HTTP: true})
	l := one.laptop("l")
	l.sync()
	// The device is connected to the second node; the change is made on the first.
	c, err := checkin.NewClient(checkin.Server{URL: two.url}, l.out.DeviceID, l.c.Key, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	l.c = c
	l.sync()
	nudged, up := make(chan protocol.Nudge, 10), make(chan bool, 10)
	s := &push.Socket{URL: two.url, Device: l.out.DeviceID, HTTP: c.HTTPClient(), Sign: c.Sign,
		Nudged: func(n protocol.Nudge) { nudged <- n }, Up: func(b bool) { up <- b }}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.Run(ctx)
	if !<-up {
		t.Fatal("the socket did not come up")
	}
	began := time.Now()
	one.ok(200, "PUT", "/policies/policy-default", `{"policy_data":{"usb":{"allowed":true}}}`)
	select {
	case <-nudged:
		t.Logf("nudged through the other node after %s", time.Since(began))
	case <-time.After(30 * time.Second):
		t.Fatal("no nudge")
	}
	if v := l.sync().Version; v != 2 {
		t.Errorf("version %d from the second node", v)
	}
	// Retired on one, released by the other.
	one.ok(200, "DELETE", "/devices/"+l.out.DeviceID, "")
	<-nudged
	a, err := l.c.Exchange(ctx, l.rep)
	if err != nil || a.Release == "" {
		t.Errorf("%+v %v", a, err)
	}
	// A report through either node is not asked for again by the other.
	m := one.laptop("m")
	m.sync()
	m.says(enforce.Compliant)
	c2, _ := checkin.NewClient(checkin.Server{URL: two.url}, m.out.DeviceID, m.c.Key, time.Now)
	m.c = c2
	if m.sync(); len(m.last.Request) > 0 {
		t.Errorf("asked for %v", m.last.Request)
	}
	m.says(enforce.Noncompliant)
	c3, _ := checkin.NewClient(checkin.Server{URL: one.url}, m.out.DeviceID, m.c.Key, time.Now)
	m.c = c3
	if m.sync(); len(m.last.Request) > 0 {
		t.Errorf("asked for %v", m.last.Request)
	}
	// Both nodes count what is reported through one of them: findings, a last report, or a device's first report; and
	// also what an older node writes, which does not know about this.
	agrees := func(what string, r *rig, field string, want float64) {
		t.Helper()
		began := time.Now()
		for {
			got := num(r.ok(200, "GET", "/compliance", ""), field)
			if got == want {
				t.Logf("%s: the other node knows after %s", what, time.Since(began).Round(time.Millisecond))
				return
			}
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%s: %v %s, want %v", what, got, field, want)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	agrees("findings", one, "noncompliant", 1)
	agrees("findings", two, "noncompliant", 1)
	m.says(enforce.Compliant)
	agrees("better findings", two, "noncompliant", 0)
	agrees("better findings", two, "compliant", 1)
	raw, err := sql.Open("pgx", db)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Exec(`UPDATE reports SET rollup = 'noncompliant', counter = counter + 1 WHERE rollup = 'compliant'`); err != nil {
		t.Fatal(err)
	}
	agrees("an older node's", one, "noncompliant", 1)
	agrees("an older node's", two, "noncompliant", 1)
	two.ok(200, "PATCH", "/devices/"+m.out.DeviceID, `{"tags":["moved"]}`)
	for range 600 {
		if num(one.ok(200, "GET", "/devices?tag=moved", ""), "total") == 1 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("a tag that was set through the other node is not found")
}

// A backup taken while devices come and go is restored elsewhere, on either database, and the fleet accepts the
// restored server as the one it knows.
func TestBackup(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		l := r.laptop("l")
		l.rep.Events = []enforce.Event{{Seq: 1, Kind: enforce.Denied}, {Seq: 2, Kind: enforce.Denied}}
		l.sync()
		id := r.policy("kept", `"policy_data":{"usb":{"allowed":true}}`)
		to := filepath.Join(t.TempDir(), "b.tar.gz")
		if err := Backup(context.Background(), r.dir, r.database, to, time.Now()); err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(to); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		if err := Backup(context.Background(), r.dir, r.database, to, time.Now()); !errors.Is(err, os.ErrExist) {
			t.Errorf("a backup over a backup: %v", err)
		}
		// Changes after the backup are lost: the device is ahead of the restored server.
		for range 3 {
			r.ok(200, "PUT", "/policies/policy-default", `{"description":"`+time.Now().String()+`"}`)
			l.sync()
		}
		ahead := l.rep.Policy.Serial
		r.stop()
		for name, database := range map[string]string{"sqlite": "", "postgres": postgrestest.URL(t)} {
			dir := filepath.Join(t.TempDir(), "restored")
			if err := Restore(context.Background(), dir, database, to); err != nil {
				t.Fatalf("to %s: %v", name, err)
			}
			if err := Restore(context.Background(), dir, database, to); err == nil {
				t.Error("restored over a server")
			}
			back := &rig{t: t, dir: dir, database: database, admin: r.admin, view: r.view}
			back.serve(Options{HTTP: true})
			back.ok(200, "GET", "/policies/"+id, "") // the administrator's token is valid, too
			c, err := checkin.NewClient(checkin.Server{URL: back.url}, l.out.DeviceID, l.c.Key, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			again := *l
			again.r, again.c = back, c
			now := again.sync()
			if now.Serial <= ahead || now.Version != 1 {
				t.Errorf("to %s: serial %d after %d, version %d", name, now.Serial, ahead, now.Version)
			}
			if got := back.ok(200, "GET", "/devices/"+l.out.DeviceID+"/events", "")["data"].([]any); len(got) != 2 {
				t.Errorf("to %s: %d events", name, len(got))
			}
			fresh := back.laptop("new one")
			fresh.sync()
			back.stop()
		}
		// A truncated backup, or one with a flipped bit, restores nothing and leaves nothing.
		b, _ := os.ReadFile(to)
		bad := map[string][]byte{"half": b[:len(b)/2], "without its end": b[:len(b)-4], "empty": {}}
		for i := range 40 {
			x := slices.Clone(b)
			x[20+(len(x)-20)*i/40] ^= 1 << (i % 8)
			if bytes.Equal(unzipped(x), unzipped(b)) {
				continue // it fell into the padding of the compression: nothing is changed
			}
			bad[fmt.Sprint("a bit, ", i)] = x
		}
		for name, x := range bad {
			cut := filepath.Join(t.TempDir(), "cut.tar.gz")
			if err := os.WriteFile(cut, x, 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "x")
			if err := Restore(context.Background(), dir, "", cut); err == nil {
				t.Errorf("%s: restored", name)
			}
			if list, _ := os.ReadDir(dir); len(list) > 0 {
				t.Errorf("%s: left %v", name, list)
			}
		}
	})
}

func unzipped(b []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(z)
	if err != nil {
		return nil
	}
	return out
}

// A stop tells the sockets when to come back, answers requests in progress, and writes what it knows.
func TestGracefulStop(t *testing.T) {
	r := start(t, Options{HTTP: true, Spread: 300 * time.Millisecond})
	l := r.laptop("l")
	l.sync()
	up := make(chan bool, 10)
	s := &push.Socket{URL: r.url, Device: l.out.DeviceID, HTTP: l.c.HTTPClient(), Sign: l.c.Sign, Nudged: func(protocol.Nudge) {},
		Up: func(b bool) { up <- b }}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.Run(ctx)
	if !<-up {
		t.Fatal("no socket")
	}
	l.sync() // without news: only its time is left to write
	began := time.Now()
	r.stop()
	if <-up {
		t.Error("the socket is not told")
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("stopping took %s", took)
	} else {
		t.Logf("stopping took %s", took)
	}
	r.serve(Options{HTTP: true})
	if d := r.ok(200, "GET", "/devices/"+l.out.DeviceID, ""); d["last_sync"] == nil {
		t.Error("the last check-in was not written")
	}
}

// Beyond its limits the server says so, and when to come again.
func TestLimits(t *testing.T) {
	r := start(t, Options{HTTP: true, MaxInFlight: 1, MaxSockets: 1})
	l := r.laptop("l")
	l.sync()
	// A request that waits for the database has the only place; one whose body does not arrive has none.
	path := "/api/v1/devices/" + l.out.DeviceID + "/checkin"
	token, _ := l.c.Sign("POST", path, []byte("{}"))
	slow, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprintf(slow, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 2\r\n\r\n", path, token)
	time.Sleep(100 * time.Millisecond)
	r.ok(200, "GET", "/policies", "")
	db, err := sql.Open("sqlite", "file:"+filepath.Join(r.dir, "server.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	made := make(chan int, 1)
	go func() {
		st := 503
		for st == 503 { // one of the questions below was there first
			req, _ := http.NewRequest("POST", r.url+"/api/v1/policies", strings.NewReader(`{"name":"waits","policy_data":{}}`))
			req.Header.Set("Authorization", "Bearer "+r.admin)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				st = 0
				break
			}
			_ = res.Body.Close()
			st = res.StatusCode
		}
		made <- st
	}()
	var st int
	for range 3000 {
		if st, _ = r.call(r.admin, "GET", "/policies", ""); st == 503 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st != 503 || r.answer.Get("Retry-After") == "" {
		t.Errorf("%d %v", st, r.answer)
	}
	_ = tx.Rollback()
	if st := <-made; st != 201 {
		t.Errorf("the one that waited: %d", st)
	}
	r.ok(200, "GET", "/policies", "")
	// A socket does not take a place, and each device has at most one.
	up := make(chan bool, 10)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &push.Socket{URL: r.url, Device: l.out.DeviceID, HTTP: l.c.HTTPClient(), Sign: l.c.Sign, Nudged: func(protocol.Nudge) {},
		Up: func(b bool) { up <- b }}
	go s.Run(ctx)
	<-up
	for range 3000 { // the device hears that it is up a moment before the server is done with the request
		if st, _ = r.call(r.admin, "GET", "/policies", ""); st == 200 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st != 200 {
		t.Errorf("beside a socket: %d", st)
	}
	m := r.laptop("m")
	token, _ = m.c.Sign("GET", "/api/v1/devices/"+m.out.DeviceID+"/push", nil)
	if st, _ := r.call(token, "GET", "/devices/"+m.out.DeviceID+"/push", ""); st != 503 {
		t.Errorf("a second socket: %d", st)
	}
}

// One server per directory; a typing error does not create a second fleet; an empty file is not taken for a new one.
func TestDirectory(t *testing.T) {
	r := start(t, Options{HTTP: true})
	err := Serve(context.Background(), Options{Data: r.dir, Listen: "127.0.0.1:0", HTTP: true, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "another warder-server") {
		t.Errorf("two servers: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "server.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(context.Background(), dir, "", time.Now()); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty database: %v", err)
	}
	if _, err := OpenStore(context.Background(), dir, "mysql://x", time.Now()); err == nil {
		t.Error("a database of another kind")
	}
	if _, err := OpenStore(context.Background(), dir, "postgres://u:hunter2@127.0.0.1:1/x", time.Now()); err == nil ||
		strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the password is in the error: %v", err)
	}
}

// What an operator looks at.
func TestOperational(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		r.laptop("l").sync()
		for path, want := range map[string]string{"/healthz": `"ok":true`, "/readyz": `"ready":true`,
			"/metrics": `warder_checkins_total{news="true"}`, "/docs": "List policies", "/openapi.json": `"openapi":"3.1.0"`} {
			res, err := http.Get(r.url + path)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != 200 || !strings.Contains(string(b), want) {
				t.Errorf("%s: %d, no %s", path, res.StatusCode, want)
			}
			if path == "/docs" && (strings.Contains(string(b), "https://") || strings.Contains(string(b), "<script")) {
				t.Error("the page needs something from elsewhere")
			}
		}
	})
}
