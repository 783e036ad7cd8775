package network

import (
	"slices"
	"sync"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// essential is a name that can be reached whatever the lists say, and why: without it the machine could no longer be
// managed, or could trust nobody.
type essential struct {
	name policy.Name
	why  string
	vpn  bool // from network.vpn
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

// usual are the hosts above, read once.
var usual = sync.OnceValue(func() (out []essential) {
	for why, list := range map[string][]string{"the time comes from there": timeHosts, "certificates are checked there": certificateHosts} {
		for _, s := range list {
			if n, err := policy.ParseName(s); err == nil {
				out = append(out, essential{name: n, why: why})
			}
		}
	}
	return out
})

// essentials lists what can always be reached: the policy server and the proxy to it, what brings the tunnel up, the usual
// time servers, and the hosts at which certificates are checked.
func essentials(d *policy.Document, m *fact.Machine) []essential {
	out := slices.Clone(usual())
	only := func(why string, vpn bool, host string) {
		if n, err := policy.ParseName(host); err == nil {
			n.Scope = policy.Exact
			out = append(out, essential{n, why, vpn})
		}
	}
	if m.Network.OK {
		only("it is the way to the policy server", false, m.Network.V.Server)
		only("it is the way to the policy server", false, m.Network.V.Proxy)
	}
	for _, n := range d.Network.VPN.V.BootstrapDomains {
		out = append(out, essential{n, "it is in network.vpn.bootstrap_domains", true})
	}
	for _, e := range d.Network.VPN.V.Endpoints {
		host, _ := policy.SplitEndpoint(e)
		only("it is an endpoint of network.vpn", true, host)
	}
	return out
}
