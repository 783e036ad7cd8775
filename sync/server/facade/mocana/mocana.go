// Package mocana is the façade of Mocana and Blue Cedar: profiles, and the apps that are secured with them. A profile by itself is in force
// nowhere. Which programs of a laptop an app is, the operator says; what an app is secured with becomes one policy, for the devices that an
// administrator assigns it to in Warder, and stays as it was when a profile is changed or deleted afterwards.
package mocana

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/warderd/warder/sync/server/facade"
)

const (
	maxBody  = 256 << 10
	maxSmall = 32 << 10

	base = "/mocana-app-control/rest"
	// session is the cookie that has the token, as consoles of this kind call it.
	session = "JSESSIONID"
)

// Facade is the façade.
func Facade() *facade.Vendor {
	return &facade.Vendor{Name: "mocana", Token: token, Refuse: refuse, Routes: []facade.Route{
		{Method: "GET", Path: base + "/user/ping", Do: ping},
		{Method: "POST", Path: base + "/user/ping/j_security_check", Access: facade.Anyone, Do: login, Body: maxSmall},

		{Method: "POST", Path: base + "/profile", Access: facade.Admin, Do: write("", "data", true), Body: maxBody},
		{Method: "GET", Path: base + "/profile/catalog", Do: catalog},
		{Method: "GET", Path: base + "/profile/catalog/{type}", Do: catalog},
		{Method: "GET", Path: base + "/profile/data/{id}", Do: profileData},
		{Method: "POST", Path: base + "/profile/mocana-browser/new", Access: facade.Admin, Do: write(browser, "browser_profile_data", true), Body: maxBody},
		{Method: "GET", Path: base + "/profile/mocana-browser/{id}", Do: getBrowser},
		{Method: "POST", Path: base + "/profile/mocana-browser/{id}", Access: facade.Admin, Do: write(browser, "browser_profile_data", false), Body: maxBody},
		{Method: "GET", Path: base + "/profile/{id}", Do: get},
		{Method: "POST", Path: base + "/profile/{id}", Access: facade.Admin, Do: write("", "data", false), Body: maxBody},
		{Method: "DELETE", Path: base + "/profile/{id}", Access: facade.Admin, Do: archive, Body: maxSmall},
		{Method: "POST", Path: base + "/app-policy/vpn-profile", Access: facade.Admin, Do: tunnel, Body: maxBody},
		{Method: "GET", Path: base + "/settings/{default}", Do: getDefault},
		{Method: "POST", Path: base + "/settings/{default}", Access: facade.Admin, Do: setDefault, Body: maxSmall},

		{Method: "GET", Path: base + "/app-market/catalog", Do: apps},
		{Method: "GET", Path: base + "/app-market/{app}", Do: app},
		{Method: "POST", Path: base + "/app-market/policy", Access: facade.Admin, Do: secure, Body: maxBody},
		{Method: "DELETE", Path: base + "/app-market/policy/{app}", Access: facade.Admin, Do: unsecure, Body: maxSmall},
	}}
}

// token is the session of a request, which is a token of ours.
func token(q *http.Request) string {
	c, err := q.Cookie(session)
	if err != nil {
		return ""
	}
	return c.Value
}

// loginPage is what the console answers where there is no session. It does so with the status 200; here the status says it, too, so that no
// client takes it for an answer.
const loginPage = `<!DOCTYPE html>
<html><head><title>Login</title></head><body><form method="POST" action="` + base + `/user/ping/j_security_check">
<input name="j_username"><input name="j_password" type="password"><input type="submit"></form></body></html>
`

func refuse(q *http.Request, p *facade.Problem) facade.Answer {
	if p.Status == http.StatusUnauthorized && !strings.HasSuffix(strings.TrimSuffix(q.URL.Path, "/"), "/j_security_check") {
		return facade.Answer{Status: p.Status, Type: "text/html;charset=UTF-8", Body: []byte(loginPage)}
	}
	x, _ := facade.JSON(p.Status, enveloped{Message: p.Message, Status: "Error"})
	return x
}

// enveloped is what each answer has.
type enveloped struct {
	Message string `json:"message"`
	Status  string `json:"status"`
}

const good = "OK"

// account is who a client is, in the order of the vendor's fields.
type account struct {
	Email    string `json:"email"`
	First    string `json:"first_name"`
	ID       string `json:"id"`
	Last     string `json:"last_name"`
	Admin    string `json:"ua_admin"`
	Created  string `json:"ua_creation_date"`
	Modified string `json:"ua_modification_date"`
	Status   string `json:"ua_status"`
	URL      string `json:"userUrl"`
}

// whoami is the answer to who has a session.
func whoami(c *facade.Call, by string, admin bool) (facade.Answer, error) {
	id := guid("user " + by)
	at := stamp(c.Now)
	return facade.JSON(http.StatusOK, struct {
		Message string    `json:"message"`
		Status  string    `json:"status"`
		User    []account `json:"user"`
	}{"", good, []account{{by, "", id, "", map[bool]string{true: "1", false: "0"}[admin], at, at, "1", "https://" + c.Host + base + "/user/" + id}}})
}

func ping(c *facade.Call) (facade.Answer, error) { return whoami(c, c.By, c.Admin) }

// login answers POST user/ping/j_security_check: the password is a token of ours, and so is the session.
func login(c *facade.Call) (facade.Answer, error) {
	f, err := form(c)
	if err != nil {
		return facade.Answer{}, err
	}
	secret := f.Get("j_password")
	who, err := c.Fleet.Login(secret)
	if err != nil {
		return facade.Answer{}, err
	}
	x, err := whoami(c, who.By, who.Admin)
	cookie := http.Cookie{Name: session, Value: secret, Path: base, Expires: who.Until, HttpOnly: true, Secure: c.HTTPS, //nolint:gosec // plain HTTP is for this machine alone
		SameSite: http.SameSiteStrictMode}
	x.Header = http.Header{"Set-Cookie": {cookie.String()}}
	return x, err
}

// mostFields bounds a form.
const mostFields = 200

// form reads what a client has sent in the body: a form, or parts of which some may be files. A name comes once, if it is not a list's.
func form(c *facade.Call) (url.Values, error) {
	out := url.Values{}
	add := func(name, value string) error {
		switch {
		case name == "" || !utf8.ValidString(name) || !utf8.ValidString(value):
			return facade.Bad(fmt.Sprintf("%.80q must have a name, and be UTF-8", name))
		case out.Has(name) && !strings.HasSuffix(name, "[]"):
			return facade.Bad(fmt.Sprintf("%.80q comes twice", name))
		case len(out) >= mostFields || len(out[name]) >= mostFields:
			return facade.Bad(fmt.Sprintf("the form has more than %d fields", mostFields))
		}
		out.Add(name, value)
		return nil
	}
	unreadable := facade.Bad("the form cannot be read")
	kind, params, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		plain, err := url.ParseQuery(string(c.Body))
		if err != nil {
			return nil, unreadable
		}
		for name, list := range plain {
			for _, v := range list {
				if err := add(name, v); err != nil {
					return nil, err
				}
			}
		}
		return out, nil
	}
	r := multipart.NewReader(strings.NewReader(string(c.Body)), params["boundary"])
	for {
		part, err := r.NextPart()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, unreadable
		}
		b, err := io.ReadAll(part)
		if err != nil {
			return nil, unreadable
		}
		if err := add(part.FormName(), string(b)); err != nil {
			return nil, err
		}
	}
}
