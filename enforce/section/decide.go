package section

import (
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// Decide asks every section, and answers for the settings that this version does not know.
func Decide(sections []Section, c *Case) Outcome {
	out := Outcome{Blind: map[string]string{}}
	for _, s := range sections {
		if why := s.blind(c); why != "" {
			out.Blind[s.Name] = why
			for _, set := range c.Document.Managed(s.Name) {
				f := NotYet(c, set)
				if c.Can(set).Level != fact.Unsupported {
					f = Unread(c, set, why)
				}
				out.Findings = append(out.Findings, f)
			}
			continue
		}
		o := s.Decide(c)
		out.Wants = append(out.Wants, o.Wants...)
		out.Findings = append(out.Findings, o.Findings...)
		out.Ask = out.Ask || o.Ask
		out.Unsure = append(out.Unsure, o.Unsure...)
	}
	for i := range out.Findings {
		f := &out.Findings[i]
		if c.Can(f.Setting).Level == fact.DetectOnly {
			f.Mode, f.Enforcement = c.Written.Mode(f.Setting), enforce.DetectOnly
			if limit := c.Can(f.Setting).Limit; !strings.Contains(f.Reason, limit) {
				f.Reason = strings.TrimPrefix(f.Reason+"; "+limit, "; ")
			}
		}
	}
	for _, u := range c.Written.Unknown {
		out.Findings = append(out.Findings, enforce.Finding{
			Setting: u.Setting, Mode: u.Mode, Compliance: enforce.Uncertain,
			Enforcement: enforce.Unsupported, Reason: "this version does not know the setting",
		})
	}
	return out
}

// Unread is the finding of a setting that is supported here and whose state is unknown.
func Unread(c *Case, s enforce.Setting, why string) enforce.Finding {
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Uncertain, Enforcement: enforce.NotEnforced, Reason: why}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	return f
}

// blind says why a section cannot be decided, or "". A section of which the policy asks nothing, or nothing that is
// supported here, needs no facts.
func (s Section) blind(c *Case) string {
	concerned := len(c.Document.Managed(s.Name)) > 0
	if s.Concerned != nil {
		concerned = s.Concerned(c.Document)
	}
	if !concerned {
		return ""
	}
	carried := slices.ContainsFunc(s.Settings, func(set policy.Setting) bool { return c.Can(set.Name).Level != fact.Unsupported })
	if !carried {
		return ""
	}
	var list []string
	for _, p := range s.Needs {
		if why, unread := c.Machine.Unread(p); unread {
			list = append(list, why)
		}
	}
	return strings.Join(list, "; ")
}

// Find returns a section by name.
func Find(sections []Section, name string) (Section, bool) {
	i := slices.IndexFunc(sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return Section{}, false
	}
	return sections[i], true
}
