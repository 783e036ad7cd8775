package agent

import "golang.org/x/sys/unix"

// smallPages keeps the kernel from backing a few hundred kilobytes with huge pages: where they are
// "always" on, they made half of the agent's resident memory. A refusal costs only that.
func smallPages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }
