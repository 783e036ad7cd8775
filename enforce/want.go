package enforce

// Key names one resource of the machine: {"usb.default", "usb1"}, {"nft.rule", "close-out/tcp/631"}.
type Key struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

func (k Key) String() string { return k.Kind + "/" + k.ID }

// Value is the canonical text of a resource's value; each Kind defines its format.
type Value string

// State says what a reading is worth.
type State uint8

const (
	Unknown State = iota // could not be read; never acted on, never compliant
	Absent               // read, and not there
	Present              // read, and Value is valid
)

var stateNames = [...]string{Unknown: "unknown", Absent: "absent", Present: "present"}

func (s State) String() string { return stateNames[s%3] }

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name; a newer version's is unknown.
func (s *State) UnmarshalText(b []byte) error {
	*s = Unknown
	for i, n := range stateNames {
		if n == string(b) {
			*s = State(i)
		}
	}
	return nil
}

// Reading is what a back end read of one resource.
type Reading struct {
	Value Value  `json:"value,omitempty"`
	State State  `json:"state"`
	How   string `json:"how,omitempty"` // the path or call, for evidence
}

// Is reports whether the resource was read and has the value v.
func (r Reading) Is(v Value) bool { return r.State == Present && r.Value == v }

// Same compares what was read, not how.
func (r Reading) Same(o Reading) bool { return r.State == o.State && r.Value == o.Value }

// String is the reading for people: its value, or why there is none.
func (r Reading) String() string {
	if r.State == Present {
		return string(r.Value)
	}
	return r.State.String()
}

// Phase orders the changes of a plan: what closes comes before the guards are loaded, what opens after, so that there
// is no moment in which neither is in force.
type Phase int8

const (
	Close Phase = -1
	Open  Phase = 1
)

// Want is one resource as the policy asks for it.
type Want struct {
	Key   Key
	Value Value
	// Absent asks that the resource does not exist. What another program put there is removed, and restored on release.
	Absent bool
	By     []Setting // who asks; equal wants are joined, different ones go to the kind's Join
	Mode   Mode      // of the deciding setting; below Enforce it is planned and never applied
	Phase  Phase
	Guard  Guard // why a stricter value is not wanted, if a guard prevents it
}

// To is the reading that is wanted.
func (w Want) To() Reading {
	if w.Absent {
		return Reading{State: Absent}
	}
	return Reading{Value: w.Value, State: Present}
}

// Change is one step of a plan.
type Change struct {
	Key      Key       `json:"key"`
	From     Reading   `json:"from"`
	To       Reading   `json:"to"`
	By       []Setting `json:"by,omitempty"`
	Phase    Phase     `json:"phase"`
	Mode     Mode      `json:"mode"`
	Baseline bool      `json:"baseline,omitempty"` // a return to what was there before us
}

// Gate checks every write of a back end. It refuses, and counts, every change that the mode in force does not permit:
// below Enforce only returns to the baseline pass.
type Gate func(Change) error
