package enforce

// Setting names one setting of the policy document, as "section.name": "usb.whitelist".
type Setting string

// Section is the part of the name before the first dot.
func (s Setting) Section() string {
	for i := 0; i < len(s); i++ {
		if s[i] == '.' {
			return string(s[:i])
		}
	}
	return string(s)
}

// Mode says how much may be done for a setting. Modes are ordered: a greater one may do more.
type Mode uint8

const (
	Off     Mode = iota // unmanaged
	Monitor             // report only; nobody on the device is told
	Warn                // report, and tell the user
	Enforce             // act and report
)

var modeNames = [...]string{Off: "off", Monitor: "monitor", Warn: "warn", Enforce: "enforce"}

// String is the mode's name in a policy.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "unknown"
}

// ParseMode reads the three modes that a policy may name.
func ParseMode(s string) (Mode, bool) {
	for m := Monitor; m <= Enforce; m++ {
		if modeNames[m] == s {
			return m, true
		}
	}
	return Off, false
}

// MarshalText writes the mode's name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Strange is a mode of a newer version. It permits nothing.
const Strange Mode = 255

// UnmarshalText reads a mode's name from a report. "off" and "" are Off; a name that this version does not know is
// Strange.
func (m *Mode) UnmarshalText(b []byte) error {
	if *m = Off; len(b) == 0 || string(b) == "off" {
		return nil
	}
	got, ok := ParseMode(string(b))
	if *m = got; !ok {
		*m = Strange
	}
	return nil
}
