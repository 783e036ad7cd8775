// Package wso2 is the façade of WSO2 EMM and IoT Server: its policies, and how devices comply with them, under both of its addresses
// (/mdm-admin of EMM up to 2.1, /api/device-mgt/v1.0 since). What is written is in force when changes are applied, as there.
package wso2

import (
	"encoding/xml"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/warderd/warder/sync/server/facade"
)

// Options are what an operator says.
type Options struct {
	// Enveloped says that /mdm-admin answers within {statusCode, messageFromServer, responseContent}; otherwise only ?envelope=true does.
	Enveloped bool
}

// The largest bodies: a policy of a console has some kilobytes.
const (
	maxPolicy = 256 << 10
	maxSmall  = 32 << 10
)

// The two addresses.
const (
	old    = "/mdm-admin/policies"
	newer  = "/api/device-mgt/v1.0/policies"
	phones = "/api/device-mgt/v1.0/devices"
)

// Facade is the façade.
func Facade(o Options) *facade.Vendor {
	f := &wso2{o: o}
	return &facade.Vendor{
		Name: "wso2", Token: bearer, Refuse: refuse,
		// Kinds of devices that are called as ours are. What else a console calls them, the operator maps.
		Types: map[string][]string{"linux": {"linux"}, "windows": {"windows"}, "macos": {"darwin"}, "darwin": {"darwin"}},
		Routes: []facade.Route{
			{Method: "POST", Path: tokenPath, Access: facade.Anyone, Do: token, Body: maxSmall},
			{Method: "POST", Path: registerPath, Access: facade.Anyone, Do: register, Body: maxSmall},
			{Method: "POST", Path: clientPath, Access: facade.Anyone, Do: registerClient, Body: maxSmall},

			{Method: "GET", Path: old, Do: f.list},
			{Method: "GET", Path: old + "/count", Do: f.count},
			{Method: "GET", Path: old + "/{id}", Do: f.get},
			{Method: "POST", Path: old + "/active-policy", Access: facade.Admin, Do: f.add(true), Body: maxPolicy},
			{Method: "POST", Path: old + "/inactive-policy", Access: facade.Admin, Do: f.add(false), Body: maxPolicy},
			{Method: "PUT", Path: old + "/{id}", Access: facade.Admin, Do: f.edit, Body: maxPolicy},
			{Method: "PUT", Path: old + "/activate", Access: facade.Admin, Do: f.turn(true), Body: maxSmall},
			{Method: "PUT", Path: old + "/inactivate", Access: facade.Admin, Do: f.turn(false), Body: maxSmall},
			{Method: "PUT", Path: old + "/priorities", Access: facade.Admin, Do: f.order, Body: maxPolicy},
			{Method: "PUT", Path: old + "/apply-changes", Access: facade.Admin, Do: f.apply, Body: maxSmall},
			{Method: "POST", Path: old + "/bulk-remove", Access: facade.Admin, Do: f.remove, Body: maxSmall},
			{Method: "GET", Path: old + "/{type}/{device}/active-policy", Do: f.effective},
			{Method: "GET", Path: old + "/{type}/{device}", Do: f.compliance},

			{Method: "GET", Path: newer, Do: f.list},
			{Method: "POST", Path: newer, Access: facade.Admin, Do: f.add(false), Body: maxPolicy},
			{Method: "GET", Path: newer + "/{id}", Do: f.get},
			{Method: "PUT", Path: newer + "/{id}", Access: facade.Admin, Do: f.edit, Body: maxPolicy},
			{Method: "POST", Path: newer + "/activate-policy", Access: facade.Admin, Do: f.turn(true), Body: maxSmall},
			{Method: "PUT", Path: newer + "/activate-policy", Access: facade.Admin, Do: f.turn(true), Body: maxSmall},
			{Method: "POST", Path: newer + "/deactivate-policy", Access: facade.Admin, Do: f.turn(false), Body: maxSmall},
			{Method: "PUT", Path: newer + "/deactivate-policy", Access: facade.Admin, Do: f.turn(false), Body: maxSmall},
			{Method: "PUT", Path: newer + "/priorities", Access: facade.Admin, Do: f.order, Body: maxPolicy},
			{Method: "PUT", Path: newer + "/apply-changes", Access: facade.Admin, Do: f.apply, Body: maxSmall},
			{Method: "POST", Path: newer + "/remove-policy", Access: facade.Admin, Do: f.remove, Body: maxSmall},
			{Method: "GET", Path: newer + "/effective-policy/{type}/{device}", Do: f.effective},
			{Method: "GET", Path: phones + "/{type}/{device}/effective-policy", Do: f.effective},
			{Method: "GET", Path: phones + "/{type}/{device}/compliance-data", Do: f.compliance},
			{Method: "GET", Path: phones + "/{type}/{device}/status", Do: f.status},
		},
	}
}

type wso2 struct {
	o        Options
	applying sync.Mutex // changes are applied by one call at a time
}

// dated reports whether a call is one of EMM up to 2.1.
func dated(q *http.Request) bool { return strings.HasPrefix(q.URL.Path, "/mdm-admin/") }

// enveloped reports whether what is read comes in an envelope.
func (f *wso2) enveloped(c *facade.Call) bool {
	return dated(c.Request) && f.o.Enveloped || c.Query.Get("envelope") == "true"
}

