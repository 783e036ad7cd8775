package scan

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/durable"
)

// Scanner has documents looked into, one at a time.
type Scanner struct {
	Program string        // the path of warder-scan
	Cache   string        // a file for what the child makes of the rules; "" for none
	Idle    time.Duration // 0: as usual
	Log     *slog.Logger

	turn chan struct{} // who has it may use the child

	wrong error // why the last child did not become ready
	since time.Time
	plain bool // the library is left out: with it, none became ready

	mu       sync.Mutex
	rules    []byte
	number   int    // of the rules
	said     []byte // the rules that wrong and plain are about; of who has the turn
	patterns int
	run      *running
	idle     *time.Timer
	engine   string
}

// running is a child that is ready, or becomes so.
type running struct {
	cmd    *exec.Cmd
	socket *net.UnixConn
	rules  []byte // it looks for these
	number int
	engine string
	ended  chan struct{}
	how    string // it ended, for people; only after ended
}

// New makes a scanner. Nothing is started.
func New(program, cache string, log *slog.Logger) *Scanner {
	s := &Scanner{Program: program, Cache: cache, Log: log, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// Find is where warder-scan is: beside this program, or where packages put it. "" if it is nowhere.
func Find() string {
	var places []string
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(self), "warder-scan"))
	}
	for _, p := range append(places, "/usr/lib/warder/warder-scan") {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// Set says what is looked for from now on: rules in the child's form, with so many patterns. A child that looks for something else
// ends. The number that it returns is in verdicts by these rules.
func (s *Scanner) Set(r Rules, patterns int) (rules int, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(b) != string(s.rules) {
		s.rules, s.patterns, s.engine = b, patterns, ""
		s.number++
	}
	return s.number, nil
}

// Engine is what the child has said that it looks with; "" before there was one.
func (s *Scanner) Engine() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engine
}

// Close ends the child.
func (s *Scanner) Close() {
	<-s.turn
	s.end()
	s.turn <- struct{}{}
}

// Ready starts the child if there is none, and waits until it knows the rules.
func (s *Scanner) Ready(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	_, _, held, err := s.await(ctx)
	if held {
		s.give()
	}
	return err
}

// Scan has a document looked into, which is an open file: what is in it when it is read. The name is a hint to what it is. Whoever
// waits for longer than ctx gets ErrLate, and the child is ended; shortly before, it says what it has found until then. A child that
// does not know the rules yet goes on making itself ready for the next one.
func (s *Scanner) Scan(ctx context.Context, f *os.File, name string) (Verdict, error) {
	began := time.Now()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return Verdict{}, errors.Join(err, errors.New("it is not a file"))
	}
	// Another open file of the same: the child moves no place of ours, and cannot write.
	own, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return Verdict{}, err
	}
	defer own.Close()
	if err := s.take(ctx); err != nil {
		return Verdict{}, err
	}
	run, patterns, held, err := s.await(ctx)
	if held {
		defer s.give()
	}
	switch {
	case err != nil:
		return Verdict{}, err
	case ctx.Err() != nil:
		return Verdict{}, ErrLate
	}
	q := Request{Scan: true, Name: name}
	if end, has := ctx.Deadline(); has {
		q.Millis = max(1, (time.Until(end) - spare).Milliseconds())
	}
	a, err := s.ask(ctx, run, q, patterns, own)
	if err != nil {
		return Verdict{}, err
	}
	return Verdict{Rules: run.number, Kind: a.Kind, Found: a.Found, Unread: a.Unread, Late: slices.Contains(a.Unread, Late), Took: time.Since(began)}, nil
}

// take waits for the child to be free.
func (s *Scanner) take(ctx context.Context) error {
	select {
	case <-s.turn:
		if ctx.Err() == nil {
			return nil
		}
		s.turn <- struct{}{}
	case <-ctx.Done():
	}
	return ErrLate
}

// give lets the next one have it, and has the child end when there is none for a while.
func (s *Scanner) give() {
	s.mu.Lock()
	wait := s.Idle
	if wait == 0 {
		wait = Idle
	}
	if s.idle == nil {
		s.idle = time.AfterFunc(wait, func() {
			select {
			case <-s.turn:
				s.end()
				s.turn <- struct{}{}
			default: // it is at work
			}
		})
	} else {
		s.idle.Reset(wait)
	}
	s.mu.Unlock()
	s.turn <- struct{}{}
}

