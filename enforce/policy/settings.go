package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
)

// setting is one line of the document's table: how it is read, shown and copied.
type setting struct {
	name   enforce.Setting
	decode func(*Document, reader)
	show   func(*Document) []string // one text, or one a list entry; list settings diff by entry
	list   bool
	copy   func(to, from *Document)
}

func flag(name enforce.Setting, at func(*Document) *Optional[bool]) setting {
	return setting{
		name:   name,
		decode: func(d *Document, r reader) { *at(d) = r.bool() },
		show:   func(d *Document) []string { return []string{strconv.FormatBool(at(d).V)} },
		copy:   func(to, from *Document) { *at(to) = *at(from) },
	}
}

func entries[T fmt.Stringer](name enforce.Setting, most int, parse func(string) (T, error), at func(*Document) *Optional[[]T]) setting {
	return setting{
		name: name, list: true,
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

var sectionNames = map[string]bool{"usb": true, "storage": true, "network": true, "dlp": true}

// settings is every setting that this version knows, in the order of its sections.
var settings = []setting{
	flag("usb.allowed", func(d *Document) *Optional[bool] { return &d.USB.Allowed }),
	entries("usb.whitelist", maxList, ParseUSBEntry, func(d *Document) *Optional[[]USBEntry] { return &d.USB.Whitelist }),
	entries("usb.allowed_classes", 256, ParseClass, func(d *Document) *Optional[[]Class] { return &d.USB.AllowedClasses }),
	flag("usb.audit_only", func(d *Document) *Optional[bool] { return &d.USB.AuditOnly }),

	flag("storage.encryption_required", func(d *Document) *Optional[bool] { return &d.Storage.EncryptionRequired }),
	flag("storage.external_storage_allowed", func(d *Document) *Optional[bool] { return &d.Storage.ExternalStorageAllowed }),
	flag("storage.cloud_sync_allowed", func(d *Document) *Optional[bool] { return &d.Storage.CloudSyncAllowed }),
	{
		name:   "storage.max_file_size_mb",
		decode: func(d *Document, r reader) { d.Storage.MaxFileSizeMB = r.int(0, 1<<40) },
		show:   func(d *Document) []string { return []string{strconv.FormatInt(d.Storage.MaxFileSizeMB.V, 10)} },
		copy:   func(to, from *Document) { to.Storage.MaxFileSizeMB = from.Storage.MaxFileSizeMB },
	},

	flag("network.vpn_required", func(d *Document) *Optional[bool] { return &d.Network.VPNRequired }),
	flag("network.vpn_always_on", func(d *Document) *Optional[bool] { return &d.Network.VPNAlwaysOn }),
	entries("network.allowed_domains", maxList, ParseName, func(d *Document) *Optional[[]Name] { return &d.Network.AllowedDomains }),
	entries("network.blocked_domains", maxList, ParseName, func(d *Document) *Optional[[]Name] { return &d.Network.BlockedDomains }),
	flag("network.split_tunnel", func(d *Document) *Optional[bool] { return &d.Network.SplitTunnel }),
	{
		name:   "network.vpn",
		decode: func(d *Document, r reader) { d.Network.VPN = readVPN(r) },
		show:   func(d *Document) []string { return []string{fmt.Sprintf("%+v", d.Network.VPN.V)} },
		copy:   func(to, from *Document) { to.Network.VPN = from.Network.VPN },
	},

	flag("dlp.clipboard_sharing", func(d *Document) *Optional[bool] { return &d.DLP.ClipboardSharing }),
	{
		name: "dlp.clipboard_direction",
		decode: func(d *Document, r reader) {
			d.DLP.ClipboardDirection = r.oneOf("none", "work_to_personal", "personal_to_work", "both")
		},
		show: func(d *Document) []string { return []string{d.DLP.ClipboardDirection.V} },
		copy: func(to, from *Document) { to.DLP.ClipboardDirection = from.DLP.ClipboardDirection },
	},
	flag("dlp.screenshot_allowed", func(d *Document) *Optional[bool] { return &d.DLP.ScreenshotAllowed }),
	flag("dlp.print_allowed", func(d *Document) *Optional[bool] { return &d.DLP.PrintAllowed }),
	entries("dlp.sensitive_data_patterns", 1000, parsePattern, func(d *Document) *Optional[[]*regexp.Regexp] { return &d.DLP.Patterns }),
	{
		name:   "dlp.zones",
		decode: func(d *Document, r reader) { d.DLP.Zones = readZones(r) },
		show:   func(d *Document) []string { return []string{fmt.Sprintf("%+v", d.DLP.Zones.V)} },
		copy:   func(to, from *Document) { to.DLP.Zones = from.DLP.Zones },
	},
}

var byName = func() map[enforce.Setting]setting {
	m := map[enforce.Setting]setting{}
	for _, s := range settings {
		m[s.name] = s
	}
	return m
}()

// Names lists every setting that this version knows.
func Names() []enforce.Setting {
	out := make([]enforce.Setting, 0, len(settings))
	for _, s := range settings {
		out = append(out, s.name)
	}
	return out
}

// parsePattern accepts RE2 syntax (github.com/google/re2/wiki/Syntax), which never backtracks.
func parsePattern(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, fmt.Errorf("must not be empty: it would match everything")
	}
	re, err := regexp.Compile(s)
	if err != nil {
		if se, ok := err.(*syntax.Error); ok {
			return nil, fmt.Errorf("must be RE2 syntax: %s: %q", se.Code, se.Expr)
		}
		return nil, fmt.Errorf("must be RE2 syntax: %v", err)
	}
	return re, nil
}

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
