package policy

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Warning describes something that is valid but probably a mistake.
type Warning struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// maxAlike bounds how many warnings of one kind are listed one by one.
const maxAlike = 20

// warner collects warnings: the first few of each kind, and how many more there are.
type warner struct {
	out   []Warning
	kinds []string
	n     map[string]int
}

// add adds a warning about a field. kind is the text without the subject, to count similar ones.
func (w *warner) add(kind, field, format string, args ...any) {
	if w.n == nil {
		w.n = map[string]int{}
	}
	if w.n[kind]++; w.n[kind] == 1 {
		w.kinds = append(w.kinds, kind)
	}
	if w.n[kind] <= maxAlike {
		w.out = append(w.out, Warning{field, fmt.Sprintf(format, args...)})
	}
}

// all returns the warnings, with a line for each kind that was cut short.
func (w *warner) all() []Warning {
	for _, k := range w.kinds {
		if more := w.n[k] - maxAlike; more > 0 {
			list, what, _ := strings.Cut(k, ": ")
			w.out = append(w.out, Warning{list, fmt.Sprintf("%d more entries: %s", more, what)})
		}
	}
	return w.out
}

// Warnings checks a valid document for probable mistakes. server is the host at which devices reach the policy server,
// with or without a port, or "".
func Warnings(d *Document, server string) []Warning {
	w := &warner{}
	usbWarnings(d, w)
	networkWarnings(d, hostOf(server), w)
	dlpWarnings(d, w)
	return w.all()
}

// usbWarnings checks the section "usb".
func usbWarnings(d *Document, w *warner) {
	refuses := d.Storage.ExternalStorageAllowed.Set && !d.Storage.ExternalStorageAllowed.V
	said := false
	for i, e := range d.USB.Whitelist.V {
		field := at("usb.whitelist", i)
		if why := e.Never(); why != "" {
			w.add("usb.whitelist: a serial that matches nothing", field, "%s", why)
		} else if strings.ContainsAny(e.Serial, "*?") {
			w.add("usb.whitelist: a wildcard in a serial", field, "has a serial with a wildcard in it, but serials are compared literally")
		}
		if e.AnyProduct {
			w.add("usb.whitelist: allows a whole vendor", field,
				"allows every device that claims vendor %04x; vendor and product can be forged", e.Vendor)
		}
		if refuses && e.Serial == "" && !said {
			said = true
			w.add("unpinned", field, "does not pin a serial: if it is a storage device, storage.external_storage_allowed refuses it")
		}
	}
	for i, c := range d.USB.AllowedClasses.V {
		switch name := c.String(); {
		case name == "hub":
			w.add("hub", at("usb.allowed_classes", i), "changes nothing: hubs are always allowed")
		case refuses && (name == "mass_storage" || name == "image"):
			w.add("refused class", at("usb.allowed_classes", i), "lets none in but pinned ones: storage.external_storage_allowed is false")
		}
	}
	if d.USB.AuditOnly.Or(false) {
		w.add("audit", "usb.audit_only", "puts the usb section in monitor mode: nothing is refused")
	}
	if d.USB.Allowed.Set && !d.USB.Allowed.V && !d.USB.Whitelist.Set && !d.USB.AllowedClasses.Set {
		w.add("none", "usb.allowed",
			"refuses every USB device but hubs and guarded inputs; name keyboards and pointers in usb.allowed_classes")
	}
	if d.USB.Allowed.Set && d.USB.AllowedClasses.Set {
		w.add("unreached", "usb.allowed", "is not reached: usb.allowed_classes decides both ways")
	}
}

// networkWarnings checks the section "network".
func networkWarnings(d *Document, server string, w *warner) {
	n := d.Network
	if n.VPNAlwaysOn.Or(false) && len(n.VPN.V.Endpoints) == 0 {
		w.add("endpoint", "network.vpn_always_on",
			"names no endpoint in network.vpn.endpoints: devices that cannot learn one from their VPN report it unsupported and stay open")
	}
	if n.VPNAlwaysOn.Or(false) && n.VPNRequired.Set && !n.VPNRequired.V {
		w.add("vpn", "network.vpn_required", "is false beside network.vpn_always_on, which needs the VPN")
	}
	if k, err := base64.StdEncoding.DecodeString(n.VPN.V.Peer); n.VPN.V.Peer != "" && (err != nil || len(k) != 32) {
		w.add("peer", "network.vpn.peer", "is no WireGuard public key (32 bytes in base64), so no tunnel counts")
	}
	if _, err := path.Match(n.VPN.V.Interface, ""); err != nil {
		w.add("interface", "network.vpn.interface", "is no valid pattern, and is taken as the interface's whole name")
	}
	for _, l := range []struct {
		field string
		list  []Name
	}{{"network.allowed_domains", n.AllowedDomains.V}, {"network.blocked_domains", n.BlockedDomains.V},
		{"network.vpn.bootstrap_domains", n.VPN.V.BootstrapDomains}} {
		for i, e := range l.list {
			if why := e.never(); why != "" {
				w.add(l.field+": a name or an address that matches nothing", at(l.field, i), "%s", why)
			}
		}
	}
	bothLists(n.AllowedDomains.V, n.BlockedDomains.V, w)
	if server == "" {
		return
	}
	addr, err := netip.ParseAddr(server)
	addr = addr.Unmap()
	allowed := longest(n.AllowedDomains.V, server)
	for i, e := range n.BlockedDomains.V {
		field := at("network.blocked_domains", i)
		if err == nil {
			if e.Net.IsValid() && e.Net.Contains(addr) {
				w.add("network.blocked_domains: covers this policy server", field,
					"covers this policy server (%s), which stays reachable all the same", server)
			}
		} else if l, ok := e.Matches(server); ok && l >= allowed {
			w.add("network.blocked_domains: covers this policy server", field,
				"covers this policy server (%s), which stays reachable all the same", server)
		}
	}
}

