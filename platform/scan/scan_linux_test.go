package scan

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// program is warder-scan, built once. Where tests run as root, the child is somebody who may not look into their directories.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "scan")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "warder-scan")
	build := exec.Command("go", "build", "-o", path, "../../cmd/warder-scan")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "child" {
		lie()
		os.Exit(0)
	}
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// patterns are rules as the agent has them.
const patterns = `[{"name":"cards","regex":"\\b(?:\\d[ -]?){12,18}\\d\\b","validator":"luhn"},{"regex":"secret-[a-z]+","min_count":2}]`

func scanner(t testing.TB) *Scanner {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s := New(path, filepath.Join(t.TempDir(), "scan.cache"), slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(s.Close)
	if _, err := s.Set(Rules{Patterns: json.RawMessage(patterns), Key: []byte("key")}, 2); err != nil {
		t.Fatal(err)
	}
	return s
}

// document is an open file with a content.
func document(t testing.TB, content string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "document"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

const card = "4111 1111 1111 1111"

// within is enough for everything that works, on a machine that is busy.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (s *Scanner) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return 0
	}
	return s.run.cmd.Process.Pid
}

func TestScan(t *testing.T) {
	s := scanner(t)
	v, err := s.Scan(within(t), document(t, "card "+card+" and 5500-0000-0000-0004; secret-a"), "a.txt")
	if err != nil {
		t.Fatal(err)
	}
	if v.Kind != "text" || len(v.Unread) > 0 || len(v.Found) != 1 || v.Found[0].Pattern != 0 || v.Found[0].Count != 2 || len(v.Found[0].Mark) != 16 {
		t.Errorf("%+v", v)
	}
	// What is not what it seems is looked into as it is, too, and so is what is printed, because whoever prints it says what it is. What is
	// found both ways counts once.
	for text, name := range map[string]string{"BZh9\n%s": "a.txt", "\x1f\x8b\n%s": "", "\x28\xb5\x2f\xfd%s": "", "hello\n%%PDF-1.4\n%s": platform.AsIs, "{\\rtf {\\*\\x %s}}": platform.AsIs,
		"\xff\xfe%s": platform.AsIs, "{\\rtf %s}": platform.AsIs, "<?x %s ?>": platform.AsIs} {
		if v, err := s.Scan(within(t), document(t, fmt.Sprintf(text, card)), name); err != nil || len(v.Found) != 1 || v.Found[0].Count != 1 {
			t.Errorf("%q as %q: %+v, %v", text, name, v, err)
		}
	}
	pid, mark := s.pid(), v.Found[0].Mark
	// The same text has the same mark, however it is written; another has another, and so has another key.
	for text, same := range map[string]bool{"4111-1111-1111-1111": true, "4111111111111111": true, "5500 0000 0000 0004": false} {
		if v, err = s.Scan(within(t), document(t, text), ""); err != nil || len(v.Found) != 1 || (v.Found[0].Mark == mark) != same {
			t.Errorf("%s: %+v, %v", text, v, err)
		}
	}
	if v, err = s.Scan(within(t), document(t, "nothing"), ""); err != nil || len(v.Found) > 0 {
		t.Errorf("%+v, %v", v, err)
	}
	if s.pid() != pid {
		t.Error("it is another child")
	}
	// Other rules, another child; the same rules, the same.
	if _, err := s.Set(Rules{Patterns: json.RawMessage(patterns), Key: []byte("key")}, 2); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(within(t)); err != nil || s.pid() != pid {
		t.Error("another child for the same rules", err)
	}
	if _, err := s.Set(Rules{Patterns: json.RawMessage(patterns), Key: []byte("other")}, 2); err != nil {
		t.Fatal(err)
	}
	if v, err = s.Scan(within(t), document(t, card), ""); err != nil || v.Found[0].Mark == mark || s.pid() == pid {
		t.Errorf("%+v, %v", v, err)
	}
}

