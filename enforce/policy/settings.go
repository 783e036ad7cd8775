package policy

import (
	"fmt"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/sensitive"
)

// Setting is one line of the document's table: how the setting is read and checked, shown, copied, and described. The
// schema on the API's pages, the README and "warder explain" all come from it.
type Setting struct {
	Name  enforce.Setting
	Shape Shape
	Order Order

	decode func(*Document, reader)
	show   func(*Document) []string // one text, or one per list entry; list settings are compared entry by entry
	list   bool
	copy   func(to, from *Document)
}

// Shape describes a value as JSON schema does, as far as settings need it.
type Shape struct {
	Type     string // boolean, integer, string, array, object
	Doc      string // what it means, for people
	Enum     []string
	Min, Max int64            // of an integer
	Items    string           // of an array of strings: what an entry looks like
	Fields   map[string]Shape // of an object, or of each entry of an array of objects; it has no others
}

// Order says which of two values of a setting restricts more.
type Order uint8

// Orders. Where there is none, neither of two values is the stricter one.
const (
	NoOrder Order = iota
	FalseStricter
	TrueStricter
	LessStricter
	MoreStricter
)

// flag makes the row of a boolean setting.
func flag(name enforce.Setting, stricter Order, doc string, at func(*Document) *Optional[bool]) Setting {
	return Setting{
		Name: name, Shape: Shape{Type: "boolean", Doc: doc}, Order: stricter,
		decode: func(d *Document, r reader) { *at(d) = r.bool() },
		show:   func(d *Document) []string { return []string{strconv.FormatBool(at(d).V)} },
		copy:   func(to, from *Document) { *at(to) = *at(from) },
	}
}

// entries makes the row of a list setting with at most the given number of entries.
func entries[T fmt.Stringer](name enforce.Setting, doc, item string, most int, parse func(string) (T, error),
	at func(*Document) *Optional[[]T]) Setting {
	return Setting{
		Name: name, list: true, Shape: Shape{Type: "array", Doc: doc, Items: item},
		decode: func(d *Document, r reader) { *at(d) = listOf(r, most, parse) },
		show: func(d *Document) []string {
			out := make([]string, 0, len(at(d).V))
			for _, e := range at(d).V {
				out = append(out, e.String())
			}
			return out
		},
		copy: func(to, from *Document) { *at(to) = *at(from) },
	}
}

// lists makes the row of a setting that names long lists.
func lists(name enforce.Setting, doc string, at func(*Document) *Optional[[]ListRef]) Setting {
	return Setting{
		Name: name, list: true, Shape: Shape{Type: "array", Doc: doc, Fields: map[string]Shape{
			"id": {Type: "string", Doc: "of the list"}, "sha256": {Type: "string", Doc: "which version of it"}}},
		decode: func(d *Document, r reader) { *at(d) = readLists(r) },
		show: func(d *Document) []string {
			out := make([]string, 0, len(at(d).V))
			for _, e := range at(d).V {
				out = append(out, e.String())
			}
			return out
		},
		copy: func(to, from *Document) { *at(to) = *at(from) },
	}
}

const (
	nameItem = "name, *.name, =name, address or CIDR"
	maxMiB   = 1 << 40
)

// The values of storage.event_paths.
const (
	PathsHashed = "hashed"
	PathsPlain  = "plain"
)

// The settings that have patterns of sensitive data.
const (
	SettingPatterns enforce.Setting = "dlp.sensitive_data_patterns"
	SettingNamed    enforce.Setting = "dlp.patterns"
)

// The values of dlp.scan_timeout.
const (
	ScanAllow = "allow"
	ScanDeny  = "deny"
)

var scanTimeouts = []string{ScanAllow, ScanDeny}

const (
	maxPatterns = 1000
	maxDays     = 3650
)

var eventPaths = []string{PathsHashed, PathsPlain}

var directions = []string{"none", "work_to_personal", "personal_to_work", "both"}

var zoneShape = Shape{Type: "object", Doc: "who belongs to it", Fields: map[string]Shape{
	"users":       {Type: "array", Items: "user name"},
	"slices":      {Type: "array", Items: "systemd slice or scope"},
	"executables": {Type: "array", Items: "path of a program, or PATH@sha256:HEX"},
}}

