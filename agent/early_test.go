//go:build linux

package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/agent/early"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/service"
)

// reboot leaves what a new boot would find.
func (l *lab) reboot(boot string) {
	l.t.Helper()
	if err := os.RemoveAll(l.dir + "/agent/run"); err != nil {
		l.t.Fatal(err)
	}
	l.boot = boot
	write(l.t, l.sys+"/module/usbcore/parameters/authorized_default", "-1\n")
	write(l.t, l.sys+"/bus/usb/devices/usb1/authorized_default", "1\n")
	write(l.t, l.sys+"/bus/usb/devices/1-1/authorized", "1\n")
	write(l.t, l.sys+"/bus/usb/devices/1-1/power/connected_duration", "13240\n")
}

// early runs an early start until end is called.
func (l *lab) early(ending service.Ending) (end func() error) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	o := l.earlyOptions(ending)
	o.Ready = func() { close(ready) }
	go func() { done <- Early(ctx, o) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		l.t.Fatalf("the early start ended: %v", err)
	case <-time.After(30 * time.Second):
		l.t.Fatal("the early start is not ready")
	}
	l.t.Cleanup(cancel)
	return func() error { cancel(); return <-done }
}

func (l *lab) earlyOptions(ending service.Ending) Options {
	o := l.agent.o
	o.Boot, o.Ready, o.Ending = l.boot, nil, func(context.Context) service.Ending { return ending }
	return o
}

func (l *lab) earlyFile() string { return l.agent.o.Paths.EarlyFile() }