// end ends the child, if there is one. Only who has the turn calls it.
func (s *Scanner) end() {
	s.mu.Lock()
	run := s.run
	s.run = nil
	s.mu.Unlock()
	if run == nil {
		return
	}
	_ = run.socket.Close()
	_ = run.cmd.Process.Kill()
	select {
	case <-run.ended:
	case <-time.After(endLimit): // it reads from a file system that does not answer, and ends with it
	}
}

// await returns a child that knows the rules, or ErrLate: then the turn is held until that child is ready, and given on by itself.
func (s *Scanner) await(ctx context.Context) (_ *running, patterns int, held bool, _ error) {
	var r struct {
		run      *running
		patterns int
		err      error
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run, r.patterns, r.err = s.ready()
	}()
	select {
	case <-done:
		return r.run, r.patterns, true, r.err
	case <-ctx.Done():
		go func() {
			<-done
			s.give()
		}()
		return nil, 0, false, ErrLate
	}
}

// ready returns a child that knows the rules. Where none becomes ready, another is tried without the library, and then none for a
// while.
func (s *Scanner) ready() (*running, int, error) {
	s.mu.Lock()
	rules, number, patterns, run := s.rules, s.number, s.patterns, s.run
	s.mu.Unlock()
	if run != nil {
		select {
		case <-run.ended: // it has died by itself
			s.end()
			run = nil
		default:
			if string(run.rules) != string(rules) {
				s.end()
				run = nil
			}
		}
	}
	if run != nil {
		run.number = number // the same rules may have been set again
		s.mu.Lock()
		s.engine = run.engine
		s.mu.Unlock()
		return run, patterns, nil
	}
	if string(s.said) != string(rules) || s.plain && time.Since(s.since) > plainFor {
		s.said, s.wrong, s.plain = rules, nil, false
	}
	if s.wrong != nil && time.Since(s.since) < startLimit {
		return nil, 0, s.wrong
	}
	run, engine, err := s.begin(rules, number, patterns)
	if errors.Is(err, ErrEnded) { // whatever has ended it (memory that ran out, a signal): once more, before it has to do without the library
		s.warn("the scanner ended before it was ready, and is started again", err)
		run, engine, err = s.begin(rules, number, patterns)
	}
	switch {
	case run == nil:
		return nil, 0, err
	case err != nil && !s.plain:
		s.end()
		s.plain, s.since = true, time.Now()
		s.warn("the scanner cannot make itself ready for the patterns with Hyperscan, and does without for a while", err)
		return s.ready()
	case err != nil:
		s.end()
		s.wrong, s.since = fmt.Errorf("%w: %w", ErrRules, err), time.Now()
		return nil, 0, s.wrong
	}
	s.wrong, run.engine = nil, engine
	s.mu.Lock()
	s.engine = engine
	s.mu.Unlock()
	return run, patterns, nil
}

// begin starts a child and tells it the rules. None is returned where none could be started.
func (s *Scanner) begin(rules []byte, number, patterns int) (*running, string, error) {
	run, err := s.start(rules)
	if err != nil {
		return nil, "", err
	}
	run.number = number
	s.mu.Lock()
	s.run = run
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	engine, err := s.teach(ctx, run, rules, patterns)
	return run, engine, err
}

func (s *Scanner) warn(what string, err error) {
	if s.Log != nil {
		s.Log.Warn(what, "error", err)
	}
}

// start starts the program. It is run by its open file, because its user may not see where it is.
func (s *Scanner) start(rules []byte) (*running, error) {
	program, err := openProgram(s.Program)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "scanner"), os.NewFile(uintptr(pair[1]), "agent") //nolint:gosec // descriptors
	defer ours.Close()
	defer theirs.Close()
	socket, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/fd/4")
	cmd.Args = []string{"warder-scan", "child"}
	cmd.ExtraFiles = []*os.File{theirs, program} // Socket, and 4
	cmd.Env = []string{"GOMEMLIMIT=160MiB", "GOMAXPROCS=2"}
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: UID, Gid: UID}}
	}
	if err := cmd.Start(); err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("%s cannot be started: %w", enforce.Plain(s.Program), err)
	}
	run := &running{cmd: cmd, socket: socket.(*net.UnixConn), rules: rules, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		run.how = cmd.ProcessState.String()
		close(run.ended)
	}()
	return run, nil
}

