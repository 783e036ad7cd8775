// Package programs keeps known programs from being started: those that synchronise files with a cloud, and those that take pictures of the
// screen. Programs in the kernel refuse them (platform/bpf, docs/decisions/0038), and stay when the agent ends; the guard stops those that
// run already. Where the kernel takes no programs, the doorman refuses installed ones. Which programs are meant is a table of facts
// (enforce/fact/clients.go, enforce/fact/tools.go). The package owns no policy.
package programs

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// group is a table of programs that one setting is about.
type group struct {
	name    string // of the capability, of its resource's kind, and of its set of programs in the kernel
	key     enforce.Key
	setting enforce.Setting
	apps    fact.Apps
	at      func(*fact.Machine) *fact.Known[[]fact.Running]
	set     *bpf.Set
	refused func(ids []string) string // the resource's value
	parse   func(value string) (ids []string, ok bool)
	rules   func(platform.Rules) (r rules, ok bool)
	about   string // the kind of the keys of its events
	what    string // for people
	// What is so where it is done, where the kernel takes no programs, and elsewhere.
	limit, without, only string
	level                string // with all of it
}

// rules are a section's about the programs of a group.
type rules struct {
	judge enforce.Judge[fact.Running]
	about bool // one can be refused in any mode
	act   bool // and is kept from running
}

// clients are programs that synchronise files with a cloud.
var clients = group{
	name: "cloudsync", key: enforce.Key{Kind: "cloudsync", ID: "clients"}, setting: "storage.cloud_sync_allowed", apps: fact.Clients,
	at: func(m *fact.Machine) *fact.Known[[]fact.Running] { return &m.Clients }, set: &bpf.CloudSync,
	refused: fact.ClientsRefused, parse: fact.ParseClientsRefused, about: "cloudsync.client", what: "sync clients",
	rules: func(r platform.Rules) (out rules, ok bool) {
		s, ok := r.(interface {
			Clients() enforce.Judge[fact.Running]
			AboutClients() bool
			CanStop() bool
		})
		if ok {
			out = rules{s.Clients(), s.AboutClients(), s.CanStop()}
		}
		return out, ok
	},
	level: fact.Enforced,
	limit: "known clients are refused by the names of their programs, and copies of installed ones by their contents; a browser's uploads, a program that was changed and renamed, " +
		"what a loader of its own or an emulator runs from memory, and clients that are not in the table are not seen",
	without: "clients that a package has installed below /usr or /opt cannot start while the agent runs; others, copies, and what a loader runs can, and are stopped within a minute if they have a client's name",
	only:    "sync clients are only refused on Linux in this version",
}

// tools are programs that take pictures of the screen, or record it.
var tools = group{
	name: "screenshots", key: enforce.Key{Kind: "screenshots", ID: "tools"}, setting: "dlp.screenshot_allowed", apps: fact.Tools,
	at: func(m *fact.Machine) *fact.Known[[]fact.Running] { return &m.Tools }, set: &bpf.Screenshots,
	refused: fact.ToolsRefused, parse: fact.ParseToolsRefused, about: "screenshots.program", what: "programs that take pictures of the screen",
	rules: func(r platform.Rules) (out rules, ok bool) {
		s, ok := r.(interface {
			Tools() enforce.Judge[fact.Running]
			AboutTools() bool
			CanStopTools() bool
		})
		if ok {
			out = rules{s.Tools(), s.AboutTools(), s.CanStopTools()}
		}
		return out, ok
	},
	level: fact.Partial,
	limit: "on Wayland alone, because on X11 every program can read the screen; known programs cannot start, GNOME's keys do nothing, portals and browsers do not offer it; GNOME's system menu still takes pictures, " +
		"a program that is not in the table can ask the desktop itself in some ways, and a user can undo what their own settings outrank (docs/dlp.md)",
	without: "known programs that a package has installed below /usr or /opt cannot start while the agent runs; others, copies, and what a loader runs can, and are stopped within a minute if they have such a name",
	only:    "screenshots are only refused on Linux in this version",
}

// claimed are what a group supports, on every system.
func (g *group) claims() []platform.Claim {
	out := []platform.Claim{{Setting: g.setting, OS: "linux", Level: g.level, Limit: g.limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: g.setting, OS: os, Level: fact.Unsupported, Limit: g.only})
	}
	return out
}
