// Package paths says where Warder stores what on each system. It owns names, and creates nothing.
package paths

import "path/filepath"

// Paths are the directories and files of one installation.
type Paths struct {
	State  string // what must survive a reboot; 0700
	Run    string // sockets, and what ends with the boot
	Config string // the configuration file and a dropped enrollment file
	Kept   string // the last configuration file that could be used; beside the state, wherever that is
}

// Default is where the installed service has its files.
func Default() Paths {
	p := system
	p.Kept = filepath.Join(p.State, keptName)
	return p
}

const keptName = "warder.toml.good"

// Under puts everything below one directory, for an agent that is not the installed service.
func Under(state string) Paths {
	return Paths{State: state, Run: filepath.Join(state, "run"), Config: filepath.Join(state, "config"),
		Kept: filepath.Join(state, keptName)}
}

// Socket is the local API's.
func (p Paths) Socket() string { return filepath.Join(p.Run, "warder.sock") }

// Lists is where the long lists of names are that policies refer to.
func (p Paths) Lists() string { return filepath.Join(p.State, "lists") }

// Quarantine is where files are kept that a policy has taken out of the way.
func (p Paths) Quarantine() string { return filepath.Join(p.State, "quarantine") }

// ConfigFile is the configuration file.
func (p Paths) ConfigFile() string { return filepath.Join(p.Config, "warder.toml") }

// EarlyFile has the policy for the early start: on the root file system, which is mounted first.
func (p Paths) EarlyFile() string { return filepath.Join(p.Config, "early") }

// EnrollmentFile is where mass deployment drops an enrollment.
func (p Paths) EnrollmentFile() string { return filepath.Join(p.Config, "enroll.toml") }
