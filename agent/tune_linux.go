package agent

import (
	"bufio"
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// smallPages keeps the kernel from using huge pages for a few hundred kilobytes. On systems where they are set to
// "always" they made up half of the agent's resident memory. Errors are ignored: only the saving is lost.
func smallPages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }

// unmapProgram gives back the pages of the program and its libraries that only the start needed: half of an idle
// agent's memory. They stay in the page cache, and are mapped again when they are touched. Only pages that cannot be
// written and contain no private changes (a relocation, a breakpoint) are given back.
func unmapProgram() {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var from, size uintptr
	for lines := bufio.NewScanner(f); lines.Scan(); {
		word := bytes.Fields(lines.Bytes())
		switch {
		case len(word) >= 6 && bytes.Contains(word[0], []byte{'-'}):
			from, size = 0, 0
			a, b, _ := bytes.Cut(word[0], []byte{'-'})
			start, err1 := strconv.ParseUint(string(a), 16, 64)
			end, err2 := strconv.ParseUint(string(b), 16, 64)
			if err1 == nil && err2 == nil && word[1][1] == '-' && word[5][0] == '/' {
				from, size = uintptr(start), uintptr(end-start)
			}
		case size > 0 && len(word) == 3 && string(word[0]) == "Anonymous:" && string(word[1]) == "0":
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, size, unix.MADV_DONTNEED)
			size = 0
		}
	}
}