// The child is nobody, and may do nothing.
func TestChildIsConfined(t *testing.T) {
	s := scanner(t)
	if err := s.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid()))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`(?m)^Name:\twarder-scan$`, `(?m)^Seccomp:\t2$`, `(?m)^NoNewPrivs:\t1$`, `(?m)^CapEff:\t0+$`}
	if os.Geteuid() == 0 {
		want = append(want, fmt.Sprintf(`(?m)^Uid:\t%d\t%[1]d\t%[1]d\t%[1]d$`, UID), fmt.Sprintf(`(?m)^Gid:\t%d\t%[1]d\t%[1]d\t%[1]d$`, UID), `(?m)^CapPrm:\t0+$`, `(?m)^Groups:\t *$`)
	}
	for _, re := range want {
		if !regexp.MustCompile(re).Match(b) {
			t.Errorf("no %q in\n%s", re, b)
		}
	}
	// It holds its end of the socket and what Go's runtime needs, and no file.
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", s.pid(), fd.Name()))
		if !regexp.MustCompile(`^(/dev/null|socket:.*|anon_inode:.*)$`).MatchString(to) {
			t.Errorf("it has %s open: %s", fd.Name(), to)
		}
	}
	limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.pid()))
	if !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("it may leave a core:\n%s", limits)
	}
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.pid())); strings.TrimSpace(string(b)) != "1000" {
		t.Errorf("oom_score_adj %s", b)
	}
}

// It ends when nothing is asked, comes back when something is, and finds what it had made of the rules.
func TestChildComesAndGoes(t *testing.T) {
	s := scanner(t)
	s.Idle = 50 * time.Millisecond
	var pids []int
	for range 3 {
		v, err := s.Scan(within(t), document(t, card), "")
		if err != nil || len(v.Found) != 1 {
			t.Fatalf("%+v, %v", v, err)
		}
		pid := s.pid()
		if pid == 0 { // it has ended by now
			continue
		}
		pids = append(pids, pid)
		end := time.Now().Add(30 * time.Second)
		for unix.Kill(pid, 0) == nil && time.Now().Before(end) {
			time.Sleep(10 * time.Millisecond)
		}
		if unix.Kill(pid, 0) == nil {
			t.Fatal("the child does not end")
		}
	}
	if slices.Sort(pids); len(slices.Compact(pids)) != len(pids) {
		t.Errorf("%v", pids)
	}
}

func TestCache(t *testing.T) {
	s := scanner(t)
	if err := s.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.Engine(), "Hyperscan") {
		if os.Getenv("CI") == "true" {
			t.Fatalf("it looks with %s", s.Engine())
		}
		t.Skipf("libhyperscan5 is not installed: it looks with %s", s.Engine())
	}
	whole, err := os.ReadFile(s.Cache)
	if err != nil || len(whole) < 100 {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	works := func(what string) {
		t.Helper()
		s.Close()
		if v, err := s.Scan(within(t), document(t, card+" secret-a secret-b"), ""); err != nil || len(v.Found) != 2 {
			t.Errorf("%s: %+v, %v", what, v, err)
		}
	}
	works("kept")
	if st, err := os.Stat(s.Cache); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	was, _ := os.Stat(s.Cache)
	works("kept again")
	if is, _ := os.Stat(s.Cache); !is.ModTime().Equal(was.ModTime()) {
		t.Error("it was made anew")
	}
	// Whatever is in the file: it is made anew, and is what it was.
	for name, b := range map[string][]byte{"empty": {}, "cut": whole[:len(whole)/2], "short": whole[:40], "flipped": flip(whole, len(whole)-20), "another version": flip(whole, 40), "foreign": []byte("hello"), "other rules": flip(whole, 3)} {
		if err := os.WriteFile(s.Cache, b, 0o600); err != nil {
			t.Fatal(err)
		}
		works(name)
		if is, err := os.ReadFile(s.Cache); err != nil || !bytes.Equal(is, whole) {
			t.Errorf("%s: %d bytes, %v, by %s", name, len(is), err, s.Engine())
		}
	}
	// A place that cannot be written costs time, and nothing else.
	s.Cache = "/proc/nothing"
	works("no place")
}

func flip(b []byte, at int) []byte {
	out := slices.Clone(b)
	out[at] ^= 0x55
	return out
}

// The kernel counts what runs as the child's user together: another agent's child, and a container's processes that happen to
// have the same number, do not keep it from the threads it needs.
func TestOthersOfItsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		platformtest.Cannot(t, "only root starts a child as another user")
	}
	s := scanner(t)
	for range 150 {
		other := exec.Command("sleep", "1000")
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: UID, Gid: UID}, Pdeathsig: unix.SIGKILL}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
	}
	if v, err := s.Scan(within(t), document(t, card), ""); err != nil || len(v.Found) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if s.plain {
		t.Error("it does without the library")
	}
	// A child on an idle machine rarely needs another thread, so what the kernel would say is read, too.
	limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.pid()))
	most := regexp.MustCompile(`(?m)^Max processes +(\d+) `).FindSubmatch(limits)
	if most == nil {
		t.Fatalf("%s", limits)
	}
	if n, _ := strconv.Atoi(string(most[1])); n < 300 || n > 1000 {
		t.Errorf("%d threads", n)
	}
}

