// Package policy is the policy document: every section's settings, strict decoding that reports all errors at once, the
// mode of each setting, the digest over the bytes received, diff and merge. It owns what the document's text means;
// what a setting does to a machine is decided in its section. Documents come from a signed assignment (sync/protocol)
// or an administrator (sync/server). The shape is the Policies API's, with a compliance mode per policy and section.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/sensitive"
)

// Optional is a setting that may be absent. Absent is not empty: an absent setting is unmanaged.
type Optional[T any] struct {
	V   T
	Set bool
}

// Or returns the value, or d if it is absent.
func (o Optional[T]) Or(d T) T {
	if o.Set {
		return o.V
	}
	return d
}

// DiskSubject is how an exception of the storage section begins that names a disk by its serial.
const DiskSubject = "disk:"

// ClientSubject is how one begins that names a sync client (fact.Clients).
const ClientSubject = "client:"

// MountSubject is how one begins that names a file system by where it is mounted.
const MountSubject = "mount:"

// FileSubject is how one begins that names a file on an external disk, by its path.
const FileSubject = "file:"

// PrintSubject is the exception of the dlp section that is about printing.
const PrintSubject = "print"

// SensitiveSubject is the one that is about sensitive data, wherever it was found.
const SensitiveSubject = "sensitive"

// ScreenshotSubject is the one that is about pictures of the screen.
const ScreenshotSubject = "screenshot"

// ClipboardSubject is the one that is about the clipboard.
const ClipboardSubject = "clipboard"

// Document is one decoded policy.
type Document struct {
	ID, Organization, Name, Description string
	Version                             int
	Active                              bool
	Raw                                 []byte // policy_data as received
	Digest                              string // see digest.go

	USB     USB
	Storage Storage
	Network Network
	DLP     DLP

	strict    bool // see Options
	modes     map[enforce.Setting]enforce.Mode
	sectioned map[string]bool   // sections with a mode of their own
	order     []enforce.Setting // present settings, in the table's order
	Unknown   []Unknown         // settings of a newer document, reported unsupported
	Sources   map[enforce.Setting]string
	// Exceptions let single subjects pass for a time, by section. They are not part of the written document: the agent
	// adds the current ones.
	Exceptions map[string][]string
	// NetworkFree says that it may not change the network: what would is only watched. The agent adds it.
	NetworkFree bool
	// Portal is until when the way to a captive portal is open; zero if it is not. The agent adds it, too.
	Portal time.Time

	contents map[ListUse]Content // of its lists
	derived  *derived
}

// InMode returns the document as an assignment with this mode would deliver it: every setting has this mode, unless its
// section is written with a lower one. It is for questions about a document; a device receives the mode as text.
func (d *Document) InMode(mode enforce.Mode) *Document {
	c := *d
	c.modes = map[enforce.Setting]enforce.Mode{}
	for s, m := range d.modes {
		c.modes[s] = mode
		if d.sectioned[s.Section()] {
			c.modes[s] = min(m, mode)
		}
	}
	return &c
}

// derived is computed from a document's values, and shared with its copies in other modes.
type derived struct {
	mu  sync.Mutex
	all map[string]any
}

// Derived returns what follows from the document's values alone, not from modes or exceptions. It is computed once and
// shared with copies that differ only in these: a policy is compiled for many machines, and a long list is the same for
// all.
func (d *Document) Derived(name string, make func() any) any {
	if d.derived == nil {
		return make()
	}
	d.derived.mu.Lock()
	defer d.derived.mu.Unlock()
	v, ok := d.derived.all[name]
	if !ok {
		v = make()
		d.derived.all[name] = v
	}
	return v
}

// Excepted returns the document with the given exceptions, by section.
func (d *Document) Excepted(list map[string][]string) *Document {
	c := *d
	c.Exceptions = list
	return &c
}

// WithPortal returns the document with the way to a captive portal open.
func (d *Document) WithPortal(until time.Time) *Document {
	c := *d
	c.Portal = until
	return &c
}

// Capped returns the document with no setting in a higher mode than most gives for it.
func (d *Document) Capped(most func(enforce.Setting) enforce.Mode) *Document {
	modes := map[enforce.Setting]enforce.Mode{}
	capped := false
	for s, m := range d.modes {
		modes[s] = min(m, most(s))
		capped = capped || modes[s] != m
	}
	if !capped {
		return d
	}
	c := *d
	c.modes = modes
	return &c
}

