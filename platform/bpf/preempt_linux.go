package bpf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// While a program runs that is attached to one of the kernel's functions, the kernel does not run it a second time on the same
// processor, but passes over it. Where it may take the processor from a thread in the middle of such a program, other threads come by
// unseen until that one goes on: in a test one write of fifty. Which kernels do that is their model of preemption.
const (
	modelFile = "/sys/kernel/debug/sched/preempt" // of a kernel that can change it: "none (voluntary) full"
	modelNone = "none"
	modelLess = "voluntary"
	modelFull = "full"
	modelLazy = "lazy"
	modelRT   = "real time"
)

// Passed says why the kernel may pass over programs of the set that have to see each call, or nil.
func (s *Set) Passed() error {
	if !s.Every {
		return nil
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("whether the kernel passes over programs cannot be read: %w", err)
	}
	switch model, err := preemption(unix.ByteSliceToString(name.Version[:]), unix.ByteSliceToString(name.Release[:]), readSome); {
	case err != nil:
		return fmt.Errorf("whether the kernel passes over programs cannot be read: %w", err)
	case model != modelNone && model != modelLess:
		return fmt.Errorf("the kernel passes over programs that were interrupted (its preemption is %q)", model)
	}
	return nil
}

// missed is how often the kernel has passed over a program of the set.
func (p *Pinned) missed() (n uint64, err error) {
	for name, l := range p.links {
		info, err := l.Info()
		if err != nil {
			return 0, fmt.Errorf("program %s: %w", name, err)
		}
		prog, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return 0, fmt.Errorf("program %s: %w", name, err)
		}
		stats, err := prog.Stats()
		_ = prog.Close()
		if err != nil {
			return 0, fmt.Errorf("program %s: %w", name, err)
		}
		n += stats.RecursionMisses
	}
	return n, nil
}

// preemption is the kernel's model: what it says itself, else what it was told at boot, else what it was built with.
func preemption(version, release string, read func(path string) ([]byte, error)) (string, error) {
	words := strings.Fields(version) // "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-1 (…)"
	built := func(word string) bool { return slices.Contains(words, word) }
	switch {
	case built("PREEMPT_RT"):
		return modelRT, nil
	case !built("PREEMPT_DYNAMIC") && built("PREEMPT"):
		return modelFull, nil
	case !built("PREEMPT_DYNAMIC") && built("PREEMPT_LAZY"):
		return modelLazy, nil
	case !built("PREEMPT_DYNAMIC"):
		return modelLess, nil
	}
	if b, err := read(modelFile); err == nil {
		_, rest, opened := strings.Cut(string(b), "(")
		model, _, closed := strings.Cut(rest, ")")
		if !opened || !closed || model == "" {
			return "", fmt.Errorf("%s says %q", modelFile, b)
		}
		return model, nil
	}
	// A locked kernel (Secure Boot) does not say it, and cannot be told another one either.
	if b, err := read("/proc/cmdline"); err != nil {
		return "", err
	} else if model := told(string(b)); model != "" {
		return model, nil
	}
	var why []error
	for _, path := range []string{"/proc/config.gz", "/boot/config-" + release, "/lib/modules/" + release + "/config"} {
		b, err := read(path)
		if err == nil && strings.HasSuffix(path, ".gz") {
			b, err = unzipped(b)
		}
		if model := builtWith(b); err == nil && model != "" {
			return model, nil
		} else if err == nil {
			err = fmt.Errorf("%s does not say it", path)
		}
		why = append(why, err)
	}
	return "", errors.Join(why...)
}

// told is what the kernel was told at boot; of several, the last one that it knows.
func told(line string) (model string) {
	for w := range strings.FieldsSeq(line) {
		if w == "--" { // what follows is for the first program
			break
		}
		switch x, is := strings.CutPrefix(w, "preempt="); {
		case is && (x == modelNone || x == modelLess || x == modelFull || x == modelLazy):
			model = x
		}
	}
	return model
}

// builtWith is what a kernel's configuration says.
func builtWith(config []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(config))
	for lines.Scan() {
		switch strings.TrimSuffix(strings.TrimSuffix(lines.Text(), "=y"), "_BEHAVIOUR") {
		case "CONFIG_PREEMPT_NONE":
			return modelNone
		case "CONFIG_PREEMPT_VOLUNTARY":
			return modelLess
		case "CONFIG_PREEMPT":
			return modelFull
		case "CONFIG_PREEMPT_LAZY":
			return modelLazy
		}
	}
	return ""
}

const maxConfig = 4 << 20 // a kernel's configuration has some 300 KiB

func unzipped(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, maxConfig))
}

func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxConfig))
}
