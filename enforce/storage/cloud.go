package storage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const (
	settingCloud enforce.Setting = "storage.cloud_sync_allowed"
	// settingNames is that of what refuses names, if something does.
	settingNames enforce.Setting = "network.blocked_domains"
)

// KindClients is the kind of the one resource that keeps sync clients from being started; platform/programs has it.
const KindClients = "cloudsync"

var clientsKey = enforce.Key{Kind: KindClients, ID: "clients"}

// Clients judge whether a sync client may run.
type Clients struct{ r *Rules }

// Clients are the section's rules for programs that synchronise files with a cloud.
func (r *Rules) Clients() enforce.Judge[fact.Running] { return Clients{r} }

// AboutClients reports whether clients can be refused in any mode.
func (r *Rules) AboutClients() bool { return r.noSync && r.syncMode > enforce.Off }

// CanStop reports whether clients are kept from running in enforce mode.
func (r *Rules) CanStop() bool { return r.noSync && r.syncMode == enforce.Enforce }

// The lines of the decision order for sync clients.
const (
	lineClient    int32 = 21 // cloud_sync_allowed decides
	lineAnyClient int32 = 22 // nothing managed
	lineNoClient  int32 = 23 // it is none that is known
)

// Judge judges one client.
func (s Clients) Judge(m *fact.Running) enforce.Verdict {
	r, rule := s.r, enforce.Rule{Setting: settingCloud, Line: lineClient}
	free := func(rule enforce.Rule) enforce.Verdict { return enforce.Verdict{Allow: true, Rule: rule, Would: rule} }
	_, known := fact.Clients.ByID(m.App)
	switch {
	case !known:
		return free(enforce.Rule{Line: lineNoClient})
	case !r.noSync || r.syncMode == enforce.Off:
		return free(enforce.Rule{Line: lineAnyClient})
	case r.exceptedClients[m.App] > 0:
		return free(enforce.Rule{Setting: settingException, Line: lineException, Entry: r.exceptedClients[m.App]})
	case r.syncMode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Rule: enforce.Rule{Line: lineAnyClient}, Would: rule, WouldDeny: true, WouldMode: r.syncMode}
	}
	return enforce.Verdict{Rule: rule, Would: rule, WouldMode: r.syncMode}
}

// Reason says why, and the smallest change to the policy that would reverse it.
func (s Clients) Reason(v enforce.Verdict, m *fact.Running) (reason, nearest string) {
	rule, prefix := v.Rule, ""
	if v.WouldDeny {
		rule, prefix = v.Would, fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): ", v.Would.Setting, v.WouldMode)
	}
	switch rule.Line {
	case lineClient:
		return prefix + "storage.cloud_sync_allowed is false, and " + ClientName(m.App) + " is a program that synchronises files with a cloud",
			fmt.Sprintf("grant an exception for %q, for a time, or set storage.cloud_sync_allowed to true", policy.ClientSubject+m.App)
	case lineException:
		return "an exception for this client is in force", ""
	case lineNoClient:
		return "it is none of the clients that are known", ""
	}
	return "no setting in force refuses clients", "set storage.cloud_sync_allowed to false"
}

// ClientName names a client for people.
func ClientName(id string) string {
	if c, ok := fact.Clients.ByID(id); ok {
		return c.Name
	}
	return enforce.Plain(id)
}

// clientIDs are those of all clients.
func clientIDs() (out []string) {
	for i := range fact.Clients {
		out = append(out, fact.Clients[i].ID)
	}
	return out
}

// refusedClients are those that the policy does not let start, in the order of the table.
func (r *Rules) refusedClients() (ids []string) {
	for i := range fact.Clients {
		c := &fact.Clients[i]
		if len(c.Programs) > 0 && r.exceptedClients[c.ID] == 0 {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// cloudSync is the finding of cloud_sync_allowed, and what is wanted for it.
func cloudSync(c *section.Case, out *section.Outcome) {
	s, can, r := settingCloud, c.Can(settingCloud), rulesOf(c)
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	defer func() { out.Findings = append(out.Findings, f) }()
	names := c.Can(settingNames).Acts() && !c.Document.NetworkFree
	if can.Level == fact.Unsupported && !names {
		f = section.NotYet(c, s) // whatever it says: nothing here would carry it out
		return
	}
	starts := can.Acts() // whether they start is in somebody's hand here
	if can.Level == fact.Unsupported {
		can.Level, can.Limit = fact.Partial, "only their names are refused; "+can.Limit
	}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	if !r.noSync { // allowed: nothing is asked
		return
	}
	if ids := r.refusedClients(); len(ids) > 0 && starts {
		out.Wants = append(out.Wants, enforce.Want{Key: clientsKey, Value: enforce.Value(fact.ClientsRefused(ids)), By: []enforce.Setting{s}, Mode: r.syncMode, Phase: enforce.Close})
	}
	if why, unread := c.Machine.Unread(fact.PartClients); unread {
		f = section.Unread(c, s, why)
		return
	}
	var bad []string
	for i := range c.Machine.Clients.V {
		m := &c.Machine.Clients.V[i]
		f.Evidence = append(f.Evidence, enforce.Evidence{Key: "cloudsync.running/" + m.App, State: enforce.Present, Value: enforce.Value(m.Program), How: "the list of processes"})
		if v := r.Clients().Judge(m); !v.Allow || v.WouldDeny {
			bad = append(bad, running(m))
		}
	}
	switch {
	case len(bad) > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, bad[0]+more(len(bad))
	case f.Enforcement == enforce.Enforced && len(r.exceptedClients) > 0:
		f.Reason = "but for those with an exception: " + strings.Join(slices.Sorted(maps.Keys(r.exceptedClients)), ", ")
	}
	if !names && f.Enforcement == enforce.Enforced && f.Compliance == enforce.Compliant {
		f.Reason = strings.TrimPrefix(f.Reason+"; their names are not refused on this machine now", "; ")
	}
	if f.Enforcement != enforce.Enforced || f.Compliance != enforce.Compliant || can.Limit == "" {
		return
	}
	word := "enforced, with a limit: "
	if can.Level == fact.Partial {
		f.Enforcement, word = enforce.Partial, "partial: "
	}
	f.Reason = strings.TrimPrefix(f.Reason+"; "+word+can.Limit, "; ")
}

// running says that a client runs.
func running(m *fact.Running) string {
	return fmt.Sprintf("%s runs (program %s, %d process(es))", ClientName(m.App), enforce.Plain(m.Program), m.Processes)
}

// askClient explains one client.
func (r *Rules) askClient(m *fact.Running) section.Answer {
	v := r.Clients().Judge(m)
	a := section.Answer{Answer: section.Word(v), Subject: ClientName(m.App), Group: "sync client"}
	a.Reason, a.Nearest = r.Clients().Reason(v, m)
	return a
}

// explainClient answers for a client by its ID or by the name of one of its programs. Whether it runs, its capability says.
func (r *Rules) explainClient(name string) section.Answer {
	c, ok := fact.Clients.ByID(name)
	if !ok {
		c, _, ok = fact.Clients.ByProgram(name)
	}
	for i := range fact.Clients {
		if !ok && strings.EqualFold(fact.Clients[i].Name, name) { // as events and status call it
			c, ok = &fact.Clients[i], true
		}
	}
	if !ok {
		a := r.askClient(&fact.Running{App: name})
		a.Subject = enforce.Plain(name)
		return a
	}
	a := r.askClient(&fact.Running{App: c.ID})
	if c.Why != "" {
		a.Reason += "; " + c.Why
	}
	return a
}