// bearer is the token of a request.
func bearer(q *http.Request) string {
	scheme, t, _ := strings.Cut(q.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(t)
}

// wrapped is an answer in the envelope. The status inside is not always that of the answer, as there.
type wrapped struct {
	Status  int    `json:"statusCode"`
	Message string `json:"messageFromServer"`
	Content any    `json:"responseContent,omitempty"`
}

// wrong is an error of /api/device-mgt/v1.0.
type wrong struct {
	Code        int     `json:"code,omitempty"`
	Message     string  `json:"message"`
	Description string  `json:"description,omitempty"`
	MoreInfo    *string `json:"moreInfo,omitempty"`
	Items       *[]item `json:"errorItems,omitempty"`
}

type item struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// badRequest is one of the three kinds of 400 that there are: with nothing but words, with a field that is wrong, and for what is no JSON.
func badRequest(message string, w wrong) error {
	w.Code = http.StatusBadRequest
	return &facade.Problem{Status: http.StatusBadRequest, Code: "bad_request", Message: message, Body: w}
}

func plain(message string) error { return badRequest(message, wrong{Message: message}) }

func invalid(field, what string) error {
	return badRequest(field+": "+what, wrong{Message: "Bad Request", Description: "Validation Error", MoreInfo: new(string),
		Items: &[]item{{"400_" + field, field + ": " + what}}})
}

func malformed() error {
	const message = "Malformed request body."
	return badRequest(message, wrong{Message: "Bad Request", Description: message, MoreInfo: new(string), Items: &[]item{}})
}

// fault is an error of the gateway before the API. It has one name space for who may call, and one for how often.
type fault struct {
	Code        int    `json:"code"`
	Message     string `json:"message"`
	Description string `json:"description"`
	space       string
}

// faults are what the gateway says, by the status.
var faults = map[int]fault{
	http.StatusUnauthorized:       {Code: 900901, Message: "Invalid Credentials", space: "ams http://wso2.org/apimanager/security"},
	http.StatusForbidden:          {Code: 900910, Message: "The access token does not allow you to access the requested resource", space: "ams http://wso2.org/apimanager/security"},
	http.StatusTooManyRequests:    {Code: 900800, Message: "Message throttled out", space: "amt http://wso2.org/apimanager/throttling"},
	http.StatusServiceUnavailable: {Code: 900801, Message: "API not accepting requests", space: "amt http://wso2.org/apimanager/throttling"},
}

// The calls that log in.
const (
	tokenPath    = "/oauth2/token" //nolint:gosec // a path
	registerPath = "/api-application-registration/register"
	clientPath   = "/dynamic-client-web/register"
)

// refuse says an error as the part does that a client has called.
func refuse(q *http.Request, p *facade.Problem) facade.Answer {
	path := strings.TrimSuffix(q.URL.Path, "/")
	switch {
	case path == registerPath && p.Status == http.StatusUnauthorized:
		return facade.Answer{Status: p.Status, Type: "text/plain;charset=UTF-8", Body: []byte("Unauthorized"), Header: basicRealm}
	case path == tokenPath, path == registerPath, path == clientPath:
		return refuseLogin(p)
	case dated(q):
		if p.Status == http.StatusUnauthorized { // in plain text, whatever it is called
			message := p.Message
			if bearer(q) == "" {
				message = "Failed to load an appropriate authenticator to authenticate the request"
			}
			as := "application/xml"
			if a := q.Header.Get("Accept"); a != "" && a != "*/*" {
				if k, _, err := mime.ParseMediaType(a); err == nil {
					as = k
				}
			}
			return facade.Answer{Status: p.Status, Type: as + ";charset=UTF-8", Body: []byte(message),
				Header: http.Header{"Www-Authenticate": {message}}}
		}
		x, _ := facade.JSON(p.Status, map[string]string{"errorMessage": p.Message})
		return x
	case faults[p.Status].Code != 0:
		return gateway(q, p)
	case p.Body != nil:
		x, _ := facade.JSON(p.Status, p.Body)
		return x
	}
	w := wrong{Code: p.Status, Message: p.Message}
	if p.Status == http.StatusRequestEntityTooLarge {
		w.Message, w.Description = http.StatusText(p.Status), p.Message
	}
	x, _ := facade.JSON(p.Status, w)
	return x
}

// gateway says what the gateway says: in JSON only to who accepts that and nothing else.
func gateway(q *http.Request, p *facade.Problem) facade.Answer {
	f := faults[p.Status]
	f.Description = p.Message
	if p.Status == http.StatusUnauthorized && bearer(q) == "" {
		f.Code, f.Message = 900902, "Missing Credentials"
		f.Description = `Required OAuth credentials not provided. Make sure your API invocation call has a header: "Authorization: Bearer ACCESS_TOKEN"`
	}
	var x facade.Answer
	if q.Header.Get("Accept") == "application/json" {
		x, _ = facade.JSON(p.Status, map[string]fault{"fault": f})
	} else {
		short, space, _ := strings.Cut(f.space, " ")
		text := func(s string) string {
			var b strings.Builder
			_ = xml.EscapeText(&b, []byte(s))
			return b.String()
		}
		x = facade.Answer{Status: p.Status, Type: "application/xml; charset=UTF-8",
			Body: fmt.Appendf(nil, "<%[1]s:fault xmlns:%[1]s=%[2]q><%[1]s:code>%[3]d</%[1]s:code><%[1]s:message>%[4]s</%[1]s:message><%[1]s:description>%[5]s</%[1]s:description></%[1]s:fault>",
				short, space, f.Code, text(f.Message), text(f.Description))}
	}
	if p.Status == http.StatusUnauthorized {
		x.Header = http.Header{"Www-Authenticate": {`OAuth2 realm="WSO2 API Manager"`}}
	}
	return x
}