// settings lists every setting that this version knows, in the order of its sections.
var settings = []Setting{
	flag("usb.allowed", FalseStricter, "allow any USB device", func(d *Document) *Optional[bool] { return &d.USB.Allowed }),
	entries("usb.whitelist", "devices that are allowed", "vendor:product, vendor:* or vendor:product:SERIAL", maxList, ParseUSBEntry,
		func(d *Document) *Optional[[]USBEntry] { return &d.USB.Whitelist }),
	entries("usb.allowed_classes", "kinds of devices that are allowed", "hid, audio, mass_storage, … or two hex digits", 256, ParseClass,
		func(d *Document) *Optional[[]Class] { return &d.USB.AllowedClasses }),
	flag("usb.audit_only", FalseStricter, "report and refuse nothing", func(d *Document) *Optional[bool] { return &d.USB.AuditOnly }),

	flag("storage.encryption_required", TrueStricter, "disks must be encrypted",
		func(d *Document) *Optional[bool] { return &d.Storage.EncryptionRequired }),
	flag("storage.external_storage_allowed", FalseStricter, "allow sticks, cards and phones",
		func(d *Document) *Optional[bool] { return &d.Storage.ExternalStorageAllowed }),
	flag("storage.cloud_sync_allowed", FalseStricter, "allow programs that synchronise files with a cloud",
		func(d *Document) *Optional[bool] { return &d.Storage.CloudSyncAllowed }),
	{
		Name: "storage.max_file_size_mb", Order: LessStricter, Shape: Shape{Type: "integer", Doc: "largest file on external storage, in MiB", Min: 0,
			Max: maxMiB},
		decode: func(d *Document, r reader) { d.Storage.MaxFileSizeMB = r.int(0, maxMiB) },
		show:   func(d *Document) []string { return []string{strconv.FormatInt(d.Storage.MaxFileSizeMB.V, 10)} },
		copy:   func(to, from *Document) { to.Storage.MaxFileSizeMB = from.Storage.MaxFileSizeMB },
	},
	{
		Name: "storage.event_paths", Shape: Shape{Type: "string", Doc: "how events name files: by a mark that says nothing (default), or by their paths",
			Enum: eventPaths},
		decode: func(d *Document, r reader) { d.Storage.EventPaths = r.oneOf(eventPaths...) },
		show:   func(d *Document) []string { return []string{d.Storage.EventPaths.V} },
		copy:   func(to, from *Document) { to.Storage.EventPaths = from.Storage.EventPaths },
	},

	flag("network.vpn_required", TrueStricter, "all traffic needs the VPN", func(d *Document) *Optional[bool] { return &d.Network.VPNRequired }),
	flag("network.vpn_always_on", TrueStricter, "nothing passes while the VPN is down",
		func(d *Document) *Optional[bool] { return &d.Network.VPNAlwaysOn }),
	entries("network.allowed_domains", "names that may be reached", nameItem, maxList, ParseName,
		func(d *Document) *Optional[[]Name] { return &d.Network.AllowedDomains }),
	entries("network.blocked_domains", "names that may not be reached", nameItem, maxList, ParseName,
		func(d *Document) *Optional[[]Name] { return &d.Network.BlockedDomains }),
	lists("network.allowed_lists", "long lists of names that may be reached",
		func(d *Document) *Optional[[]ListRef] { return &d.Network.AllowedLists }),
	lists("network.blocked_lists", "long lists of names that may not be reached",
		func(d *Document) *Optional[[]ListRef] { return &d.Network.BlockedLists }),
	flag("network.split_tunnel", FalseStricter, "allow routes beside the tunnel", func(d *Document) *Optional[bool] { return &d.Network.SplitTunnel }),
	{
		Name: "network.vpn", Shape: Shape{Type: "object", Doc: "the tunnel that counts", Fields: map[string]Shape{
			"interface": {Type: "string", Doc: "its name"}, "peer": {Type: "string", Doc: "its peer's key"},
			"gateway":           {Type: "string", Doc: "an IP address"},
			"endpoints":         {Type: "array", Items: "host or address, with :port or without"},
			"bootstrap_domains": {Type: "array", Doc: "reachable before the VPN is up", Items: nameItem}}},
		decode: func(d *Document, r reader) { d.Network.VPN = readVPN(r) },
		show:   func(d *Document) []string { return []string{fmt.Sprintf("%+v", d.Network.VPN.V)} },
		copy:   func(to, from *Document) { to.Network.VPN = from.Network.VPN },
	},

	flag("dlp.clipboard_sharing", FalseStricter, "allow the clipboard between work and personal",
		func(d *Document) *Optional[bool] { return &d.DLP.ClipboardSharing }),
	{
		Name: "dlp.clipboard_direction", Shape: Shape{Type: "string", Doc: "which way the clipboard may go", Enum: directions},
		decode: func(d *Document, r reader) { d.DLP.ClipboardDirection = r.oneOf(directions...) },
		show:   func(d *Document) []string { return []string{d.DLP.ClipboardDirection.V} },
		copy:   func(to, from *Document) { to.DLP.ClipboardDirection = from.DLP.ClipboardDirection },
	},
	flag("dlp.screenshot_allowed", FalseStricter, "allow screenshots", func(d *Document) *Optional[bool] { return &d.DLP.ScreenshotAllowed }),
	flag("dlp.print_allowed", FalseStricter, "allow printing", func(d *Document) *Optional[bool] { return &d.DLP.PrintAllowed }),
	costing(entries(SettingPatterns, "what counts as sensitive", "RE2 expression", maxPatterns, parsePattern,
		func(d *Document) *Optional[[]Expression] { return &d.DLP.Patterns })),
	{
		Name: SettingNamed, list: true, Shape: Shape{Type: "array", Doc: "what counts as sensitive, with names and checks", Fields: map[string]Shape{
			"name":      {Type: "string", Doc: "what events call it"},
			"regex":     {Type: "string", Doc: "RE2 expression"},
			"validator": {Type: "string", Doc: "what must be true of a match", Enum: sensitive.Validators()},
			"min_count": {Type: "integer", Doc: "how many matches there must be (default 1)", Min: 1, Max: sensitive.MaxCount},
			"window":    {Type: "integer", Doc: "bytes of text within which they must be (default: anywhere)", Min: 1, Max: sensitive.MaxWindow}}},
		decode: func(d *Document, r reader) {
			if affordable(r) {
				d.DLP.Named = readPatterns(r)
			}
		},
		show: func(d *Document) []string {
			out := make([]string, 0, len(d.DLP.Named.V))
			for _, p := range d.DLP.Named.V {
				out = append(out, p.String())
			}
			return out
		},
		copy: func(to, from *Document) { to.DLP.Named = from.DLP.Named },
	},
	{
		Name: "dlp.scan_timeout", Shape: Shape{Type: "string", Doc: "whether a file may be used that could not be looked into in time", Enum: scanTimeouts},
		decode: func(d *Document, r reader) { d.DLP.ScanTimeout = r.oneOf(scanTimeouts...) },
		show:   func(d *Document) []string { return []string{d.DLP.ScanTimeout.V} },
		copy:   func(to, from *Document) { to.DLP.ScanTimeout = from.DLP.ScanTimeout },
	},
	{
		Name: "dlp.quarantine_days", Shape: Shape{Type: "integer", Doc: "how long files with sensitive data are kept in quarantine, in days", Min: 1,
			Max: maxDays},
		decode: func(d *Document, r reader) { d.DLP.QuarantineDays = r.int(1, maxDays) },
		show:   func(d *Document) []string { return []string{strconv.FormatInt(d.DLP.QuarantineDays.V, 10)} },
		copy:   func(to, from *Document) { to.DLP.QuarantineDays = from.DLP.QuarantineDays },
	},
	{
		Name: "dlp.zones", Shape: Shape{Type: "object", Doc: "who is work and who is personal",
			Fields: map[string]Shape{"work": zoneShape, "personal": zoneShape}},
		decode: func(d *Document, r reader) { d.DLP.Zones = readZones(r) },
		show:   func(d *Document) []string { return []string{fmt.Sprintf("%+v", d.DLP.Zones.V)} },
		copy:   func(to, from *Document) { to.DLP.Zones = from.DLP.Zones },
	},
}

