package network

import (
	"strings"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// essential is a name that can be reached whatever the lists say, and why: without it the machine could no longer be
// managed, or could trust nobody.
type essential struct {
	name policy.Name
	why  string
}

// The hosts from which certificates are checked (OCSP responders, revocation lists, missing intermediates) of the
// authorities that most sites use, and the time servers of the usual systems. They are the names in these authorities'
// certificates and in the systems' default configurations.
var (
	certificateHosts = []string{"ocsp.digicert.com", "crl3.digicert.com", "crl4.digicert.com", "cacerts.digicert.com",
		"ocsp.sectigo.com", "crl.sectigo.com", "crt.sectigo.com", "ocsp.usertrust.com", "crl.usertrust.com", "crt.usertrust.com",
		"ocsp.comodoca.com", "crl.comodoca.com", "o.lencr.org", "c.lencr.org", "i.lencr.org", "o.pki.goog", "c.pki.goog", "i.pki.goog",
		"ocsp.pki.goog", "crl.pki.goog", "ocsp.globalsign.com", "ocsp2.globalsign.com", "crl.globalsign.com", "secure.globalsign.com",
		"ocsp.entrust.net", "crl.entrust.net", "aia.entrust.net", "ocsp.godaddy.com", "crl.godaddy.com", "certificates.godaddy.com",
		"ocsp.amazontrust.com", "crl.amazontrust.com", "crt.amazontrust.com", "ocsp.identrust.com", "validation.identrust.com",
		"apps.identrust.com", "oneocsp.microsoft.com", "ocsp.msocsp.com", "crl.microsoft.com", "ocsp.apple.com", "crl.apple.com"}
	timeHosts = []string{"pool.ntp.org", "time.cloudflare.com", "ntp.ubuntu.com", "time.windows.com", "time.apple.com", "time.google.com"}
)

// essentials lists them: the policy server and the proxy to it, what brings the tunnel up, time, and certificates.
func essentials(d *policy.Document, m *fact.Machine) (out []essential) {
	add := func(why string, list ...string) {
		for _, s := range list {
			if n, err := policy.ParseName(s); err == nil {
				out = append(out, essential{n, why})
			}
		}
	}
	only := func(why, host string) {
		if n, err := policy.ParseName(host); err == nil {
			n.Scope = policy.Exact
			out = append(out, essential{n, why})
		}
	}
	if m != nil && m.Network.OK {
		only("it is the policy server", m.Network.V.Server)
		only("it is the proxy to the policy server", m.Network.V.Proxy)
		for _, t := range m.Network.V.Time {
			only("it is a time server of this machine", t)
		}
	}
	for _, n := range d.Network.VPN.V.BootstrapDomains {
		out = append(out, essential{n, "it is in network.vpn.bootstrap_domains"})
	}
	for _, e := range d.Network.VPN.V.Endpoints {
		only("it is an endpoint of network.vpn", hostOf(e))
	}
	add("the time comes from there", timeHosts...)
	add("certificates are checked there", certificateHosts...)
	return out
}

// hostOf is the host of "host:port", "[v6]:port", or a host or address alone.
func hostOf(s string) string {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		host, _, _ := strings.Cut(rest, "]")
		return host
	}
	if strings.Count(s, ":") == 1 {
		s, _, _ = strings.Cut(s, ":")
	}
	return s
}
