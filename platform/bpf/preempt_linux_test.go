package bpf

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"strings"
	"testing"
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
	}{
		{"Debian, as it says", dynamic, map[string]string{modelFile: "none (voluntary) full \n"}, modelLess},
		{"told to preempt while it runs", dynamic, map[string]string{modelFile: "none voluntary (full) \n", "/proc/cmdline": "preempt=none"}, modelFull},
		{"lazy", dynamic, map[string]string{modelFile: "none voluntary full (lazy) \n"}, modelLazy},
		{"a file that says nothing", dynamic, map[string]string{modelFile: "none voluntary full\n"}, ""},
		{"locked, told at boot", dynamic, map[string]string{"/proc/cmdline": "ro preempt=none quiet preempt=full preempt=rubbish"}, modelFull},
		{"locked, told to the first program", dynamic, map[string]string{"/proc/cmdline": "ro -- preempt=none", "/boot/config-6.1": "CONFIG_PREEMPT=y\n"}, modelFull},
		{"locked, Debian's configuration", dynamic, map[string]string{"/proc/cmdline": "ro", "/boot/config-6.1": debian}, modelLess},
		{"locked, Arch's configuration", dynamic, map[string]string{"/proc/cmdline": "ro", "/proc/config.gz": zipped("CONFIG_PREEMPT=y\n")}, modelFull},
		{"locked, Fedora's configuration", dynamic, map[string]string{"/proc/cmdline": "ro", "/lib/modules/6.1/config": "CONFIG_PREEMPT_LAZY=y\n"}, modelLazy},
		{"locked, Linux 5.16", dynamic, map[string]string{"/proc/cmdline": "ro", "/boot/config-6.1": "CONFIG_PREEMPT_VOLUNTARY_BEHAVIOUR=y\n"}, modelLess},
		{"locked, a configuration that is broken", dynamic, map[string]string{"/proc/cmdline": "ro", "/proc/config.gz": "rubbish", "/boot/config-6.1": debian}, modelLess},
		{"locked, without a configuration", dynamic, map[string]string{"/proc/cmdline": "ro"}, ""},
		{"locked, with one that does not say it", dynamic, map[string]string{"/proc/cmdline": "ro", "/proc/config.gz": zipped("x\n"), "/boot/config-6.1": "x", "/lib/modules/6.1/config": "x"}, ""},
		{"nothing can be read", dynamic, nil, ""},
		{"always", "#1 SMP PREEMPT Mon", nil, modelFull},
		{"real time", "#1 SMP PREEMPT_RT Debian", map[string]string{modelFile: "(none)"}, modelRT},
		{"real time that can change", "#1 SMP PREEMPT_RT PREEMPT_DYNAMIC", nil, modelRT},
		{"always lazy", "#1 SMP PREEMPT_LAZY Mon", nil, modelLazy},
		{"never", "#1 SMP Mon", nil, modelLess},
	} {
		got, err := preemption(x.version, "6.1", func(path string) ([]byte, error) {
			if s, is := x.files[path]; is {
				return []byte(s), nil
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
		if (got == modelNone || got == modelLess) && err == nil && strings.Contains(" "+strings.Join(strings.Fields(version), " ")+" ", " PREEMPT_RT ") {
			t.Errorf("%q: a real-time kernel is %q", version, got)
		}
		if got == "" && err == nil {
			t.Error("neither a model nor an error")
		}
	})
}
