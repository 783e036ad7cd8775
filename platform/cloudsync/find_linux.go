package cloudsync

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
)

// The places of installed programs, and file systems that answer by themselves: a program in a place that does not answer would keep
// the agent waiting.
var (
	places = []string{"/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/games", "/usr/libexec", "/usr/lib/*", "/usr/lib/*/*", "/usr/libexec/*", "/opt/*", "/opt/*/bin",
		"/opt/*/*"}
	answering = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "overlay", "squashfs", "erofs", "tmpfs"}
	// essential programs can never be taken for a client's, whatever somebody has put under a client's name.
	essential = []string{"/proc/self/exe", "/proc/1/exe", "/bin/sh", "/bin/bash", "/usr/bin/env", "/usr/bin/busybox", "/bin/busybox", "/usr/bin/python3", "/usr/bin/perl", "/usr/bin/node",
		"/usr/bin/snap", "/usr/bin/flatpak", "/usr/bin/bwrap", "/usr/bin/toybox", "/usr/bin/coreutils"}
)

// maxFound bounds what is found of each kind (as in platform/bpf/c/cloudsync.c).
const maxFound = 500

// find finds the installed programs of clients: files of root's that nobody else can change. Whoever could would have us refuse any
// program, by a copy of it under a client's name.
func find(ids []string) (prints map[fingerprint]id, files map[known]id) {
	prints, files = map[fingerprint]id{}, map[known]id{}
	no := map[fingerprint]bool{}
	for _, path := range essential {
		if f, err := os.Open(path); err == nil {
			if p, _, ok := printOf(f); ok {
				no[p] = true
			}
			_ = f.Close()
		}
	}
	var mounts []mountinfo.Mount
	if f, err := os.Open("/proc/self/mountinfo"); err == nil {
		mounts, _, _ = mountinfo.Parse(f)
		_ = f.Close()
	}
	for _, pattern := range places {
		if !answers(mounts, strings.TrimRight(pattern, "/*")) {
			continue
		}
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			if len(prints) >= maxFound || !answers(mounts, dir) {
				continue
			}
			for _, s := range ids {
				c, _ := fact.ClientOf(s)
				for _, program := range c.Programs {
					if strings.HasSuffix(program, "*") {
						continue // what is called so lies in somebody's home
					}
					look(filepath.Join(dir, program), c, no, prints, files)
				}
			}
		}
	}
	return prints, files
}

// answers reports whether a path is on a file system that answers by itself, by the list of mounts.
func answers(mounts []mountinfo.Mount, path string) bool {
	fs, most := "", -1
	for _, m := range mounts {
		if (m.Point == "/" || path == m.Point || strings.HasPrefix(path, m.Point+"/")) && len(m.Point) >= most {
			fs, most = m.FS, len(m.Point)
		}
	}
	return slices.Contains(answering, fs)
}

// look adds a file if it is a client's program. One with other names is left out: it may be another program as well.
func look(path string, c *fact.Client, no map[fingerprint]bool, prints map[fingerprint]id, files map[known]id) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	p, st, ok := printOf(f)
	if !ok || st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 || st.Nlink != 1 || no[p] {
		return
	}
	prints[p] = idOf(c.ID)
	if dev, ino, err := bpf.File(path); err == nil && ino == st.Ino {
		files[known{Ino: ino, Size: p.Size, Dev: dev}] = idOf(c.ID)
	}
}

// printOf reads by what a program is known. A file that is shorter than what is read of it is filled up with zeros, as the kernel does.
func printOf(f *os.File) (p fingerprint, st unix.Stat_t, ok bool) {
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 {
		return p, st, false
	}
	var head [headSize]byte
	if n, err := unix.Pread(int(f.Fd()), head[:], 0); err != nil || n == 0 {
		return p, st, false
	}
	return fingerprint{Size: uint64(st.Size), Head: headSum(&head)}, st, true
}
