//go:build linux

package main

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memfd runs a program from a copy in memory, which has no name.
func memfd(args []string) error {
	if len(args) < 1 {
		return errors.New("which program?")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "")
	if _, err := f.Write(text); err != nil {
		return err
	}
	argv := append([]string{"none"}, args[1:]...)
	return execveat(int(f.Fd()), argv)
}

// execveat starts an open file.
func execveat(fd int, argv []string) error {
	empty, _ := unix.BytePtrFromString("")
	var list []*byte
	for _, a := range argv {
		p, err := unix.BytePtrFromString(a)
		if err != nil {
			return err
		}
		list = append(list, p)
	}
	list = append(list, nil)
	env := []*byte{nil}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(empty)), uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}
