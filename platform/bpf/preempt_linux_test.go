package bpf

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What kernels say of their preemption, as Debian, Ubuntu, Fedora and Arch build them.
func TestPreemption(t *testing.T) {
	const dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-1 (2026-05-01)"
	debian := "CONFIG_PREEMPT_BUILD=y\n# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT_VOLUNTARY=y\n# CONFIG_PREEMPT is not set\nCONFIG_PREEMPT_COUNT=y\nCONFIG_PREEMPT_DYNAMIC=y\n"
	zipped := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return b.String()
	}
	for _, x := range []struct {
		name, version string
		files         map[string]string
		want          string
		unread        map[string]error
	}{
		{"Debian, as it says", dynamic, map[string]string{modelFile: "none (voluntary) full \n"}, modelLess, nil},
		{"told to preempt while it runs", dynamic, map[string]string{modelFile: "none voluntary (full) \n", "/proc/cmdline": "preempt=none"}, modelFull, nil},
		{"lazy", dynamic, map[string]string{modelFile: "none voluntary full (lazy) \n"}, modelLazy, nil},
		{"a file that says nothing", dynamic, map[string]string{modelFile: "none voluntary full\n"}, "", nil},
		{"locked, told at boot", dynamic, map[string]string{"/proc/cmdline": "ro preempt=none quiet preempt=full preempt=rubbish"}, modelFull, nil},
		{"locked, told to the first program", dynamic, map[string]string{"/proc/cmdline": "ro -- preempt=none", "/boot/config-6.1": "CONFIG_PREEMPT=y\n"}, modelFull, nil},
		{"locked, Debian's configuration", dynamic, map[string]string{"/proc/cmdline": "ro", "/boot/config-6.1": debian}, modelLess, nil},
		{"locked, Arch's configuration", dynamic, map[string]string{"/proc/cmdline": "ro", "/proc/config.gz": zipped("CONFIG_PREEMPT=y\n")}, modelFull, nil},
		{"locked, Fedora's configuration", dynamic, map[string]string{"/proc/cmdline": "ro", "/lib/modules/6.1/config": "CONFIG_PREEMPT_LAZY=y\n"}, modelLazy, nil},
		{"locked, told a model that a lazy kernel may not know", dynamic, map[string]string{"/proc/cmdline": "preempt=voluntary", "/boot/config-6.1": "CONFIG_PREEMPT_LAZY=y\n"}, modelLazy, nil},
		{"locked, told to preempt less than it was built for", dynamic, map[string]string{"/proc/cmdline": "preempt=voluntary", "/boot/config-6.1": "CONFIG_PREEMPT=y\n"}, modelLess, nil},
		{"locked, a configuration that is broken", dynamic, map[string]string{"/proc/cmdline": "ro", "/proc/config.gz": "rubbish", "/boot/config-6.1": debian}, modelLess, nil},
		{"locked, without a configuration", dynamic, map[string]string{"/proc/cmdline": "ro"}, "", nil},
		{"locked, with one that does not say it", dynamic, map[string]string{"/proc/cmdline": "ro", "/proc/config.gz": zipped("x\n"), "/boot/config-6.1": "x", "/lib/modules/6.1/config": "x"}, "", nil},
		{"nothing can be read", dynamic, nil, "", nil},
		{"locked", dynamic, map[string]string{"/proc/cmdline": "ro", "/boot/config-6.1": debian}, modelLess, map[string]error{modelFile: unix.EPERM}},
		{"its file cannot be read now", dynamic, map[string]string{"/proc/cmdline": "ro", "/boot/config-6.1": debian}, "", map[string]error{modelFile: unix.EMFILE}},
		{"always", "#1 SMP PREEMPT Mon", nil, modelFull, nil},
		{"real time", "#1 SMP PREEMPT_RT Debian", map[string]string{modelFile: "(none)"}, modelRT, nil},
		{"real time that can change", "#1 SMP PREEMPT_RT PREEMPT_DYNAMIC", nil, modelRT, nil},
		{"always lazy", "#1 SMP PREEMPT_LAZY Mon", nil, modelLazy, nil},
		{"never", "#1 SMP Mon", nil, modelLess, nil},
	} {
		got, err := preemption(x.version, "6.1", func(path string) ([]byte, error) {
			if s, is := x.files[path]; is {
				return []byte(s), nil
			}
			if why, is := x.unread[path]; is {
				return nil, &fs.PathError{Op: "open", Path: path, Err: why}
			}
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		})
		if got != x.want || (err == nil) != (x.want != "") {
			t.Errorf("%s: %q %v, want %q", x.name, got, err, x.want)
		}
	}
}

func FuzzPreemption(f *testing.F) {
	f.Add("#1 SMP PREEMPT_DYNAMIC", "none (voluntary) full", "ro preempt=full", "CONFIG_PREEMPT=y")
	f.Add("#1 SMP PREEMPT_DYNAMIC", "", "", "")
	f.Fuzz(func(t *testing.T, version, model, line, config string) {
		got, err := preemption(version, "6.1", func(path string) ([]byte, error) {
			switch {
			case path == modelFile && model != "":
				return []byte(model), nil
			case path == "/proc/cmdline":
				return []byte(line), nil
			case strings.HasPrefix(path, "/boot/"), path == "/proc/config.gz":
				return []byte(config), nil
			}
			return nil, fs.ErrNotExist
		})
		less := err == nil && (got == modelNone || got == modelLess)
		if _, now, _ := strings.Cut(model, "("); less && slices.Contains(strings.Fields(version), "PREEMPT_DYNAMIC") && (strings.HasPrefix(now, modelFull+")") || strings.HasPrefix(now, modelLazy+")")) {
			t.Errorf("a kernel that says %q is %q", model, got)
		}
		if less && model == "" && strings.TrimSpace(line) == "preempt="+modelFull && strings.TrimSpace(version) == "PREEMPT_DYNAMIC" {
			t.Errorf("a kernel that was told %q is %q", line, got)
		}
		if got == "" && err == nil {
			t.Error("neither a model nor an error")
		}
	})
}
