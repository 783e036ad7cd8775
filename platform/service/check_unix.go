//go:build unix

package service

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// checkExecutable refuses to make a root service of a program that others can replace.
func checkExecutable(path string) error {
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && st.Uid != 0 || info.Mode().Perm()&0o022 != 0 && info.Mode()&os.ModeSticky == 0 {
			return fmt.Errorf("%s can be changed by users other than root: copy the program to /usr/local/bin first", p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
