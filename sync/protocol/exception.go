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
	// Seconds is the granted length. Whatever the server's clock is set to, the exception lasts no longer than that
	// from when the device first received it. 0 from a server that does not say (0.2.0).
	Seconds int64 `json:"seconds,omitempty"`
}

// firstSection is the only section that had exceptions up to version 0.3, which named the field after it.
const firstSection = "usb"

type plainException Exception

type oldException struct {
	plainException
	USB string `json:"usb,omitempty"`
}

// MarshalJSON also writes the subject in the form for older devices.
func (e Exception) MarshalJSON() ([]byte, error) {
	old := oldException{plainException: plainException(e)}
	if e.Section == firstSection {
		old.USB = e.Subject
	}
	return json.Marshal(old)
}

// UnmarshalJSON also reads an older server's form.
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

// CodeSubject is the text that an exception code is made for.
func CodeSubject(section, subject string) string {
	if section == firstSection {
		return subject // as in version 0.2
	}
	return section + " " + subject
}