// file waits until the early start's file exists, or does not.
func (l *lab) file(want bool, when string) {
	l.t.Helper()
	for range 600 {
		if _, err := os.Stat(l.earlyFile()); (err == nil) == want {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.t.Errorf("%s: the early start's file is there: %v", when, !want)
}

// The confirmed policy is in force while the machine boots. The agent takes over what was changed and what was decided,
// each once, and gives back what was there before.
func TestEarlyStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.ending = service.Shutdown
	l.start()
	l.enroll()
	l.file(false, "nothing is enforced")
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.file(true, "a policy that enforces something is confirmed")
	if info, err := os.Stat(l.earlyFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	l.stop()

	l.reboot("boot2")
	end := l.early(service.Stopped)
	l.reads("0", "0")
	if err := early.End(l.agent.o.Paths.Run, l.boot); err != nil { // the agent's mark, after which a signal ends it
		t.Fatal(err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	l.reads("0", "0")
	if again := Early(context.Background(), l.earlyOptions(service.Stopped)); again != nil {
		t.Errorf("a second one in the same boot: %v", again)
	}
	l.start()
	l.reads("0", "0")
	told := func() (n int) {
		for range 600 { // until the server has it
			if n = 0; len(l.events(string(enforce.Denied))) > 1 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		for _, e := range l.events(string(enforce.Denied)) {
			if strings.Contains(e.Reason, "it could be used for up to 13.") && strings.Contains(e.Reason, "decided before the agent ran") {
				n++
			}
		}
		return n
	}
	if n := told(); n != 1 {
		t.Errorf("told %d times: %v", n, l.events(string(enforce.Denied)))
	}
	l.in(func(a *Agent) {
		rows, err := a.ledger.Rows()
		if err != nil || !rows[enforce.Key{Kind: "usb.param", ID: "authorized_default"}].Baseline.Is("-1") {
			t.Errorf("%v %v", rows, err)
		}
	})
	l.stop() // at a shutdown
	l.start()
	if n := told(); n != 1 {
		t.Errorf("after a restart: told %d times", n)
	}
	l.ending = service.Stopped
	l.stop()
	l.reads("1", "1")
	if b, _ := os.ReadFile(l.sys + "/module/usbcore/parameters/authorized_default"); strings.TrimSpace(string(b)) != "-1" {
		t.Errorf("the parameter reads %s", b)
	}
}

// An early start that is told to end before an agent came opens everything again; at a shutdown it leaves everything as
// it is.
func TestEarlyAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.ending = service.Shutdown
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.file(true, "enforced")
	l.stop()
	l.reboot("boot2")
	end := l.early(service.Stopped)
	l.reads("0", "0")
	if err := end(); err != nil {
		t.Fatal(err)
	}
	l.reads("1", "1")
	for _, keeps := range []service.Ending{service.Shutdown, service.Restarting} {
		end = l.early(keeps)
		l.reads("0", "0")
		if err := end(); err != nil {
			t.Fatal(err)
		}
		l.reads("0", "0")
	}

	// A file that the server did not sign like this, or that others may write, is not applied, does not prevent the
	// start, and is reported.
	good, err := os.ReadFile(l.earlyFile())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"writable": func() error { return os.Chmod(l.earlyFile(), 0o666) },
		"cut":      func() error { return os.WriteFile(l.earlyFile(), good[:len(good)/2], 0o600) },
		"changed": func() error {
			return os.WriteFile(l.earlyFile(), []byte(strings.Replace(string(good), `"device_id":"`, `"device_id":"x`, 1)), 0o600)
		},
		"a link": func() error {
			_ = os.Remove(l.earlyFile())
			return os.Symlink("/etc/passwd", l.earlyFile())
		},
	} {
		l.reboot("boot3")
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := Early(context.Background(), l.earlyOptions(service.Stopped)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l.reads("1", "1")
		if r, err := early.Recorded(l.agent.o.Paths.Run, l.boot); err != nil || r == nil || r.Problem == "" {
			t.Errorf("%s: it is believed: %+v %v", name, r, err)
		}
		_ = os.Remove(l.earlyFile())
		if err := os.WriteFile(l.earlyFile(), good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The file follows the policy: a hold and the end of the enrollment remove it, and removing or changing it is reported.
func TestEarlyFile(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.until("enforced", version(2))
	l.file(true, "enforced")
	spoiled := 0
	for _, spoil := range []func() error{
		func() error { return os.Chmod(l.earlyFile(), 0o666) },
		func() error {
			if err := os.Rename(l.earlyFile(), l.earlyFile()+".moved"); err != nil {
				return err
			}
			return os.Symlink(l.earlyFile()+".moved", l.earlyFile())
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		spoiled++
		if early, err := EnforcesEarly(l.agent.o.Paths); early || err == nil {
			t.Error("it would not be believed, and that is not said")
		}
		l.in(func(a *Agent) { a.look() })
		if early, err := EnforcesEarly(l.agent.o.Paths); !early || err != nil {
			t.Errorf("it is not mended: %v", err)
		}
	}
	for range 2 { // removed, and then changed
		if err := os.Remove(l.earlyFile()); err != nil {
			t.Fatal(err)
		}
		l.in(func(a *Agent) { a.look() })
		l.file(true, "removed")
		if err := os.WriteFile(l.earlyFile(), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		l.in(func(a *Agent) { a.look() })
	}
	if _, _, err := early.Load(l.earlyFile()); err != nil {
		t.Error(err)
	}
	restored := 0
	for range 600 {
		if restored = len(l.events("restored")); restored == 4+spoiled {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if restored != 4+spoiled {
		t.Errorf("%d events: %v", restored, l.events("restored"))
	}
	ctx := context.Background()
	if err := l.api.Do(ctx, "POST", "/v1/hold", HoldRequest{Reason: "r"}, nil); err != nil {
		t.Fatal(err)
	}
	l.file(false, "suspended")
	if err := l.api.Do(ctx, "DELETE", "/v1/hold", nil, nil); err != nil {
		t.Fatal(err)
	}
	l.file(true, "the hold is over")
	l.admin("PUT", "/policies/policy-default", strings.Replace(denyAll, "enforce", "monitor", 1))
	l.file(false, "monitored")
	l.admin("PUT", "/policies/policy-default", denyAll)
	l.file(true, "enforced again")
	if err := l.api.Do(ctx, "POST", "/v1/unenroll", nil, nil); err != nil {
		t.Fatal(err)
	}
	l.file(false, "unenrolled")
}

// What was decided before the agent ran reaches the journal, each decision once, and what did not fit is counted.
func TestEarlyRecord(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.enroll()
	run := l.agent.o.Paths.Run
	s := &starting{o: &l.agent.o, record: early.Record{Boot: l.boot, Problem: "early: sum: its checksum does not match"}}
	for i := range early.MaxTold + 3 {
		e := enforce.Event{At: time.Now().UTC(), Setting: "usb.allowed", Kind: enforce.Denied, Subject: fmt.Sprintf("usb 1-%d", i)}
		_, err := s.Append(e)
		if (err != nil) != (i >= early.MaxTold) {
			t.Fatal(i, err)
		}
		if err == nil {
			s.Remember("", fmt.Sprintf("usb.device/1-%d@2", i), "denied")
		}
	}
	if s.Seen("", "usb.device/1-256@2", "denied") || !s.Seen("", "usb.device/1-255@2", "denied") {
		t.Error("what did not fit counts as told, or what did does not")
	}
	l.in(func(a *Agent) {
		r, err := early.Recorded(run, l.boot)
		if err != nil || r.Lost != 3 {
			t.Fatalf("%+v %v", r, err)
		}
		for range 2 { // killed before it deleted the record
			if !a.journalEarly(r) {
				t.Error("not all was taken")
			}
		}
		if !a.store.Seen(l.boot, "usb.device/1-7@2", "denied") {
			t.Error("it would be told again")
		}
	})
	count := map[string]int{}
	err := l.agent.store.Newest(context.Background(), 1000, func(e *enforce.Event) error { count[string(e.Kind)]++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if count["denied"] != early.MaxTold || count["dropped"] != 1 || count["failed"] != 1 {
		t.Errorf("%v", count)
	}
}
