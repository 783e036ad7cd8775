package printing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/OpenPrinting/goipp"
	"github.com/fsnotify/fsnotify"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// cups starts a spooler of its own, whose printers (keep:PATH) are files.
func cups(t *testing.T) (q *Queues, run func(command string) string, end func()) {
	t.Helper()
	if _, err := exec.LookPath("cupsd"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("cupsd is not installed")
		}
		t.Skip("cupsd is not installed")
	}
	dir, err := os.MkdirTemp("/tmp", "cups") // the way to a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, d := range []string{"etc", "spool", "cache", "state", "log", "bin", "bin/backend", "usb"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := fmt.Sprintf("SystemGroup root\nServerRoot %[1]s/etc\nRequestRoot %[1]s/spool\nCacheDir %[1]s/cache\nStateDir %[1]s/state\nErrorLog %[1]s/log/error\n"+
		"AccessLog %[1]s/log/access\nPageLog %[1]s/log/page\nServerBin %[1]s/bin\n", dir)
	conf := fmt.Sprintf("Listen %s/cups.sock\nDirtyCleanInterval 1\nBrowsing Off\nWebInterface No\nDefaultAuthType Basic\n<Location />\nOrder allow,deny\nAllow all\n</Location>\n<Policy default>\n"+
		"<Limit All>\nAuthType Default\nRequire user @SYSTEM\nOrder deny,allow\n</Limit>\n</Policy>\n", dir)
	for name, text := range map[string]string{"cups-files.conf": files, "cupsd.conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A printer of our own, which keeps what it prints: file:PATH needs filters that the daemon's package does not have.
	if err := os.WriteFile(dir+"/bin/backend/keep", []byte("#!/bin/sh\ncat ${6:+\"$6\"} >>\"${DEVICE_URI#keep:}\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"daemon", "notifier"} {
		if err := os.Symlink("/usr/lib/cups/"+d, dir+"/bin/"+d); err != nil {
			t.Fatal(err)
		}
	}
	daemon := exec.Command("cupsd", "-f", "-c", dir+"/etc/cupsd.conf", "-s", dir+"/etc/cups-files.conf")
	var said bytes.Buffer
	daemon.Stderr = &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	end = func() { _ = daemon.Process.Signal(syscall.SIGTERM); _ = daemon.Wait() }
	q = &Queues{gate: func(enforce.Change) error { return nil }, spooler: newSpooler(dir + "/cups.sock"), proc: "/proc", spool: dir + "/spool", config: dir + "/etc", log: slog.New(slog.DiscardHandler), started: make(chan struct{}, 1), daemons: []string{"/usr/sbin/cupsd"}, usb: dir + "/usb"}
	for range 300 {
		if _, _, err = q.spooler.queues(t.Context()); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("the spooler does not start: %v\n%s", err, said.String())
	}
	return q, func(command string) string {
		t.Helper()
		c := exec.Command("sh", "-c", command)
		c.Dir, c.Env = dir, append(os.Environ(), "CUPS_SERVER="+dir+"/cups.sock", "LC_ALL=C")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}, end
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 300 {
		if is() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: it did not come to that", what)
}

// A closed queue takes no job, what waits in it is printed once it is open again, and nothing is lost.
func TestClose(t *testing.T) {
	t.Parallel()
	q, run, _ := cups(t)
	if list, err := q.List(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("an empty spooler: %v %v", list, err)
	}
	run("lpadmin -p one -E -v keep:$PWD/printed -m raw; lpadmin -p two -E -v keep:$PWD/two -m raw; cupsdisable two; echo waits | lp -d two -")
	is := func(name, value string) {
		t.Helper()
		list, err := q.List(t.Context())
		if got := list[enforce.Key{Kind: kind, ID: name}]; err != nil || !got.Is(enforce.Value(value)) {
			t.Errorf("%s is %v, want %q (%v)", name, got, value, err)
		}
	}
	to := func(name, value string) {
		t.Helper()
		key := enforce.Key{Kind: kind, ID: name}
		if errs := q.Apply(t.Context(), []enforce.Change{{Key: key, To: enforce.Reading{State: enforce.Present, Value: enforce.Value(value)}}}); len(errs) != 0 {
			t.Fatal(errs)
		}
		is(name, value)
	}
	is("one", fact.QueueOpen)
	is("two", fact.QueueWaiting)
	var m fact.Machine
	if err := q.Observe(t.Context(), &m); err != nil || !m.Printing.OK || len(m.Printing.V.Queues) != 2 || m.Printing.V.Queues[1].Jobs != 1 || m.Printing.V.Queues[0].Device != "keep" {
		t.Errorf("%+v %v", m.Printing, err)
	}
	to("one", fact.QueueClosed)
	to("two", fact.QueueClosed)
	if out := run("echo no | lp -d one - 2>&1 || true"); !strings.Contains(out, "not accepting") {
		t.Errorf("lp says %q", out)
	}
	if out := run("lpstat -a one"); !strings.Contains(out, "Your organization does not allow printing") {
		t.Errorf("lpstat does not say why: %q", out)
	}
	to("two", fact.QueueWaiting)
	if out := run("lpstat -l -p two"); strings.Contains(out, "organization") || !strings.Contains(out, "Paused") {
		t.Errorf("it does not say what it said: %q", out)
	}
	if out := run("lpstat -o two; test ! -e two && echo nothing"); !strings.Contains(out, "two-") || !strings.Contains(out, "nothing") {
		t.Errorf("what waited: %q", out)
	}
	to("two", fact.QueueOpen)
	eventually(t, "what waited is printed", func() bool {
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(q.spool), "two"))
		return string(b) == "waits\n"
	})
	to("one", fact.QueueEnding)
	to("one", fact.QueueOpen)
	run("echo yes | lp -d one -")
	eventually(t, "it prints again", func() bool {
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(q.spool), "printed"))
		return string(b) == "yes\n"
	})
	if errs := q.Apply(t.Context(), []enforce.Change{{Key: enforce.Key{Kind: kind, ID: "none"}, To: enforce.Reading{State: enforce.Present, Value: fact.QueueClosed}}}); len(errs) != 1 {
		t.Error("a queue that is not there was closed")
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	platformtest.Conformance(t, func(t *testing.T) platformtest.Subject {
		q, run, _ := cups(t)
		gate := &platformtest.Gate{}
		q.gate = gate.Pass
		q.asked.Store(true)
		run("lpadmin -p one -E -v keep:one -m raw")
		return platformtest.Subject{Backend: q, Key: enforce.Key{Kind: kind, ID: "one"}, Other: fact.QueueClosed, Gate: gate, Elsewhere: func(*testing.T, enforce.Value) {
			run("cupsreject one; cupsdisable one; cupsaccept one")
		}}
	})
}

