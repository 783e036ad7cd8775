package fact

// Session is one graphical login session, and what its helper does there.
type Session struct {
	ID   string `json:"id"`   // as systemd-logind calls it
	Type string `json:"type"` // x11 or wayland
	// Clipboard says whether its helper keeps the clipboard by the rules in force now; Why says why not.
	Clipboard bool   `json:"clipboard"`
	Why       string `json:"why,omitempty"`
	// Never says that nothing can in a session of this kind.
	Never bool `json:"never,omitempty"`
	// Looked says whether what is copied there is looked into, by the rules in force now; LookedWhy says why not, and LookedNever that
	// nothing can in a session of this kind.
	Looked      bool   `json:"looked,omitempty"`
	LookedWhy   string `json:"looked_why,omitempty"`
	LookedNever bool   `json:"looked_never,omitempty"`
	// LookedLate counts what could not be looked into in time, since its helper or the agent was started.
	LookedLate int `json:"looked_late,omitempty"`
}

// How what is copied is looked into.
const (
	LookRead = "read" // and never kept from anybody
	LookHold = "hold" // before it can be pasted
)

// Word is what is so in the session.
func (s *Session) Word() string {
	switch {
	case s.Clipboard:
		return "kept"
	case s.Why != "":
		return s.Why
	}
	return "not kept"
}

// Said is the same for people, with the session.
func (s *Session) Said() string { return "session " + s.ID + " (" + s.Type + "): " + s.Word() }

// NoDesktop is what is so where there is no session.
const NoDesktop = "no desktop session, as systemd-logind says"

// ClipboardWord is how the clipboard as a whole is called.
const ClipboardWord = "the clipboard"

// Program is a program at the clipboard, as far as it is known.
type Program struct {
	Known bool // otherwise nothing else is
	UID   uint32
	User  string
	Units []string // the systemd slices and scopes that it runs in
	// Is reports whether it runs the file at this path, with this SHA-256 in hex unless that is empty.
	Is func(path, sum string) bool
}

// Paste is one paste that was judged: from where to where.
type Paste struct {
	From string `json:"clipboard_from"`
	To   string `json:"clipboard_to"`
}