// A child that something ends before it is ready is started again, with the library.
func TestChildEndsEarly(t *testing.T) {
	s := scanner(t)
	done := make(chan int)
	go func() {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			if pid := s.pid(); pid != 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
				done <- pid
				return
			}
		}
		done <- 0
	}()
	if err := s.Ready(within(t)); err != nil {
		t.Error(err)
	}
	killed := <-done
	if v, err := s.Scan(within(t), document(t, card), ""); err != nil || len(v.Found) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if killed == 0 || s.pid() == killed || s.plain {
		t.Errorf("%d was killed, %d looks, without the library: %t", killed, s.pid(), s.plain)
	}
}

// A child that is killed or stands still costs the one who waits, and not the next.
func TestChildDies(t *testing.T) {
	s := scanner(t)
	big := document(t, "") // it takes a while
	for at := range int64(4096) {
		if _, err := big.WriteAt([]byte{1}, at<<20); err != nil {
			t.Fatal(err)
		}
	}
	for _, how := range []struct {
		signal unix.Signal
		want   error
	}{{unix.SIGKILL, ErrEnded}, {unix.SIGSTOP, ErrLate}, {unix.SIGSEGV, ErrEnded}} {
		var err error
		for range 50 { // on a busy machine the signal may come before the question
			if err := s.Ready(within(t)); err != nil {
				t.Fatal(err)
			}
			pid := s.pid()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if how.signal == unix.SIGSTOP {
				if err := unix.Kill(pid, how.signal); err != nil {
					t.Fatal(err)
				}
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			} else {
				time.AfterFunc(30*time.Millisecond, func() { _ = unix.Kill(pid, how.signal) })
			}
			_, err = s.Scan(ctx, big, "")
			cancel()
			if errors.Is(err, how.want) {
				if s.pid() == pid {
					t.Errorf("%v: the child is still there", how.signal)
				}
				break
			}
		}
		if !errors.Is(err, how.want) {
			t.Errorf("%v: %v", how.signal, err)
		}
		if v, err := s.Scan(within(t), document(t, card), ""); err != nil || len(v.Found) != 1 {
			t.Errorf("after %v: %+v, %v", how.signal, v, err)
		}
	}
}

// Many at once are looked at one after the other, and who does not get a turn in time is told.
func TestMany(t *testing.T) {
	s := scanner(t)
	var all sync.WaitGroup
	for i := range 20 {
		f := document(t, strings.Repeat("x ", i*1000)+card)
		all.Go(func() {
			if v, err := s.Scan(within(t), f, ""); err != nil || len(v.Found) != 1 {
				t.Errorf("%d: %+v, %v", i, v, err)
			}
		})
	}
	all.Wait()
	<-s.turn
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Scan(ctx, document(t, card), ""); !errors.Is(err, ErrLate) {
		t.Error(err)
	}
	s.turn <- struct{}{}
}

// What a document asks for in memory has an end, and so has the child; the agent says so, and the next document is looked at.
func TestHostile(t *testing.T) {
	var bomb bytes.Buffer
	z := zip.NewWriter(&bomb)
	for i := range 6 {
		w, _ := z.Create("word/" + strconv.Itoa(i) + ".pdf")
		_, _ = w.Write([]byte("%PDF-1.4\n"))
		_, _ = w.Write(bytes.Repeat([]byte("(((((((((("), 1<<20))
	}
	_ = z.Close()
	s := scanner(t)
	for name, content := range map[string]string{"documents in a document": bomb.String(), "no UTF-8": strings.Repeat("\xff\xfe\xfd", 1<<20)} {
		v, err := s.Scan(within(t), document(t, content), "")
		t.Logf("%s, %d bytes: %+v, %v", name, len(content), v, err)
		if v, err := s.Scan(within(t), document(t, card), ""); err != nil || len(v.Found) != 1 {
			t.Errorf("after it: %+v, %v", v, err)
		}
	}
}

