//go:build !windows

package early

import (
	"fmt"
	"os"
	"syscall"
)

// owned refuses a file that another user could have written.
func owned(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: it is not a file for root alone (mode %s)", path, info.Mode())
	}
	return nil
}
