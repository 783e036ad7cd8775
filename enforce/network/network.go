// Package network decides the section "network": which names and addresses may be reached. It is pure: the lists of a
// policy are compiled into Rules once, and Judge then answers for a name in some hundred nanoseconds, without allocating.
// The policy server, and what time and certificates need, can always be reached (essential.go). Reach is what a firewall
// has to know of the lists. What is asked of VPNs is judged by the tunnels and routes that there are (vpn.go).
package network

import (
	"errors"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Section answers for every managed setting of "network".
var Section = section.Section{Name: "network", Settings: policy.Section("network"), Needs: []fact.Part{fact.PartNetwork}, Decide: decide,
	Concerned: func(d *policy.Document) bool { return len(d.Managed("network")) > 0 || refusesClients(d) },
	Compile:   func(d *policy.Document, m *fact.Machine) section.Rules { return Compile(d, m) },
	ReadList:  ReadList,
	Single: func(s enforce.Setting) bool { // each name
		return s == settingAllowed || s == settingBlocked || s == settingAllowedLists || s == settingBlockedLists
	},
	Except: &section.Except{Parse: parseException, Names: exceptionNames, Refused: refusedNow}}

// names is the resource that enforces the lists.
var names = enforce.Key{Kind: "firewall", ID: "names"}

// killSwitch is the resource that closes what goes past the VPN.
var killSwitch = enforce.Key{Kind: "switch", ID: "vpn"}

// decide answers for every managed setting, and wants the firewall as the lists say.
func decide(c *section.Case) section.Outcome {
	var out section.Outcome
	r, _ := c.Rules("network").(*Rules)
	if r == nil {
		return section.AllNotYet("network")(c)
	}
	want, kill := enforce.Want{Key: names, Phase: enforce.Open}, enforce.Want{Key: killSwitch, Phase: enforce.Open, Value: enforce.Value(r.kill), Mode: enforce.Enforce}
	for _, s := range c.Document.Managed("network") {
		if slices.Contains(ofVPN, s) {
			f := decideVPN(c, s)
			out.Findings = append(out.Findings, f)
			if _, unread := c.Machine.Unread(fact.PartTunnels); unread && f.Mode == enforce.Enforce {
				out.Unsure = append(out.Unsure, killSwitch.Kind) // it neither opens nor closes
			}
			if f.Mode == enforce.Enforce && f.Enforcement == enforce.Partial && r.kill != "" && s != settingVPN {
				kill.By = append(kill.By, s)
			}
			continue
		}
		can := c.Can(s)
		if can.Level == fact.Unsupported {
			out.Findings = append(out.Findings, section.NotYet(c, s))
			continue
		}
		f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s)}
		switch {
		case f.Mode == enforce.Enforce:
			f.Compliance, f.Enforcement = enforce.Compliant, enforce.Enforced
			if can.Level == fact.Partial {
				f.Enforcement, f.Reason = enforce.Partial, "partial: "+can.Limit
			}
		default:
			f.Compliance, f.Enforcement = enforce.Uncertain, enforce.Observed
			f.Reason = "partial: names and new TCP connections are judged as they are seen, and nothing is refused; not seen are names that are " +
				"looked up over HTTPS or TLS, UDP such as QUIC, and what began before"
		}
		if why, none := r.missing(s); why != "" {
			// Never more open than with it: what an allowed list would add is refused meanwhile.
			f.Compliance, f.Reason = enforce.Uncertain, why
			if f.Mode == enforce.Enforce && none {
				f.Enforcement = enforce.NotEnforced
			} else if f.Mode == enforce.Enforce {
				f.Enforcement = enforce.Partial
			}
		}
		out.Findings = append(out.Findings, f)
		if blocking := s == settingBlocked || s == settingBlockedLists; blocking && f.Mode == enforce.Enforce && !r.listed() {
			continue // an empty list refuses nothing
		}
		want.By, want.Mode = append(want.By, s), max(want.Mode, f.Mode)
	}
	if r.modeClients > enforce.Off { // its finding is the other section's
		want.By, want.Mode = append(want.By, settingClients), max(want.Mode, r.modeClients)
	}
	if len(kill.By) > 0 {
		out.Wants = append(out.Wants, kill)
	}
	if len(want.By) > 0 {
		if want.Mode == enforce.Enforce {
			want.By = enforced(want.By, c.Document)
		}
		want.Value = enforce.Value(r.Reach(want.Mode).String())
		out.Wants = append(out.Wants, want)
	}
	return out
}

// enforced are those settings that are in enforce mode.
func enforced(list []enforce.Setting, d *policy.Document) (out []enforce.Setting) {
	for _, s := range list {
		if d.Mode(s) == enforce.Enforce {
			out = append(out, s)
		}
	}
	return out
}

// refusedNow is what a code may be for that does not say it: a VPN that the policy needs.
func refusedNow(c *section.Case) []string {
	if n := &c.Document.Network; n.VPNRequired.Or(false) || n.VPNAlwaysOn.Or(false) {
		return []string{withoutVPN}
	}
	return nil
}

// parseException: an exception is for a name with all below it, for one address, or for needing no VPN.
func parseException(s string) (string, error) {
	if s == withoutVPN {
		return s, nil
	}
	n, err := policy.ParseName(s)
	switch {
	case err != nil || n.Scope == policy.Below:
		return "", errors.New("must be a domain name (with all names below it), an address, or \"vpn\"")
	case n.Net.IsValid() && !n.Net.IsSingleIP():
		return "", errors.New("must be a domain name or one address, not a network")
	case n.Net.IsValid():
		return n.Net.Addr().String(), nil
	case !strings.Contains(n.Host, "."):
		return "", errors.New("must be below a top-level domain")
	}
	return n.Host, nil
}

// exceptionNames: a code may have been made for the name itself or for one above it.
func exceptionNames(subject string) (out []string) {
	name, err := parseException(subject)
	if err != nil {
		return nil
	}
	out = append(out, name)
	if name == withoutVPN {
		return out
	}
	if n, err := policy.ParseName(name); err != nil || n.Net.IsValid() {
		return out
	}
	for {
		_, up, below := strings.Cut(name, ".")
		if !below || !strings.Contains(up, ".") {
			return out
		}
		name = up
		out = append(out, name)
	}
}