// teach tells a child the rules, with what an earlier one has made of them.
func (s *Scanner) teach(ctx context.Context, run *running, rules []byte, patterns int) (engine string, err error) {
	sum := sha256.Sum256(rules)
	cached := s.cached(sum)
	in, err := memory("rules", rules)
	if err != nil {
		return "", err
	}
	defer in.Close()
	cache, err := memory("cache", cached)
	if err != nil {
		return "", err
	}
	defer cache.Close()
	a, err := s.ask(ctx, run, Request{Rules: true, Plain: s.plain}, patterns, in, cache)
	if err != nil {
		return "", err
	}
	if !a.Cached && s.Cache != "" && !s.plain {
		// It has seen no document yet: what it has written is what the library made of the rules.
		if b, err := io.ReadAll(io.NewSectionReader(cache, 0, maxCache+1)); err == nil && len(b) > 0 && len(b) <= maxCache {
			if err := durable.Write(s.Cache, append(sum[:], b...), 0o600); err != nil && s.Log != nil {
				s.Log.Debug("what the scanner has made of its rules is not kept", "error", err)
			}
		}
	}
	return a.Engine, nil
}

// maxCache bounds what is kept of a child's.
const maxCache = 64 << 20

// cached is what is kept for rules; nil if nothing is.
func (s *Scanner) cached(sum [sha256.Size]byte) []byte {
	if s.Cache == "" {
		return nil
	}
	b, err := durable.Read(s.Cache, maxCache+sha256.Size)
	if err != nil {
		return nil
	}
	b, is := bytes.CutPrefix(b, sum[:])
	if !is {
		return nil
	}
	return b
}

// memory is a file without a name.
func memory(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("warder-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name) //nolint:gosec // a descriptor
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ask asks a child one thing. One that does not answer as it should is ended.
func (s *Scanner) ask(ctx context.Context, run *running, q Request, patterns int, files ...*os.File) (a Answer, err error) {
	good := false
	defer func() {
		if !good {
			s.end()
		}
	}()
	var turn [8]byte
	_, _ = rand.Read(turn[:])
	q.Turn = binary.NativeEndian.Uint64(turn[:])
	b, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd())) //nolint:gosec // descriptors
	}
	_ = run.socket.SetDeadline(time.Time{})
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = run.socket.SetDeadline(time.Unix(1, 0))
		close(over)
	})
	defer func() {
		if !stop() { // it runs, or has run: it must not end the next question
			<-over
		}
	}()
	if _, _, err := run.socket.WriteMsgUnix(b, unix.UnixRights(fds...), nil); err != nil {
		return a, s.failed(ctx, run, err)
	}
	b = make([]byte, MaxMessage)
	n, err := run.socket.Read(b)
	if err != nil {
		return a, s.failed(ctx, run, err)
	}
	if a, err = Parse(b[:n], patterns); err != nil {
		return a, err
	}
	if a.Turn != q.Turn {
		return a, errors.New("the scanner answers another question")
	}
	good = !a.Last
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// failed says why a child did not answer.
func (s *Scanner) failed(ctx context.Context, run *running, err error) error {
	if ctx.Err() != nil {
		return ErrLate
	}
	select {
	case <-run.ended:
		return fmt.Errorf("%w (%s)", ErrEnded, run.how)
	case <-ctx.Done():
		return ErrLate
	case <-time.After(endLimit):
		return fmt.Errorf("%w (%w)", ErrEnded, err)
	}
}

// openProgram opens the child's program, if nobody else can change it.
func openProgram(path string) (*os.File, error) {
	if path == "" {
		return nil, ErrAbsent
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a descriptor
		f.Close()
		return nil, err
	}
	if os.Geteuid() == 0 && (st.Uid != 0 || st.Mode&0o022 != 0) {
		f.Close()
		return nil, fmt.Errorf("%s is not started: others than root can change it", enforce.Plain(path))
	}
	return f, nil
}