// Queues are closed whatever they are called, one that others have closed is told from one that we have, and a spooler that is
// stopped does not make us forget which.
func TestNamesOfQueues(t *testing.T) {
	t.Parallel()
	q, run, end := cups(t)
	names := []string{"Büro", "50%25", "<x>", "shut"}
	for _, name := range names {
		if out, err := exec.Command("lpadmin", "-h", q.spooler.socket, "-p", name, "-E", "-v", "keep:x", "-m", "raw").CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", name, err, out)
		}
	}
	run("cupsreject shut; cupsdisable shut; lpadmin -p in -E -v keep:in -m raw; lpadmin -p in -c all; cupsaccept all; cupsenable all")
	names = append(names, "in", "all")
	list, err := q.List(t.Context())
	if err != nil || len(list) != len(names) || !list[enforce.Key{Kind: kind, ID: "shut"}].Is(fact.QueueShut) {
		t.Fatalf("%v %v", list, err)
	}
	closed := enforce.Reading{State: enforce.Present, Value: fact.QueueClosed}
	var changes []enforce.Change
	for _, name := range names {
		changes = append(changes, enforce.Change{Key: enforce.Key{Kind: kind, ID: name}, To: closed})
	}
	if errs := q.Apply(t.Context(), changes); len(errs) != 0 {
		t.Fatal(errs)
	}
	all := func() {
		t.Helper()
		list, err := q.List(t.Context())
		for _, name := range names {
			if r := list[enforce.Key{Kind: kind, ID: name}]; err != nil || !r.Is(fact.QueueClosed) {
				t.Errorf("%s is %v (%v)", name, r, err)
			}
		}
	}
	all()
	end()
	q.proc = t.TempDir() // nothing runs, and there is no socket
	if _, err := os.Stat(q.spooler.socket); err == nil {
		t.Error("its socket is left")
	}
	all()
	for key, err := range q.Apply(t.Context(), changes) { // it cannot be asked: none of it is done
		if !errors.Is(err, errNoSpooler) {
			t.Errorf("%s: %v", key, err)
		}
	}
	q.daemons = nil // removed
	if list, err := q.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

