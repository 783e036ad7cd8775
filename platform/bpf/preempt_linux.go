package bpf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// While a program runs that is attached to one of the kernel's functions, the kernel does not run it a second time on the same
// processor, but passes over it. Where it may take the processor from a thread in the middle of such a program, other threads come by
// unseen until that one goes on (docs/decisions/0037 has figures). Which kernels do that is their model of preemption.
const (
	modelFile = "/sys/kernel/debug/sched/preempt" // of a kernel that can change it: "none (voluntary) full"
	modelNone = "none"
	modelLess = "voluntary"
	modelFull = "full"
	modelLazy = "lazy"
	modelRT   = "real time"
)

// Preempts says why the kernel may pass over programs that are attached to its functions, or nil.
func Preempts() error {
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

// overlooks says why the kernel does not run the programs of the set at each call, or nil, for a set that needs that. What was seen
// counts for more than what the kernel says of itself; it is noted in a directory that a boot empties.
func (s *Set) overlooks(run string) error {
	if !s.Every {
		return nil
	}
	if _, err := os.Stat(overlooked(run)); err == nil && run != "" {
		return errors.New("the kernel passes over programs, which was seen since it started")
	}
	return Preempts()
}

// overlooked is the note: what one set has seen holds for all.
func overlooked(run string) string { return filepath.Join(run, "kernel-passes-over") }

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
	switch b, err := read(modelFile); {
	case err == nil:
		_, rest, opened := strings.Cut(string(b), "(")
		model, _, closed := strings.Cut(rest, ")")
		if !opened || !closed || model == "" {
			return "", fmt.Errorf("%s says %q", modelFile, b)
		}
		return model, nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EPERM):
		return "", err
	}
	// A kernel that Secure Boot has locked does not let that file be read, nor written; on others it may not be mounted.
	line, err := read("/proc/cmdline")
	if err != nil {
		return "", err
	}
	model := told(string(line))
	if model == modelFull || model == modelLazy {
		return model, nil
	}
	var why []error
	for _, path := range []string{"/proc/config.gz", "/boot/config-" + release, "/lib/modules/" + release + "/config"} {
		b, err := read(path)
		if err == nil && strings.HasSuffix(path, ".gz") {
			b, err = unzipped(b)
		}
		config := builtWith(b)
		if err == nil && config != "" {
			if model == "" || config == modelLazy { // a kernel that knows the lazy model may know no less than that
				model = config
			}
			return model, nil
		}
		if err == nil {
			err = fmt.Errorf("%s does not say it", path)
		}
		why = append(why, err)
	}
	if model != "" {
		return model, nil
	}
	return "", errors.Join(why...)
}

// told is what the kernel was told at boot; of several, the last one that it knows.
func told(line string) (model string) {
	for w := range strings.FieldsSeq(line) {
		if w == "--" { // what follows is for the first program
			break
		}
		x, is := strings.CutPrefix(w, "preempt=")
		if is && slices.Contains([]string{modelNone, modelLess, modelFull, modelLazy}, x) {
			model = x
		}
	}
	return model
}

// builtWith is what a kernel's configuration says.
func builtWith(config []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(config))
	for lines.Scan() {
		switch lines.Text() {
		case "CONFIG_PREEMPT_NONE=y":
			return modelNone
		case "CONFIG_PREEMPT_VOLUNTARY=y":
			return modelLess
		case "CONFIG_PREEMPT=y":
			return modelFull
		case "CONFIG_PREEMPT_LAZY=y":
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
