package protocol

import (
	"encoding/json"
	"time"
)

// Exception lets one subject pass on one device for a time: a stick, a name, a file.
type Exception struct {
	ID      string    `json:"id"`
	Section string    `json:"section"`
	Subject string    `json:"subject"` // as the section names it
	Reason  string    `json:"reason"`
	Until   time.Time `json:"until"`
	// Seconds is what it was granted for. However the server's clock is set, it lasts no longer than that
	// from when the device first met it. 0 from a server that does not say (0.2.0).
	Seconds int64 `json:"seconds,omitempty"`
}

// firstSection is the one that exceptions were for up to version 0.3, which named the subject after it.
const firstSection = "usb"

type plainException Exception

type oldException struct {
	plainException
	USB string `json:"usb,omitempty"`
}

// MarshalJSON writes the subject for older devices, too.
func (e Exception) MarshalJSON() ([]byte, error) {
	old := oldException{plainException: plainException(e)}
	if e.Section == firstSection {
		old.USB = e.Subject
	}
	return json.Marshal(old)
}

// UnmarshalJSON reads an older server's, too.
func (e *Exception) UnmarshalJSON(b []byte) error {
	var old oldException
	if err := json.Unmarshal(b, &old); err != nil {
		return err
	}
	*e = Exception(old.plainException)
	if e.Section == "" && old.USB != "" {
		e.Section, e.Subject = firstSection, old.USB
	}
	return nil
}

// CodeSubject is what an exception code is made for.
func CodeSubject(section, subject string) string {
	if section == firstSection {
		return subject // as in version 0.2
	}
	return section + " " + subject
}