// Of a spooler that runs and does not answer it is not known what its queues do, whatever it has saved; and nobody waits long.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "cups")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", dir+"/cups.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(dir+"/printers.conf", []byte("<Printer one>\nState Stopped\nAccepting No\n</Printer>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	q := &Queues{gate: func(enforce.Change) error { return nil }, spooler: newSpooler(dir + "/cups.sock"), proc: "/none", config: dir, usb: dir, daemons: []string{"/bin/sh"}}
	var m fact.Machine
	if err := q.Observe(t.Context(), &m); err != nil || m.Printing.OK || !strings.Contains(m.Printing.Why, "does not answer") {
		t.Errorf("%+v %v", m.Printing, err)
	}
	var changes []enforce.Change
	for i := range 20 {
		changes = append(changes, enforce.Change{Key: enforce.Key{Kind: kind, ID: fmt.Sprint(i)}, To: enforce.Reading{State: enforce.Present, Value: fact.QueueClosed}})
	}
	begun := time.Now()
	if errs := q.Apply(t.Context(), changes); len(errs) != len(changes) {
		t.Errorf("%d errors", len(errs))
	}
	if d := time.Since(begun); d > 3*patience {
		t.Errorf("it took %s", d)
	}
}

// A job and a queue that others add are noticed; what we do ourselves is not.
func TestWatch(t *testing.T) {
	t.Parallel()
	q, run, _ := cups(t)
	run("lpadmin -p one -E -v keep:$PWD/printed -m raw")
	if _, err := q.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- q.Watch(ctx, func(platform.Touch) { told <- struct{}{} }) }()
	q.asked.Store(true)
	time.Sleep(200 * time.Millisecond)
	run("lpadmin -p new -E -v keep:$PWD/new -m raw; echo x | lp -d new -")
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Error("a job of a new queue is not noticed")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A spooler that does not tell is asked: a new queue is noticed within seconds, and it is said why that takes so long.
func TestUnheard(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	q, run, _ := cups(t)
	q.refuses.Store(true)
	g := newGuard(q)
	looks := make(chan struct{}, 1000)
	g.Listen(nil, func(bool) { looks <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	wait := func(what string) {
		t.Helper()
		select {
		case <-looks:
		case <-time.After(30 * time.Second):
			t.Fatal(what, " is not noticed")
		}
	}
	unheard := func() string {
		t.Helper()
		var m fact.Machine
		if err := q.Observe(t.Context(), &m); err != nil || !m.Printing.OK {
			t.Fatal(m.Printing, err)
		}
		return m.Printing.V.Unheard
	}
	wait("that it does not tell")
	if unheard() == "" {
		t.Error("that it does not tell is not said")
	}
	begun := time.Now()
	run("lpadmin -p new -E -v keep:$PWD/new -m raw")
	wait("a new queue")
	t.Log("noticed after", time.Since(begun).Round(time.Millisecond))
	// Nothing is asked, and nothing said, once printing is allowed.
	q.refuses.Store(false)
	if err := g.Load(nil); err != nil {
		t.Fatal(err)
	}
	for unheard() != "" && time.Since(begun) < time.Minute {
		time.Sleep(50 * time.Millisecond)
	}
	if why := unheard(); why != "" {
		t.Errorf("with printing allowed: %s", why)
	}
	for len(looks) > 0 {
		<-looks
	}
	run("lpadmin -p more -E -v keep:$PWD/more -m raw")
	time.Sleep(unheardRest + time.Second)
	if len(looks) > 0 {
		t.Error("it is asked with printing allowed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A spooler that does not run is not started: what it has saved is what it will have.
func TestSaved(t *testing.T) {
	t.Parallel()
	q, run, end := cups(t)
	run("lpadmin -p one -E -v keep:$PWD/printed -m raw; lpadmin -p two -E -v keep:$PWD/two -m raw; cupsdisable two; lpadmin -p three -v keep:$PWD/three -m raw; lpadmin -p one -c all; cupsaccept all; cupsenable all")
	asked, _, err := q.spooler.queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end()
	saved, odd, err := q.saved()
	if err != nil || odd != 0 {
		t.Fatal(odd, err)
	}
	values := func(list []fact.Queue) map[string]string {
		out := map[string]string{}
		for i := range list {
			out[list[i].Name] = list[i].Value()
		}
		return out
	}
	if a, b := values(asked), values(saved); !maps.Equal(a, b) || len(a) != 4 {
		t.Errorf("it says %v and has saved %v", a, b)
	}
	l, err := net.Listen("unix", q.spooler.socket) // as systemd does for it
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	q.proc = t.TempDir() // nothing runs
	if list, err := q.List(t.Context()); err != nil || len(list) != 4 {
		t.Errorf("%v %v", list, err)
	}
	_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(100 * time.Millisecond))
	if c, err := l.Accept(); err == nil {
		c.Close()
		t.Error("it was asked, which would have started it")
	}
}

// It can be subscribed to, and the subscription ends.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	q, _, _ := cups(t)
	id, err := q.spooler.subscribe(t.Context())
	if err != nil || id <= 0 {
		t.Fatal(id, err)
	}
	if err := q.spooler.unsubscribe(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := q.spooler.unsubscribe(t.Context(), id); err == nil {
		t.Error("it did not end")
	}
}

// The ports of printers at USB are those that their service has noted.
func TestLocal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q := &Queues{usb: dir}
	for name, text := range map[string]string{"a.state": "; ipp-usb\n[device]\nhttp-port = 60001\ndns-sd-name = \"x\"\n", "b.state": "[device]\nhttp-port=60000\n",
		"c.state": "[device]\nhttp-port = 22\n", "d.state": "http-port = many", "e.txt": "http-port = 60002"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := q.local(); err != nil || !slices.Equal(got, []uint16{60000, 60001}) {
		t.Errorf("%v %v", got, err)
	}
	if got, err := (&Queues{usb: filepath.Join(dir, "none")}).local(); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("# Printer configuration\nNextPrinterId 3\n<DefaultPrinter one>\nPrinterId 1\nDeviceURI usb://x\nState Idle\nAccepting Yes\n</DefaultPrinter>\n<Printer two>\nState Stopped\nAccepting No\n</Printer>\n"))
	f.Add([]byte("<Class all>\nState Idle\nAccepting Yes\nPrinter one\n</Class>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _, err := readConfig(b)
		if err != nil {
			return
		}
		if len(list) > maxQueues {
			t.Errorf("%d queues", len(list))
		}
		for _, q := range list {
			if !isName(q.Name) {
				t.Errorf("a queue is called %q", q.Name)
			}
		}
	})
}

// A place that appears later is watched then, and again after it was removed.
func TestPlaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() {
		for range w.Events {
		}
	}()
	place := dir + "/a/b"
	watched := func(want string) {
		t.Helper()
		if err := arm(w, []string{place}); err != nil || !slices.Contains(w.WatchList(), want) {
			t.Errorf("%v %v, not %s", w.WatchList(), err, want)
		}
	}
	watched(dir)
	for range 2 {
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		watched(place)
		if err := os.RemoveAll(dir + "/a"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is no longer watched", func() bool { return !slices.Contains(w.WatchList(), place) })
	}
}

// Without a spooler there are no queues.
func TestNoSpooler(t *testing.T) {
	t.Parallel()
	q := &Queues{spooler: newSpooler(filepath.Join(t.TempDir(), "none")), proc: t.TempDir(), config: t.TempDir()}
	if list, err := q.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

func FuzzAnswer(f *testing.F) {
	a := goipp.NewResponse(goipp.DefaultVersion, goipp.StatusOk, 1)
	for _, name := range []string{"one", "two"} {
		var g goipp.Attributes
		g.Add(goipp.MakeAttribute("printer-name", goipp.TagName, goipp.String(name)))
		g.Add(goipp.MakeAttribute("printer-state", goipp.TagEnum, goipp.Integer(3)))
		g.Add(goipp.MakeAttribute("printer-is-accepting-jobs", goipp.TagBoolean, goipp.Boolean(true)))
		a.Groups.Add(goipp.Group{Tag: goipp.TagPrinterGroup, Attrs: g})
	}
	b, err := a.EncodeBytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := answer(b, goipp.OpCupsGetPrinters)
		if err != nil {
			return
		}
		list, odd := readQueues(a)
		if len(list) > maxQueues || odd < 0 {
			t.Errorf("%d queues, %d odd", len(list), odd)
		}
		for _, q := range list {
			if !isName(q.Name) {
				t.Errorf("a queue is called %q", q.Name)
			}
		}
	})
}