func TestNoProgram(t *testing.T) {
	s := New("", "", nil)
	if _, err := s.Scan(within(t), document(t, ""), ""); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	s = New("/nonexistent/warder-scan", "", nil)
	if _, err := s.Scan(within(t), document(t, ""), ""); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("not run by root")
		}
		t.Skip("the rest is about root")
	}
	path := filepath.Join(t.TempDir(), "warder-scan")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(path, 0o777)
	s = New(path, "", nil)
	if _, err := s.Scan(within(t), document(t, ""), ""); err == nil || !strings.Contains(err.Error(), "can change it") {
		t.Error(err)
	}
	_ = os.Chmod(path, 0o755)
	if _, err := s.Scan(within(t), document(t, ""), ""); !errors.Is(err, ErrEnded) { // a program that is none
		t.Error(err)
	}
}

// lie is a child that a document has taken over: the name of a document says what it does.
func lie() {
	b := make([]byte, MaxMessage)
	for {
		n, err := unix.Read(Socket, b)
		if err != nil || n == 0 {
			return
		}
		var q Request
		_ = json.Unmarshal(b[:n], &q)
		say := func(s string) { _ = unix.Sendmsg(Socket, []byte(s), nil, nil, 0) }
		good := fmt.Sprintf(`{"turn":%d,"kind":"text"}`, q.Turn)
		switch {
		case q.Rules:
			say(fmt.Sprintf(`{"turn":%d,"engine":"a lie"}`, q.Turn))
			continue
		case q.Name == "twice":
			say(fmt.Sprintf(`{"turn":%d,"kind":"text","found":[{"pattern":0,"count":1,"mark":"aa"}]}`, q.Turn))
			say(fmt.Sprintf(`{"turn":%d,"kind":"text"}`, q.Turn)) // for the next one
		case q.Name == "ahead":
			say(good)
			say(fmt.Sprintf(`{"turn":%d,"kind":"lie"}`, q.Turn+1))
		case q.Name == "large":
			say(`{"turn":1,"kind":"` + strings.Repeat("x", 100_000) + `"}`)
		case q.Name == "escape":
			say(fmt.Sprintf(`{"turn":%d,"kind":"\u001b[2J"}`, q.Turn))
		case q.Name == "mark":
			say(fmt.Sprintf(`{"turn":%d,"kind":"text","found":[{"pattern":0,"count":1,"mark":"<script>"}]}`, q.Turn))
		case q.Name == "descriptors":
			_ = unix.Sendmsg(Socket, []byte(good), unix.UnixRights(0, 0, 0, 0), nil, 0)
		case q.Name == "ends":
			return
		case q.Name == "write":
			for _, fd := range []int{4, 5, 6, 7} {
				_, _ = unix.Pwrite(fd, []byte("PWN"), 0)
				_ = unix.Ftruncate(fd, 1)
			}
			say(good)
		default:
			say(good)
		}
	}
}

