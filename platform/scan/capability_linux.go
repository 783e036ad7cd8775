package scan

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Looker lends looking into documents to whoever has them, by the rules in force.
type Looker struct {
	platform.Listener
	scanner *Scanner
	log     *slog.Logger
	absent  bool // the program is not installed, or this machine is simulated
	key     []byte

	mu    sync.Mutex
	sets  map[int][]fact.SensitiveFound // by the scanner's number of the rules: what each pattern is called
	now   int                           // the number in force; 0: nothing is looked for
	why   string                        // it cannot look
	tries int                           // that make it ready
}

// Capability looks into documents.
func Capability(h platform.Host) platform.Capability {
	l := &Looker{log: h.Log, key: make([]byte, 32), sets: map[int][]fact.SensitiveFound{}}
	_, _ = rand.Read(l.key) // of this process's own: marks can be compared until the agent starts anew
	program := h.Scanner
	if program == "" && h.Sysfs == "/sys" {
		program = Find()
	}
	l.absent = program == ""
	l.scanner = New(program, filepath.Join(filepath.Dir(h.Quarantine), "patterns.compiled"), h.Log)
	return platform.Capability{Name: Name, Claims: claims(), Probe: l.probe, Observers: []platform.Observer{l}, Guards: []platform.Guard{l},
		Provides: []platform.Port{platform.Lend(platform.PortLook, platform.LookInto(l.look))}}
}

// probe says whether the program is there.
func (l *Looker) probe(context.Context) (out []platform.Claim) {
	if !l.absent {
		return nil
	}
	for _, s := range settings {
		out = append(out, platform.Claim{Setting: s, OS: "linux", Level: fact.Unsupported, Limit: "nothing looks for sensitive data: " + ErrAbsent.Error()})
	}
	return out
}

// looksFor is the interface of the section's rules.
type looksFor interface {
	// LooksFor are the patterns in the form of package enforce/sensitive, and what each is called; none: nothing is looked for.
	LooksFor() (patterns json.RawMessage, called []fact.SensitiveFound)
}

// Section names the section whose rules it uses.
func (l *Looker) Section() string { return settings[0].Section() }

// Load replaces the rules. The program makes itself ready for them in the background, which can take some seconds the first time.
func (l *Looker) Load(r platform.Rules) error {
	s, ok := r.(looksFor)
	var patterns json.RawMessage
	var called []fact.SensitiveFound
	switch {
	case r != nil && !ok:
		return platform.Unsupported{Feature: "looking for sensitive data", Need: "rules that say what that is"}
	case r != nil && !l.absent:
		patterns, called = s.LooksFor()
	}
	l.mu.Lock()
	if len(called) == 0 {
		l.now, l.why = 0, ""
		l.mu.Unlock()
		go l.scanner.Close() // whoever has something looked into is answered first
		return nil
	}
	n, err := l.scanner.Set(Rules{Patterns: patterns, Key: l.key}, len(called))
	same := l.now == n
	if err == nil && !same {
		for old := range l.sets { // what is being looked into may still be answered by the rules before these
			if old != l.now {
				delete(l.sets, old)
			}
		}
		l.sets[n], l.now, l.why = called, n, ""
		l.tries++
		go l.ready(l.tries)
	}
	l.mu.Unlock()
	return err
}

// readyLimit is longer than the child itself may take.
const readyLimit = 3 * time.Minute

// ready has the program know the rules before the first document comes.
func (l *Looker) ready(try int) {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	err := l.scanner.Ready(ctx)
	l.mu.Lock()
	mine := l.tries == try && l.now != 0
	if mine {
		l.why = ""
		if err != nil {
			l.why = err.Error()
		}
	}
	l.mu.Unlock()
	if mine {
		if err != nil {
			l.log.Error("sensitive data is not looked for", "error", err)
		}
		l.Look(true)
	}
}

// look looks into one document.
func (l *Looker) look(ctx context.Context, f *os.File, name string) (platform.Seen, error) {
	v, err := l.scanner.Scan(ctx, f, name)
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrRules) {
		l.why = err.Error()
	} else if err == nil {
		l.why = ""
	}
	if errors.Is(err, ErrLate) {
		return platform.Seen{Late: true}, nil
	}
	if err != nil {
		return platform.Seen{}, err
	}
	out := platform.Seen{Kind: v.Kind, Late: v.Late, Took: v.Took,
		Unread: slices.DeleteFunc(slices.Clone(v.Unread), func(why string) bool { return why == Late })}
	called := l.sets[v.Rules]
	for _, x := range v.Found {
		if x.Pattern >= len(called) {
			return platform.Seen{}, errors.New("the patterns have changed meanwhile")
		}
		y := called[x.Pattern]
		y.Count, y.Mark = x.Count, x.Mark
		out.Found = append(out.Found, y)
	}
	return out, nil
}

// Observe says whether it can look.
func (l *Looker) Observe(_ context.Context, out *fact.Machine) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	out.Scanning = fact.Is(fact.Scanning{Engine: l.scanner.Engine(), Why: l.why})
	return nil
}

// Run waits: it answers whoever has a document.
func (l *Looker) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Work lists nothing.
func (l *Looker) Work() []platform.Work { return nil }

// Stop ends the program.
func (l *Looker) Stop() { l.scanner.Close() }
