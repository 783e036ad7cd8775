//go:build unix

package server

import (
	"fmt"
	"os"
	"syscall"
)

// sameOwner gives a file that root has made to whom a directory belongs: the server may run as somebody else.
func sameOwner(path, as string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(as)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("cannot give it to the server's user: %w", err)
	}
	return nil
}