// bothLists warns of entries that are both allowed and blocked: blocked wins.
func bothLists(allowed, blocked []Name, w *warner) {
	first := make(map[Name]int, len(blocked))
	for i := len(blocked) - 1; i >= 0; i-- {
		first[blocked[i]] = i
	}
	for i, e := range allowed {
		cover := []Name{e}
		if e.Scope == Below {
			cover = append(cover, Name{Host: e.Host, Scope: Subtree})
		}
		for _, c := range cover {
			if j, is := first[c]; is {
				w.add("network.allowed_domains: stands in both lists", at("network.allowed_domains", i),
					"is blocked all the same: network.blocked_domains[%d] is %s, and of two that are as specific the blocked one wins", j,
					c)
				break
			}
		}
	}
}

// dlpWarnings checks the section "dlp".
func dlpWarnings(d *Document, w *warner) {
	p := d.DLP
	if p.ClipboardDirection.Set {
		switch direction := p.ClipboardDirection.V; {
		case p.ClipboardSharing.Set && !p.ClipboardSharing.V && direction != "none":
			w.add("sharing", "dlp.clipboard_direction", "is %q beside dlp.clipboard_sharing: false, which shares nothing either way",
				direction)
		case p.ClipboardSharing.Or(false) && direction == "none":
			w.add("sharing", "dlp.clipboard_sharing", "is true beside dlp.clipboard_direction: \"none\", which shares nothing")
		}
		if !p.Zones.Set && (p.ClipboardDirection.V == "work_to_personal" || p.ClipboardDirection.V == "personal_to_work") {
			w.add("zones", "dlp.clipboard_direction", "needs dlp.zones to tell work from personal; devices report it unsupported")
		}
	}
	patternWarnings(d, w)
	if work := p.Zones.V["work"]; p.Zones.Set && len(work.Users)+len(work.Slices)+len(work.Executables) == 0 {
		w.add("zones", "dlp.zones", "names nobody of work, and whoever is not named is outside work: nothing is kept apart")
	}
	for _, name := range []string{"work", "personal"} {
		z, field := p.Zones.V[name], "dlp.zones."+name
		for i, u := range z.Users {
			if strings.ContainsAny(u, ":/*? \t\n,") {
				w.add(field+".users: no user can be called so", at(field+".users", i), "matches nobody: no user can be called %q", u)
			}
		}
		for i, s := range z.Slices {
			if !strings.HasSuffix(s, ".slice") && !strings.HasSuffix(s, ".scope") {
				w.add(field+".slices: neither a slice nor a scope", at(field+".slices", i),
					"matches nothing: a slice ends in .slice and a scope in .scope")
			}
		}
		for i, e := range z.Executables {
			file, _, err := ParseProgram(e)
			if err != nil {
				w.add(field+".executables: no sum", at(field+".executables", i), "matches nothing: %v", err)
			} else if !windowsPath.MatchString(file) && (!path.IsAbs(file) || path.Clean(file) != file) {
				w.add(field+".executables: no plain absolute path", at(field+".executables", i),
					"matches nothing: a program is named by its absolute path, without \"..\" and double slashes")
			}
		}
	}
}

var windowsPath = regexp.MustCompile(`^[A-Za-z]:\\`)

// impossible reports whether no text can match. If in doubt, it says no.
func impossible(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpNoMatch:
		return true
	case syntax.OpCharClass:
		return len(re.Rune) == 0
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if !impossible(s) {
				return false
			}
		}
		return true
	case syntax.OpCapture, syntax.OpPlus:
		return impossible(re.Sub[0])
	case syntax.OpConcat:
		eaten := false // something that needs at least one character comes before
		for i, s := range re.Sub {
			switch {
			case impossible(s), eaten && s.Op == syntax.OpBeginText:
				return true
			case s.Op == syntax.OpEndText && fed(re.Sub[i+1:]):
				return true
			}
			eaten = eaten || fed([]*syntax.Regexp{s})
		}
	}
	return false
}

// fed reports whether a sequence needs at least one character.
func fed(list []*syntax.Regexp) bool {
	for _, s := range list {
		switch s.Op {
		case syntax.OpLiteral, syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
			return true
		case syntax.OpPlus, syntax.OpCapture:
			if fed(s.Sub) {
				return true
			}
		case syntax.OpConcat:
			if fed(s.Sub) {
				return true
			}
		}
	}
	return false
}

func at(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// hostOf returns the host of a URL's authority: without its port, in the form in which names are compared.
func hostOf(server string) string {
	host, _, _ := cutPort(server)
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// longest is the length of the most specific entry that covers a host, or 0.
func longest(list []Name, host string) int {
	best := 0
	for _, n := range list {
		if l, ok := n.Matches(host); ok {
			best = max(best, l)
		}
	}
	return best
}