// WithNetworkFree returns the document so that it does not change the network beside the settings that are about it.
func (d *Document) WithNetworkFree() *Document {
	c := *d
	c.NetworkFree = true
	return &c
}

// Unknown is a setting that this version does not know.
type Unknown struct {
	Setting enforce.Setting
	Mode    enforce.Mode
}

// USB is the section "usb".
type USB struct {
	Allowed        Optional[bool]
	Whitelist      Optional[[]USBEntry]
	AllowedClasses Optional[[]Class]
	AuditOnly      Optional[bool]
}

// Storage is the section "storage".
type Storage struct {
	EncryptionRequired     Optional[bool]
	ExternalStorageAllowed Optional[bool]
	CloudSyncAllowed       Optional[bool]
	MaxFileSizeMB          Optional[int64]  // MiB
	EventPaths             Optional[string] // PathsHashed or PathsPlain
}

// Network is the section "network".
type Network struct {
	VPNRequired    Optional[bool]
	VPNAlwaysOn    Optional[bool]
	AllowedDomains Optional[[]Name]
	BlockedDomains Optional[[]Name]
	AllowedLists   Optional[[]ListRef] // too long for a document
	BlockedLists   Optional[[]ListRef]
	SplitTunnel    Optional[bool]
	VPN            Optional[VPN]
}

// VPN identifies the tunnel that counts.
type VPN struct {
	Interface        string
	Peer             string
	Gateway          netip.Addr
	Endpoints        []string // host, address or either with :port
	BootstrapDomains []Name
}

// SplitEndpoint is the host of an endpoint of network.vpn, and its port; 0 without one.
func SplitEndpoint(s string) (host string, port uint16) {
	host, number, has := cutPort(s)
	host = strings.ToLower(host)
	if has {
		n, _ := strconv.ParseUint(number, 10, 16)
		port = uint16(n)
	}
	return host, port
}

// Around are the names of hosts that must be known while a VPN is asked for: its endpoints, and what brings it up.
func (n *Network) Around() (out []string) {
	for _, e := range n.VPN.V.Endpoints {
		host, _ := SplitEndpoint(e)
		out = append(out, host)
	}
	for _, b := range n.VPN.V.BootstrapDomains {
		if b.Host != "" && b.Scope != Below {
			out = append(out, b.Host)
		}
	}
	return out
}

// AsksForVPN reports whether anything is said about tunnels.
func (n *Network) AsksForVPN() bool {
	return n.VPN.Set || n.VPNRequired.Set || n.VPNAlwaysOn.Set || n.SplitTunnel.Set
}

// DLP is the section "dlp".
type DLP struct {
	ClipboardSharing   Optional[bool]
	ClipboardDirection Optional[string] // none, work_to_personal, personal_to_work, both
	ScreenshotAllowed  Optional[bool]
	PrintAllowed       Optional[bool]
	Patterns           Optional[[]Expression]        // dlp.sensitive_data_patterns
	Named              Optional[[]sensitive.Pattern] // dlp.patterns
	ScanTimeout        Optional[string]              // ScanAllow or ScanDeny
	QuarantineDays     Optional[int64]
	Zones              Optional[map[string]Zone]
}

// ParseProgram reads an entry of a zone's executables: the path of a program, and the SHA-256 of its file in hex, "" if any file there
// will do.
func ParseProgram(entry string) (file, sum string, err error) {
	file, sum, named := strings.Cut(entry, "@sha256:")
	if b, err := hex.DecodeString(sum); named && (err != nil || len(b) != sha256.Size) {
		return "", "", fmt.Errorf("what follows @sha256: must be 64 hex digits (received %q)", sum)
	}
	return file, strings.ToLower(sum), nil
}

// Zone says who belongs to "work" or "personal".
type Zone struct {
	Users, Slices, Executables []string
}

// Mode is the mode of one setting; Off if the document does not manage it.
func (d *Document) Mode(s enforce.Setting) enforce.Mode { return d.modes[s] }

// Managed lists the settings of a section that the document sets, in a fixed order.
func (d *Document) Managed(section string) []enforce.Setting {
	var out []enforce.Setting
	for _, s := range d.order {
		if s.Section() == section {
			out = append(out, s)
		}
	}
	return out
}

// Settings lists every setting that the document sets, in a fixed order.
func (d *Document) Settings() []enforce.Setting { return d.order }
