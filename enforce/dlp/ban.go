package dlp

import (
	"fmt"
	"slices"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// ban is a setting of the section that allows one thing, or refuses it as a whole.
type ban struct {
	setting enforce.Setting
	subject string // of its exceptions
	what    string // it is about, for people
	line    int32  // of the decision order, where it decides; the next one is that of nothing managed
	on      bool   // it refuses
	mode    enforce.Mode
	may     bool // an exception is in force
}

// lineExcepted is where an exception decides.
const lineExcepted int32 = 3

// banOf is a ban as a policy has it.
func banOf(d *policy.Document, m *fact.Machine, s enforce.Setting, allowed policy.Optional[bool], subject, what string, line int32) ban {
	return ban{setting: s, subject: subject, what: what, line: line, on: !allowed.Or(true) && m.Can(string(s)).Level != fact.Unsupported, mode: d.Mode(s),
		may: slices.Contains(d.Exceptions["dlp"], subject)}
}

// about reports whether it can refuse anything in any mode.
func (b *ban) about() bool { return b.on && b.mode > enforce.Off }

// stops reports whether it refuses in enforce mode, now.
func (b *ban) stops() bool { return b.on && b.mode == enforce.Enforce && !b.may }

// verdict judges what it is about.
func (b *ban) verdict() enforce.Verdict {
	rule, none := enforce.Rule{Setting: b.setting, Line: b.line}, enforce.Rule{Line: b.line + 1}
	free := func(rule enforce.Rule) enforce.Verdict { return enforce.Verdict{Allow: true, Rule: rule, Would: rule} }
	switch {
	case !b.about():
		return free(none)
	case b.may:
		return free(enforce.Rule{Setting: settingException, Line: lineExcepted})
	case b.mode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Rule: none, Would: rule, WouldDeny: true, WouldMode: b.mode}
	}
	return enforce.Verdict{Rule: rule, Would: rule, WouldMode: b.mode}
}

// reason says why, and the smallest change to the policy that would reverse it.
func (b *ban) reason(v enforce.Verdict) (reason, nearest string) {
	rule, prefix := v.Rule, ""
	if v.WouldDeny {
		rule, prefix = v.Would, fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): ", v.Would.Setting, v.WouldMode)
	}
	switch rule.Line {
	case b.line:
		return prefix + string(b.setting) + " is false", fmt.Sprintf("grant an exception for %q, for a time, or set %s to true", b.subject, b.setting)
	case lineExcepted:
		return "an exception for " + b.what + " is in force", ""
	}
	return "no setting in force refuses " + b.what, fmt.Sprintf("set %s to false", b.setting)
}
