// Package bpf is the one place from which programs are loaded into the kernel: it finds out whether the kernel takes them,
// loads them, attaches them, and pins them, so that they stay when the agent ends. It knows no policy, and not what the
// programs are for; each group of them (Set) belongs to one capability.
//
// The programs are compiled ahead (make generate) and embedded. Their sources are in c/.
package bpf

import (
	"crypto/sha256"
	_ "embed"
)

//go:generate ./generate.sh

// Set is a group of programs that are attached together, and the maps that they share.
type Set struct {
	Name     string // of its directory
	Object   []byte // as the compiler left it
	Programs []Program
	Maps     []string // those that are pinned
	// Idle is the size of the beginning of the map "config" that is zero while the programs do nothing.
	Idle int
	// Every says that the programs have to see each call: a kernel that passes over some of them does not carry the set.
	Every bool
}

// Program is one program of a set, and where it is attached.
type Program struct {
	Name string // of the function, which is also the name of the pinned link
	Hook string // Cgroup, or the kernel's function or tracepoint at which it runs; "sys_…" is a system call
	// Args is how many arguments the kernel's function has where this program fits, and Else the program for where it has
	// another number; 0: it fits everywhere.
	Args int
	Else string
	// Optional: a kernel that has no such function does without the program.
	Optional bool
}

// Cgroup is the hook of programs that are asked whenever a process of any cgroup opens a device.
const Cgroup = "cgroup device"

// Version tells one build of a set from another.
func (s *Set) Version() (v [16]byte) {
	sum := sha256.Sum256(s.Object)
	copy(v[:], sum[:])
	return v
}

//go:embed objects/media.o
var mediaObject []byte

// Media refuses to open external disks. platform/media tells it which.
var Media = Set{Name: "media", Object: mediaObject, Programs: []Program{{Name: "media_came", Hook: "bdev_add"}, {Name: "media_open", Hook: Cgroup}},
	Maps: []string{"disks", "allowed", "config", "counts", "refusals"}}

//go:embed objects/filesize.o
var fileSizeObject []byte

// FileSize keeps files on external disks from growing past a size. platform/media tells it which.
var FileSize = Set{Name: "filesize", Object: fileSizeObject, Idle: 8, Every: true, Programs: []Program{
	{Name: "size_came", Hook: "bdev_add"}, {Name: "size_rests", Hook: "bd_link_disk_holder"}, {Name: "size_loop", Hook: "blkdev_ioctl", Args: 3, Optional: true}, {Name: "size_loop_32", Hook: "compat_blkdev_ioctl", Args: 3, Optional: true},
	{Name: "size_ask", Hook: "security_file_permission"}, {Name: "size_write", Hook: "rw_verify_area"},
	{Name: "size_alloc", Hook: "vfs_fallocate"}, {Name: "size_clone", Hook: "vfs_clone_file_range"},
	{Name: "size_same", Hook: "vfs_dedupe_file_range_one"},
	{Name: "size_sys_writev", Hook: "sys_writev", Optional: true}, {Name: "size_sys_pwritev", Hook: "sys_pwritev", Optional: true},
	{Name: "size_sys_pwritev2", Hook: "sys_pwritev2", Optional: true}, {Name: "size_sys_io_submit", Hook: "sys_io_submit", Optional: true},
	{Name: "size_io_write", Hook: "io_write", Optional: true},
	{Name: "size_wrote", Hook: "vfs_write"}, {Name: "size_alloced", Hook: "vfs_fallocate"}, {Name: "size_exit", Hook: "sched_process_exit"},
	{Name: "size_cut", Hook: "security_inode_setattr", Args: 3, Else: "size_cut_2"}, {Name: "size_open", Hook: "security_file_open"}, {Name: "size_flags", Hook: "security_file_fcntl"}},
	Maps: []string{"disks", "allowed", "config", "counts", "programs", "refusals", "doing", "sums", "names", "excepted", "marks"}}

//go:embed objects/cloudsync.o
var cloudSyncObject []byte

// CloudSync keeps sync clients from being started. platform/programs tells it which.
var CloudSync = Set{Name: "cloudsync", Object: cloudSyncObject, Idle: 4, Every: true, Programs: []Program{{Name: "cloud_exec", Hook: "security_bprm_check"}, {Name: "cloud_map", Hook: "security_mmap_file"},
	{Name: "cloud_protect", Hook: "security_file_mprotect"}},
	Maps: []string{"config", "names", "prints", "files", "counts", "refusals"}}

//go:embed objects/screenshots.o
var screenshotsObject []byte

// Screenshots keeps programs that take pictures of the screen from being started. platform/programs tells it which.
var Screenshots = Set{Name: "screenshots", Object: screenshotsObject, Idle: 4, Every: true, Programs: []Program{{Name: "shot_exec", Hook: "security_bprm_check"}, {Name: "shot_map", Hook: "security_mmap_file"},
	{Name: "shot_protect", Hook: "security_file_mprotect"}},
	Maps: []string{"config", "names", "prints", "files", "counts", "refusals"}}

// Sets are all of them.
var Sets = []*Set{&Media, &FileSize, &CloudSync, &Screenshots}
