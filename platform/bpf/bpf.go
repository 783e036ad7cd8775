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
}

// Program is one program of a set, and where it is attached.
type Program struct {
	Name string // of the function, which is also the name of the pinned link
	Hook string // Cgroup, or the kernel's function before which it runs
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
var Media = Set{Name: "media", Object: mediaObject, Programs: []Program{{"media_came", "bdev_add"}, {"media_open", Cgroup}},
	Maps: []string{"disks", "allowed", "config", "counts", "refusals"}}

// Sets are all of them.
var Sets = []*Set{&Media}
