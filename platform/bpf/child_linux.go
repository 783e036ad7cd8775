package bpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Loading programs takes tens of megabytes, for the kernel's description of its types, and the agent would keep them. So a child
// does it, which ends at once.
const (
	childLoad = "load"
	childTry  = "try"
	// childProve finds out whether programs that the kernel takes are called, too.
	childProve = "prove"
	// childLimit bounds it. On a slow emulated machine it takes a second.
	childLimit = time.Minute
	maxSaid    = 2 << 10
)

// Loader makes a set, in the child. Its arguments are those of Load.
type Loader func(args ...string) error

// Child is the child: it makes a set of programs, or tries whether the kernel takes them, or calls them.
func Child(loaders map[string]Loader, what, set string, args ...string) error {
	i := slices.IndexFunc(Sets, func(s *Set) bool { return s.Name == set })
	load := loaders[set]
	if i < 0 || load == nil {
		return fmt.Errorf("there are no programs %q", set)
	}
	switch s := Sets[i]; {
	case what == childLoad:
		return load(args...)
	case what == childTry && len(args) == 0:
		return s.Try()
	case what == childProve && len(args) == 0:
		return s.Prove()
	}
	return fmt.Errorf("%q %q is nothing that it does", what, args)
}

// Load has the child make the set.
func (s *Set) Load(ctx context.Context, args ...string) error {
	return s.child(ctx, childLoad, args...)
}

// Takes says why this machine cannot carry the set. That it can is remembered in a directory that a boot empties.
func (s *Set) Takes(ctx context.Context, run string) error {
	if err := s.overlooks(run); err != nil { // that can change while it runs
		return err
	}
	err := s.once(ctx, run, "kernel-takes.", childTry)
	if err != nil {
		if p, unopened := s.Open(); unopened == nil { // what is there it has taken, whatever kept the child from trying
			p.Close()
			return nil
		}
	}
	return err
}

// Calls finds out whether the kernel calls the programs where it has to.
func (s *Set) Calls(ctx context.Context, run string) error {
	return s.once(ctx, run, "kernel-calls.", childProve)
}

func (s *Set) once(ctx context.Context, run, file, what string) error {
	note, version := filepath.Join(run, file+s.Name), fmt.Sprintf("%x", s.Version())
	if b, err := os.ReadFile(note); err == nil && run != "" && string(b) == version {
		return nil
	}
	if err := s.child(ctx, what); err != nil {
		return err
	}
	if run != "" {
		_ = os.WriteFile(note, []byte(version), 0o600) // in memory, and only to save time
	}
	return nil
}

// child runs it. Its error is what it said.
func (s *Set) child(ctx context.Context, what string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, childLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"kernel-programs", what, s.Name}, args...)...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", []string{"GOMAXPROCS=2"}, time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(out[:min(len(out), maxSaid)])), "warder: "))
	var ended *exec.ExitError
	if said == "" || !errors.As(err, &ended) || ended.ExitCode() < 0 {
		return fmt.Errorf("the program that loads them: %w %s", err, said)
	}
	return errors.New(said)
}
