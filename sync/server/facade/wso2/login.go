package wso2

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/warderd/warder/sync/server/facade"
)

// A token of Warder's for this façade is each secret of the vendor's in turn: the password, the client's secret, the access token and the
// token that refreshes it. So it has one end, one role and one name in the audit log, and nothing else has to be kept.

// access is the answer of the token endpoint.
type access struct {
	Scope   string `json:"scope"`
	Type    string `json:"token_type"`
	Expires int64  `json:"expires_in"` // seconds
	Refresh string `json:"refresh_token,omitempty"`
	Token   string `json:"access_token"`
}

// token answers POST /oauth2/token.
func token(c *facade.Call) (facade.Answer, error) {
	form, err := facade.Form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	secret, grant := "", form.Get("grant_type")
	switch grant {
	case "password":
		secret = form.Get("password")
	case "refresh_token":
		secret = form.Get("refresh_token")
	case "client_credentials":
		if _, secret, _ = c.BasicAuth(); secret == "" {
			secret = form.Get("client_secret")
		}
	case "":
		return facade.Answer{}, &facade.Problem{Status: http.StatusBadRequest, Code: "invalid_request", Message: "Missing parameters: grant_type"}
	default:
		return facade.Answer{}, &facade.Problem{Status: http.StatusBadRequest, Code: "unsupported_grant_type", Message: "Unsupported grant_type value"}
	}
	who, err := c.Fleet.Login(secret)
	if err != nil {
		var p *facade.Problem
		if grant == "client_credentials" && errors.As(err, &p) && p.Status == http.StatusUnauthorized {
			p.Code = "invalid_client"
		}
		return facade.Answer{}, err
	}
	out := access{Scope: "default", Type: "Bearer", Expires: int64(who.Until.Sub(c.Now).Seconds()), Refresh: secret, Token: secret}
	if s := form.Get("scope"); s != "" && len(s) <= 4<<10 {
		out.Scope = s
	}
	if grant == "client_credentials" {
		out.Refresh = ""
	}
	x, err := facade.JSON(http.StatusOK, out)
	x.Header = http.Header{"Pragma": {"no-cache"}}
	return x, err
}

// register answers POST /api-application-registration/register: whoever calls has the user's name and password.
func register(c *facade.Call) (facade.Answer, error) {
	var in struct {
		Name string   `json:"applicationName"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(c.Body, &in); err != nil {
		return facade.Answer{}, malformed()
	}
	name, password, _ := c.BasicAuth()
	if _, err := c.Fleet.Login(password); err != nil {
		return facade.Answer{}, err
	}
	if len(in.Tags) == 0 {
		return facade.Answer{Status: http.StatusNotAcceptable, Type: "text/plain", Body: []byte("Tags should not be empty")}, nil
	}
	return facade.JSON(http.StatusCreated, map[string]string{"client_id": client(name, in.Name), "client_secret": password})
}

// registerClient answers POST /dynamic-client-web/register, which asks for no credentials: what it answers opens nothing.
func registerClient(c *facade.Call) (facade.Answer, error) {
	var in struct {
		Callback string `json:"callbackUrl"`
		Name     string `json:"clientName"`
		Owner    string `json:"owner"`
	}
	if err := json.Unmarshal(c.Body, &in); err != nil || in.Name == "" || in.Owner == "" || len(in.Name)+len(in.Owner) > 256 {
		return facade.Answer{}, &facade.Problem{Status: http.StatusBadRequest, Code: "invalid_client_metadata",
			Message: "Error occurred while registering client '" + in.Name[:min(len(in.Name), 64)] + "'"}
	}
	_, password, _ := c.BasicAuth()
	return facade.JSON(http.StatusCreated, map[string]string{"client_id": client(in.Owner, in.Name), "client_name": in.Owner + "_" + in.Name,
		"callback_url": in.Callback, "client_secret": password})
}

// client is a client's id: it is not checked anywhere, and the same for the same name.
func client(owner, name string) string {
	return "warder_" + strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, owner[:min(len(owner), 64)]+"_"+name[:min(len(name), 64)])
}

// basicRealm asks for a name and a password.
var basicRealm = http.Header{"Www-Authenticate": {`Basic realm="Warder"`}}

// refuseLogin says an error in the words of OAuth.
func refuseLogin(p *facade.Problem) facade.Answer {
	code, status, message := p.Code, p.Status, p.Message
	var h http.Header
	switch {
	case code == "invalid_client":
		message, h = "Client Authentication failed.", basicRealm
	case status == http.StatusUnauthorized:
		code, status, message = "invalid_grant", http.StatusBadRequest, "Provided Authorization Grant is invalid"
	case code == "bad_request":
		code = "invalid_request"
	}
	x, _ := facade.JSON(status, struct {
		Description string `json:"error_description"`
		Error       string `json:"error"`
	}{message, code})
	x.Header = h
	return x
}
