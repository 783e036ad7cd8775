package dlp

import (
	"fmt"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

const (
	settingPrint enforce.Setting = "dlp.print_allowed"
	// settingPorts is that of what can close ports, if something does.
	settingPorts enforce.Setting = "network.blocked_domains"
	// settingException is not a setting of the document: it is granted beside it.
	settingException enforce.Setting = "dlp.exception"
)

// KindQueue is the kind of the resource that is one queue of the print spooler; platform/printing has it.
const KindQueue = "printing.queue"

// ports is the resource that closes the ways to printers past the spooler; platform/firewall has it.
var ports = enforce.Key{Kind: "ports", ID: "printers"}

// maxQueue is the longest name of a queue, in bytes.
const maxQueue = 127

// linePrint is where print_allowed decides, and the first of the decision order.
const linePrint int32 = 1

// AboutPrinting reports whether printing can be refused in any mode.
func (r *Rules) AboutPrinting() bool { return r.print.about() }

// CanStopPrinting reports whether printing is refused in enforce mode, now.
func (r *Rules) CanStopPrinting() bool { return r.print.stops() }

// askPrint explains one queue.
func (r *Rules) askPrint(q *fact.Queue) section.Answer {
	v := r.print.verdict()
	a := section.Answer{Answer: section.Word(v), Subject: "queue " + enforce.Plain(q.Name), Group: "print queue", Now: state(q)}
	a.Reason, a.Nearest = r.print.reason(v)
	return a
}

// explainPrint answers for all of them.
func (r *Rules) explainPrint() section.Answer {
	v := r.print.verdict()
	a := section.Answer{Answer: section.Word(v), Subject: Printing, Group: Printing}
	a.Reason, a.Nearest = r.print.reason(v)
	return a
}

// Printing is how printing as a whole is called in answers.
const Printing = "printing"

// state is what was read of a queue, for people.
func state(q *fact.Queue) string {
	if q.Jobs > 0 {
		return fmt.Sprintf("it %s; %d job(s) in it", q.Value(), q.Jobs)
	}
	return "it " + q.Value()
}

// opened are those that take jobs or print.
func opened(list []fact.Queue) (out []*fact.Queue) {
	for i := range list {
		if !list[i].Shut() {
			out = append(out, &list[i])
		}
	}
	return out
}

// maxShown bounds the queues that a finding names.
const maxShown = 8

func queueKey(q *fact.Queue) enforce.Key { return enforce.Key{Kind: KindQueue, ID: q.Name} }

// printing is the finding of print_allowed, and what is wanted for it: every queue closed, whatever it prints to, and the ways to
// printers that lead past the spooler.
func printing(c *section.Case, out *section.Outcome) {
	s, can, r := settingPrint, c.Can(settingPrint), rulesOf(c)
	if can.Level == fact.Unsupported {
		out.Findings = append(out.Findings, section.NotYet(c, s))
		return
	}
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	defer func() { out.Findings = append(out.Findings, f) }()
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	if !r.print.on {
		return
	}
	closes := c.Can(settingPorts).Acts()
	if !closes {
		if can.Limit += "; ports of printers in the network are not closed: " + c.Can(settingPorts).Limit; can.Level == fact.Enforced {
			can.Level = fact.Partial
		}
	} else if !r.print.may { // also while it is not known which queues there are
		out.Wants = append(out.Wants, enforce.Want{Key: ports, Value: enforce.Value(fact.PortsClosed(c.Machine.Printing.V.Local)), By: []enforce.Setting{s}, Mode: f.Mode, Phase: enforce.Close})
	}
	if why, unread := c.Machine.Unread(fact.PartPrinting); unread {
		out.Unsure = append(out.Unsure, KindQueue)
		f = section.Unread(c, s, why)
		return
	}
	list, odd := c.Machine.Printing.V.Queues, c.Machine.Printing.V.Odd
	open := opened(list)
	for _, q := range open[:min(len(open), maxShown)] {
		f.Evidence = append(f.Evidence, enforce.Evidence{Key: queueKey(q).String(), State: enforce.Present, Value: enforce.Value(q.Value()), How: "the spooler's list"})
	}
	if r.print.may {
		f.Reason = "printing is allowed by an exception"
		return
	}
	for i := range list {
		out.Wants = append(out.Wants, enforce.Want{Key: queueKey(&list[i]), Value: fact.QueueClosed, By: []enforce.Setting{s}, Mode: f.Mode, Phase: enforce.Close})
	}
	switch {
	case len(open) > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, fmt.Sprintf("queue %s %s", enforce.Plain(open[0].Name), open[0].Value())
		if len(open) > 1 {
			f.Reason += fmt.Sprintf(", and %d more", len(open)-1)
		}
	case odd > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, fmt.Sprintf("%d queue(s) cannot be closed: they are too many, or the spooler does not say enough of them", odd)
	case len(list) == 0:
		f.Reason = "the spooler has no queue"
	default:
		f.Reason = fmt.Sprintf("%d queue(s) take no jobs", len(list))
	}
	if why := c.Machine.Printing.V.Unheard; why != "" {
		can.Level = fact.Partial
		can.Limit = strings.TrimSuffix("the spooler does not tell of new queues, which take jobs for some seconds ("+enforce.Plain(why)+"); "+can.Limit, "; ")
	}
	if names := othersBrowsers(c.Machine); names != "" {
		can.Limit += "; the policies of " + enforce.Plain(names) + " are somebody else's, so that it offers printing"
	}
	if f.Enforcement != enforce.Enforced || f.Compliance != enforce.Compliant || can.Limit == "" {
		return
	}
	word := "; enforced, with a limit: "
	if can.Level == fact.Partial {
		f.Enforcement, word = enforce.Partial, "; partial: "
	}
	f.Reason += word + can.Limit
}
