//go:build unix

package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// owner returns the user and group of a data directory; 0 if it does not exist yet, or belongs to root.
func owner(dir string) (uid, gid int, err error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, nil
	}
	return int(st.Uid), int(st.Gid), nil
}

// Become changes root into the user of a data directory, for good. The server runs as that user and has to read and
// write what a command creates there, and that user may have put a link or a pipe in the way. It does nothing for other
// users.
func Become(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := owner(dir)
	if err != nil || uid == 0 {
		return err
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return err
	}
	if err := syscall.Setgid(gid); err != nil {
		return err
	}
	return syscall.Setuid(uid)
}

// OwnUser refuses to run as root in a data directory that belongs to another user, for commands that also need files
// elsewhere.
func OwnUser(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, _, err := owner(dir)
	if err != nil || uid == 0 {
		return err
	}
	name := "#" + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	return fmt.Errorf("%s belongs to the user %s: run this command as that user (sudo -u %s warder-server …), with files that this "+
		"user may use",
		dir, name, name)
}