// A child that lies ends, and what it says is believed of no other document.
func TestChildLies(t *testing.T) {
	s := New(os.Args[0], "", nil)
	t.Cleanup(s.Close)
	if _, err := s.Set(Rules{Patterns: json.RawMessage(patterns)}, 2); err != nil {
		t.Fatal(err)
	}
	open := func() int {
		list, _ := os.ReadDir("/proc/self/fd")
		return len(list)
	}
	if _, err := s.Scan(within(t), document(t, ""), "first"); err != nil {
		t.Fatal(err)
	}
	before := open()
	for _, name := range []string{"twice", "ahead", "large", "escape", "mark", "descriptors", "ends"} {
		f := document(t, "")
		v, err := s.Scan(within(t), f, name)
		t.Logf("%s: %+v, %v", name, v, err)
		if err == nil && v.Kind != "text" {
			t.Errorf("%s is believed: %+v", name, v)
		}
		switch name {
		case "large", "escape", "mark", "ends":
			if err == nil {
				t.Errorf("%s is believed: %+v", name, v)
			}
		}
		for range 2 {
			if v, err := s.Scan(within(t), f, "next"); err == nil && (v.Kind != "text" || len(v.Found) > 0) {
				t.Errorf("after %s, of another document: %+v", name, v)
			}
		}
	}
	s.Close()
	if after := open(); after > before+7 { // seven documents are open
		t.Errorf("%d descriptors, and then %d", before, after)
	}
	// A document is handed over to be read, whatever it was opened for.
	f := document(t, "the text of it")
	if _, err := f.Seek(3, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Scan(within(t), f, "write"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "the text of it" {
		t.Errorf("%q, %v", b, err)
	}
}

// The place in a file is the caller's.
func TestPlaceStays(t *testing.T) {
	s := scanner(t)
	f := document(t, strings.Repeat("text ", 1<<20))
	if _, err := f.Seek(7, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Scan(within(t), f, ""); err != nil {
		t.Fatal(err)
	}
	if at, err := f.Seek(0, 1); at != 7 || err != nil {
		t.Error(at, err)
	}
}

// What was found before there was no more time counts, and the child ends by itself.
func TestLate(t *testing.T) {
	s := scanner(t)
	f := document(t, card+"\n")
	for at := range int64(16384) {
		if _, err := f.WriteAt([]byte{1}, 1<<20+at<<20); err != nil {
			t.Fatal(err)
		}
	}
	var v Verdict
	err := ErrLate
	for wait := time.Second; errors.Is(err, ErrLate) && wait < 10*time.Second; wait += time.Second / 2 { // a busy machine may not answer in time
		if err := s.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		v, err = s.Scan(ctx, f, "")
		cancel()
	}
	if err != nil || len(v.Found) != 1 || len(v.Unread) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := s.Scan(within(t), document(t, card), ""); err != nil || len(v.Found) != 1 {
		t.Errorf("after it: %+v, %v", v, err)
	}
}

// Who comes too late ends nobody's child, and neither does what is no document.
func TestChildStays(t *testing.T) {
	s := scanner(t)
	if err := s.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	pid := s.pid()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		if _, err := s.Scan(over, document(t, card), ""); !errors.Is(err, ErrLate) {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := s.Scan(within(t), dir, ""); err == nil {
		t.Error("a directory was looked into")
	}
	if s.pid() != pid {
		t.Error("it is another child")
	}
	// Deadlines at about the time of the answer: one that is over ends no other question.
	f := document(t, strings.Repeat(card+" ", 2000))
	for i := range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%30)*100*time.Microsecond)
		_, _ = s.Scan(ctx, f, "")
		cancel()
		if _, err := s.Scan(within(t), f, ""); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

// Who waits for a child that needs long for its rules waits no longer than they may, and it is ready for the next one.
func TestSlowRules(t *testing.T) {
	s := scanner(t)
	var list []map[string]string
	for i := range 150 {
		list = append(list, map[string]string{"regex": fmt.Sprintf("a.{50,100}b%d.{90,190}c", i)})
	}
	list = append(list, map[string]string{"regex": `\d{4} \d{4} \d{4} \d{4}`})
	b, _ := json.Marshal(list)
	if _, err := s.Set(Rules{Patterns: b}, len(list)); err != nil {
		t.Fatal(err)
	}
	f := document(t, card)
	late := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := s.Scan(ctx, f, "")
		cancel()
		if err == nil || late > 1000 {
			break
		}
		if !errors.Is(err, ErrLate) {
			t.Fatal(err)
		}
		late++
		if ctx, cancel := context.WithTimeout(t.Context(), time.Minute); late == 3 {
			err := s.Ready(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
		} else {
			cancel()
		}
	}
	if v, err := s.Scan(within(t), f, ""); err != nil || len(v.Found) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	t.Logf("%d were too early; it looks with %s", late, s.Engine())
}

// Patterns for which the library needs too long, or more memory than there is, are looked for without it; what cannot be looked for at
// all is said, and not tried again each time.
func TestRulesThatFail(t *testing.T) {
	s := scanner(t)
	if _, err := s.Set(Rules{Patterns: json.RawMessage(`[{"regex":"("}]`)}, 1); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		began := time.Now()
		if _, err := s.Scan(within(t), document(t, card), ""); !errors.Is(err, ErrRules) {
			t.Error(err)
		}
		t.Logf("%v", time.Since(began))
	}
	if _, err := s.Set(Rules{Patterns: json.RawMessage(patterns)}, 2); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Scan(within(t), document(t, card), ""); err != nil || len(v.Found) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"found":[{"pattern":1,"count":2,"mark":"ab"}]}`, `{"error":"x"}`, `[`, `{"found":[{"pattern":-1}]}`, `{"unread":["encrypted"]}`, `{"unread":["the salary of Ann"]}`, `{"unread":["encrypted","encrypted"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(b, 2)
		if err != nil {
			return
		}
		for i, why := range a.Unread { // nothing of a document gets into events
			if why != Late && !slices.Contains(fact.Unreads, why) || slices.Contains(a.Unread[:i], why) {
				t.Errorf("%q", a.Unread)
			}
		}
		for _, x := range a.Found {
			if x.Pattern < 0 || x.Pattern > 1 || x.Count < 1 {
				t.Errorf("%+v", x)
			}
		}
	})
}
