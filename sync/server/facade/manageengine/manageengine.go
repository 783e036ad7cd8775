// Package manageengine is the façade of ManageEngine Mobile Device Manager Plus: its profiles and their payloads. A profile is in force once it
// is published, and not any more when it is in the trash. Whom it is for is not among these calls: an administrator assigns it in Warder.
package manageengine

import (
	"errors"
	"net/http"
	"strings"

	"github.com/warderd/warder/sync/server/facade"
)

const (
	maxPayload = 256 << 10
	maxSmall   = 32 << 10

	profiles  = "/api/v1/mdm/profiles"
	one       = profiles + "/{profile}"
	payloads  = one + "/payloads"
	payload   = payloads + "/{payload}"
	item      = payload + "/payloaditems/{item}"
	tokenPath = "/oauth/v2/token" //nolint:gosec // a path
)

// Facade is the façade. Its scopes READ are a viewer's, and CREATE, UPDATE and DELETE an administrator's.
func Facade() *facade.Vendor {
	return &facade.Vendor{Name: "manageengine", Token: token, Refuse: refuse, Routes: []facade.Route{
		{Method: "GET", Path: profiles, Do: list},
		{Method: "POST", Path: profiles, Access: facade.Admin, Do: create, Body: maxSmall},
		{Method: "DELETE", Path: profiles, Access: facade.Admin, Do: trash, Body: maxSmall},
		{Method: "GET", Path: one, Do: get},
		{Method: "PUT", Path: one, Access: facade.Admin, Do: modify, Body: maxSmall},
		{Method: "GET", Path: payloads, Do: payloadNames},
		{Method: "GET", Path: payload, Do: payloadIDs},
		{Method: "POST", Path: payload, Access: facade.Admin, Do: addItem, Body: maxPayload},
		{Method: "DELETE", Path: payload, Access: facade.Admin, Do: removePayload, Body: maxSmall},
		{Method: "GET", Path: item, Do: getItem},
		{Method: "PUT", Path: item, Access: facade.Admin, Do: modifyItem, Body: maxPayload},
		{Method: "DELETE", Path: item, Access: facade.Admin, Do: removeItem, Body: maxSmall},
		{Method: "POST", Path: one + "/publish", Access: facade.Admin, Do: publish, Body: maxSmall},
		{Method: "PUT", Path: one + "/update_all", Access: facade.Admin, Do: updateAll, Body: maxSmall},

		{Method: "POST", Path: tokenPath, Access: facade.Anyone, Do: refresh, Body: maxSmall},
	}}
}

// token is the credential of a request: the cloud's scheme, or the bare key of a console of one's own. The cloud's token answer says
// "Bearer", which its API does not take; a script that sends it all the same means the same.
func token(q *http.Request) string {
	h := strings.TrimSpace(q.Header.Get("Authorization"))
	if scheme, t, ok := strings.Cut(h, " "); ok {
		if strings.EqualFold(scheme, "Zoho-oauthtoken") || strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(t)
		}
		return ""
	}
	return h
}

// wrong is an error.
type wrong struct {
	Code        string `json:"error_code"`
	Description string `json:"error_description"`
}

// codes are the vendor's, by our status. What it has none for is the one for requests that are malformed.
var codes = map[int]string{
	http.StatusUnauthorized:        "COM0013",
	http.StatusForbidden:           "COM0013",
	http.StatusNotFound:            "COM0008",
	http.StatusConflict:            "COM0015",
	http.StatusTooManyRequests:     "URL_ROLLING_THROTTLES_LIMIT_EXCEEDED",
	http.StatusServiceUnavailable:  "COM0004",
	http.StatusInternalServerError: "COM0004",
}

// answer is one in JSON, as the vendor marks it.
func answer(status int, v any) (facade.Answer, error) {
	x, err := facade.JSON(status, v)
	x.Type = "application/json;charset=UTF-8"
	return x, err
}

func refuse(_ *http.Request, p *facade.Problem) facade.Answer {
	code := codes[p.Status]
	if code == "" {
		code = "COM0006"
	}
	if p.Code == invalidField {
		code = "COM0024"
	}
	x, _ := answer(p.Status, wrong{code, p.Message})
	return x
}

// invalidField is the code of a problem with one field.
const invalidField = "invalid_field"

func invalid(field, what string) error {
	return &facade.Problem{Status: http.StatusBadRequest, Code: invalidField, Message: field + " " + what}
}

func malformed() error { return facade.Bad(facade.ErrMalformed.Error()) }

// refresh answers POST /oauth/v2/token as the accounts server does: the token that refreshes is the access token, too.
func refresh(c *facade.Call) (facade.Answer, error) {
	form, err := facade.Form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	for name, v := range c.Query { // which is where the vendor's documentation has it
		if !form.Has(name) {
			form[name] = v
		}
	}
	secret := form.Get("refresh_token")
	if form.Get("grant_type") != "refresh_token" || secret == "" {
		return answer(http.StatusOK, map[string]string{"error": "invalid_code"}) // with 200, as there
	}
	who, err := c.Fleet.Login(secret)
	var p *facade.Problem
	if errors.As(err, &p) && p.Status == http.StatusUnauthorized {
		return answer(http.StatusOK, map[string]string{"error": "invalid_code"})
	}
	if err != nil {
		return facade.Answer{}, err
	}
	return answer(http.StatusOK, struct {
		Token   string `json:"access_token"`
		Domain  string `json:"api_domain"`
		Type    string `json:"token_type"`
		Expires int64  `json:"expires_in"`
	}{secret, "https://" + c.Host, "Bearer", int64(who.Until.Sub(c.Now).Seconds())})
}

// read decodes a body into a struct.
func read(c *facade.Call, to any) error {
	if facade.Decode(c.Body, to) != nil {
		return malformed()
	}
	return nil
}
