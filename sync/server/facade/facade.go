// Package facade is what the façades of other vendors' consoles share: a client that was written for one of them calls its API, and Warder
// answers in that API's shapes. A façade has routes, and knows the vendor's documents and errors. Who may call, how often, how much at
// once, what is stored and what devices get is the API's (sync/server/api), the same for everybody.
package facade

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// Vendor is one façade.
type Vendor struct {
	Name   string // as in "--facade wso2=:9443"
	Routes []Route
	// Token takes the credential out of a request; "" if there is none.
	Token func(*http.Request) string
	// Refuse says an error in the vendor's shape.
	Refuse func(*http.Request, *Problem) Answer
	// Types are what the vendor calls kinds of devices, and which of ours these are, where the operator has said nothing.
	Types map[string][]string
}

// Access says who may call a route.
type Access int

const (
	Viewer Access = iota // a token of either role
	Admin
	Anyone // the body has the credential, or there is none
)

// Route is one call.
type Route struct {
	Method string
	Path   string // as net/http's mux has it, without a final slash: it is answered with one, too
	Access Access
	Do     func(*Call) (Answer, error)
	Body   int64 // the largest body in bytes; 0 is none at all
}

// Call is one call under way.
type Call struct {
	*http.Request
	Body  []byte
	Query url.Values
	By    string // the token's subject
	Admin bool   // whether its role is admin
	Now   time.Time
	Fleet Fleet
	Types map[string][]string // the vendor's kinds of devices, and which of ours they are
	Apps  map[string][]string // the programs of a laptop that the vendor's apps are, by their ids
	HTTPS bool                // the server itself uses TLS
	Whole bool                // what is asked of a part of a device may be done to the whole machine
}

// Answer is what a client gets.
type Answer struct {
	Status int // 0 is 200
	Type   string
	Body   []byte
	Header http.Header
}

// JSON is an answer in JSON.
func JSON(status int, v any) (Answer, error) {
	b, err := Marshal(v)
	return Answer{Status: status, Type: "application/json", Body: b}, err
}

// Problem is why a call is refused.
type Problem struct {
	Status        int
	Code, Message string
	ID            string // of the request, for the server's log
	Body          any    // what the vendor answers in this very case; nil is what it answers to any error
}

func (p *Problem) Error() string { return p.Message }

// NotFound is a problem.
func NotFound(message string) error {
	return &Problem{Status: http.StatusNotFound, Code: "not_found", Message: message}
}

// Bad is a problem of what was sent.
func Bad(message string) error {
	return &Problem{Status: http.StatusBadRequest, Code: "bad_request", Message: message}
}

// Fleet is what a call may see and change, as the one whose token it has.
type Fleet interface {
	// Document is one document of a kind, by its number, and DocumentOf the one that a policy of ours was made of; nil if there is none.
	Document(kind string, number int64) (*store.VendorDocument, error)
	DocumentOf(policy string) (*store.VendorDocument, error)
	// Documents are the vendor's documents of a kind, in order of their numbers.
	Documents(kind string) ([]*store.VendorDocument, error)
	// Change writes what f makes of them, all or nothing: nobody else changes them meanwhile. It may call f again, with others.
	Change(kind string, f func([]*store.VendorDocument) (*Update, error)) error
	// Device is one device, by its id.
	Device(id string) (*Device, error)
	// Login says whose a credential is that came in a body.
	Login(credential string) (Caller, error)
}

// Caller is whose a credential is, and when it ends.
type Caller struct {
	By    string
	Admin bool
	Until time.Time
}

// Update is what a call changes.
type Update struct {
	Documents []*store.VendorDocument // those that are other ones now, or new
	Publish   []Publication
	Detail    []string // for the audit log
}

// Publication brings a document into force. Its policy is made, changed, or not in force any more.
type Publication struct {
	Document    *store.VendorDocument
	Translation *dialect.Translation // nil: it is in force nowhere
	Targets     []fleet.Target       // who gets the policy; nobody if there are none
	Priority    int                  // of ours: the highest wins
	Carried     *Carried
}

// Carried is what people should know of a document: what of it no laptop can do, or not yet, or only in part.
type Carried struct {
	Unsupported []dialect.Unsupported                     `json:"unsupported,omitempty"`
	Partial     map[enforce.Setting][]dialect.Unsupported `json:"partial,omitempty"`
	Notes       []string                                  `json:"notes,omitempty"`
}

// CarriedOf is what is said of a translation.
func CarriedOf(t *dialect.Translation) *Carried {
	return &Carried{t.Named, t.Partial, slices.Clone(t.Notes)}
}

// Tag is the tag of ours for a name of the vendor's, such as that of a role: in small letters, and what a tag has not as its number
// between two "_"; false if it is too long.
func Tag(prefix, name string) (string, bool) {
	var b strings.Builder
	b.WriteString(prefix)
	for _, r := range strings.ToLower(name) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "_%x_", r)
		}
	}
	return b.String(), b.Len() <= 64 && name != ""
}

// Device is a device, and what it has reported.
type Device struct {
	*store.Device
	Policy   string // of ours, which the device should have
	Findings []enforce.Finding
	Why      string // why what it has reported says nothing of that policy; "" if it does
	LastSync *time.Time
}