var byName = func() map[enforce.Setting]Setting {
	m := map[enforce.Setting]Setting{}
	for _, s := range settings {
		m[s.Name] = s
	}
	return m
}()

// sectionDocs describe the sections. Which sections exist follows from the rows of settings.
var sectionDocs = map[string]string{"usb": "USB device control", "storage": "storage", "network": "network and VPN",
	"dlp": "data loss prevention"}

// Sections lists the sections that this version knows, in the table's order.
func Sections() []string {
	var out []string
	for _, s := range settings {
		if n := s.Name.Section(); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// SectionDoc describes a section.
func SectionDoc(name string) string { return sectionDocs[name] }

// Section returns the settings of a section.
func Section(name string) []Setting {
	var out []Setting
	for _, s := range settings {
		if s.Name.Section() == name {
			out = append(out, s)
		}
	}
	return out
}

// Find returns a setting by name.
func Find(name enforce.Setting) (Setting, bool) {
	s, ok := byName[name]
	return s, ok
}

var sectionNames = func() map[string]bool {
	m := map[string]bool{}
	for _, n := range Sections() {
		m[n] = true
	}
	return m
}()

// sectionList names all sections, for errors.
var sectionList = strings.Join(Sections(), ", ")

// Names lists every setting that this version knows.
func Names() []enforce.Setting {
	out := make([]enforce.Setting, 0, len(settings))
	for _, s := range settings {
		out = append(out, s.Name)
	}
	return out
}

// Expression is a regular expression in RE2 syntax (github.com/google/re2/wiki/Syntax), which never backtracks. It is not compiled:
// that can take a thousand times as long as reading it.
type Expression string

func (e Expression) String() string { return string(e) }

// parsePattern accepts RE2 syntax.
func parsePattern(s string) (Expression, error) {
	if s == "" {
		return "", fmt.Errorf("must not be empty: it would match everything")
	}
	if _, err := syntax.Parse(s, syntax.Perl); err != nil {
		if se, ok := err.(*syntax.Error); ok {
			return "", fmt.Errorf("must be RE2 syntax: %s: %q", se.Code, se.Expr)
		}
		return "", fmt.Errorf("must be RE2 syntax: %v", err)
	}
	return Expression(s), nil
}

// readVPN reads network.vpn.
func readVPN(r reader) (out Optional[VPN]) {
	v := VPN{}
	ok := r.object(map[string]func(reader){
		"interface": func(r reader) {
			v.Interface = r.string()
			// 15 bytes is the kernel's IFNAMSIZ without its zero.
			if len(v.Interface) > 15 || strings.ContainsAny(v.Interface, "/ \t\n") {
				r.fail("must be an interface name of at most 15 bytes")
			}
		},
		"peer": func(r reader) { v.Peer = r.string() },
		"gateway": func(r reader) {
			a, err := netip.ParseAddr(r.string())
			if err != nil {
				r.fail("must be an IP address")
			}
			v.Gateway = a
		},
		"endpoints": func(r reader) {
			v.Endpoints = listOf(r, 64, func(s string) (string, error) {
				host, port, hasPort := cutPort(s)
				if hasPort {
					if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
						return "", fmt.Errorf("must have a port from 1 to 65535")
					}
				}
				if _, err := ParseName(host); err != nil || strings.ContainsAny(host, "*=/") {
					return "", fmt.Errorf("must be a host name or address, with :port or without")
				}
				return s, nil
			}).V
		},
		"bootstrap_domains": func(r reader) { v.BootstrapDomains = listOf(r, 256, ParseName).V },
	})
	return Optional[VPN]{v, ok}
}

// cutPort splits "host:port" and "[v6]:port"; a bare IPv6 address has no port.
func cutPort(s string) (host, port string, ok bool) {
	if strings.HasPrefix(s, "[") {
		host, rest, _ := strings.Cut(s[1:], "]")
		port, ok := strings.CutPrefix(rest, ":")
		return host, port, ok
	}
	if strings.Count(s, ":") == 1 {
		host, port, _ := strings.Cut(s, ":")
		return host, port, true
	}
	return s, "", false
}

// readZones reads dlp.zones.
func readZones(r reader) (out Optional[map[string]Zone]) {
	zones := map[string]Zone{}
	zone := func(name string) func(reader) {
		return func(r reader) {
			var z Zone
			texts := func(to *[]string) func(reader) {
				return func(r reader) {
					*to = listOf(r, 1000, func(s string) (string, error) {
						if s == "" {
							return "", fmt.Errorf("must not be empty")
						}
						return s, nil
					}).V
				}
			}
			r.object(map[string]func(reader){
				"users": texts(&z.Users), "slices": texts(&z.Slices), "executables": texts(&z.Executables),
			})
			zones[name] = z
		}
	}
	ok := r.object(map[string]func(reader){"work": zone("work"), "personal": zone("personal")})
	return Optional[map[string]Zone]{zones, ok}
}
