package volume

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMaps(t *testing.T) {
	const maps = `7f00-7f01 r--p 00000000 08:01 12 /mnt/a
7f01-7f02 rw-p 00000000 08:01 12 /mnt/private
7f02-7f03 rw-s 00000000 08:11 13 /mnt/b
`
	for dev, want := range map[uint64]bool{unix.Mkdev(8, 0x11): true, unix.Mkdev(8, 1): false, unix.Mkdev(8, 11): false} {
		if got := parseMaps(strings.NewReader(maps), map[uint64]bool{dev: true}); got != want {
			t.Errorf("device %x: %v", dev, got)
		}
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add("7f02-7f03 rw-s 00000000 08:11 13 /mnt/b\n")
	f.Fuzz(func(_ *testing.T, in string) { parseMaps(strings.NewReader(in), map[uint64]bool{1: true}) })
}

func TestParseLeast(t *testing.T) {
	for text, want := range map[string]int{"": 1000, "UID_MIN\t\t 500\n": 500, "#UID_MIN 5\nUID_MIN x\n": 1000, "UID_MIN 0": 1000,
		"SYS_UID_MIN 100\n": 1000} {
		if got := parseLeast(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestParseBacking(t *testing.T) {
	const stats = "BdiWriteback:              64 kB\nBdiReclaimable:          4096 kB\nBdiDirtyThresh:        116936 kB\n"
	if got := parseBacking(stats); got != 4160 {
		t.Errorf("%d KiB, want 4160", got)
	}
}
