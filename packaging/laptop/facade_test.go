//go:build linux

package laptop

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// anotherConsole: a policy that a client of WSO2's writes is held by the laptop in each mode, and that console's call says how. A profile of
// ManageEngine's is held when it is published, its second version then, and nothing when it is in the trash; what is applied to an app of
// Apperian's reaches the laptop, and its report says what of it there is no section for; what an app of Mocana's is secured with is held, also
// when the profile is in the archive.
func anotherConsole(t *testing.T, r *rig) {
	r.set(`{"policy_data":{}}`)
	r.sh(`systemctl stop policy-server; systemd-run -q --unit=policy-server --property=Restart=no /srv/warder-server serve --data /srv/server ` +
		`--listen 127.0.0.1:8443 --interval 30s --facade wso2=127.0.0.1:9443 --facade manageengine=127.0.0.1:9444,whole --facade apperian=127.0.0.1:9445,app:mail=/usr/bin/mail --facade mocana=127.0.0.1:9446,app:mail=/usr/bin/mail,whole
for f in wso2 manageengine apperian mocana; do /srv/warder-server token create --data /srv/server --facade $f --role admin --ttl 24h >/root/console-$f || exit 1; done; ln -s console-wso2 /root/console`)
	const at = `https://127.0.0.1:9443/api/device-mgt/v1.0`
	call := func(method, path, body string) string {
		t.Helper()
		return r.sh(`curl -sk --fail-with-body -X %s -H "Authorization: Bearer $(cat /root/console)" -H 'Content-Type: application/json' %s%s --data-binary @- <<'JSON'
%s
JSON`, method, at, path, body)
	}
	r.wait("the console answers", "curl -skf -o /dev/null -H \"Authorization: Bearer $(cat /root/console)\" "+at+"/policies")
	policy := func(mode string) string {
		return `{"policyName":"Sticks","description":"","compliance":"` + mode + `","ownershipType":"ANY","active":true,"profile":{"profileName":"Sticks","deviceType":"linux",` +
			`"profileFeaturesList":[{"featureCode":"DISALLOW_MOUNT_PHYSICAL_MEDIA","deviceType":"linux","content":{"enabled":true}}]},"roles":["ANY"],"users":[]}`
	}
	r.plug("usb-storage", "s9", map[string]any{"drive": "a", "port": "1", "serial": "SN-9"})
	r.authorized("2-1", "1")
	call("POST", "/policies", policy("enforce"))
	data := `curl -sk -H "Authorization: Bearer $(cat /root/console)" ` + at + `/devices/linux/$(sed -n 's/.*"device_id": *"\([^"]*\)".*/\1/p' /run/warder/status.json)/compliance-data`
	for _, x := range []struct{ mode, authorized, status string }{{"enforce", "0", `"complianceFeatures":[],"status":true`},
		{"warn", "1", `"featureCode":"DISALLOW_MOUNT_PHYSICAL_MEDIA","compliance":false`}, {"monitor", "1", `"featureCode":"DISALLOW_MOUNT_PHYSICAL_MEDIA","compliance":false`}} {
		if x.mode != "enforce" {
			call("PUT", "/policies/1", policy(x.mode))
		}
		contains(t, call("PUT", "/policies/apply-changes", ""), "successfully updated")
		r.authorized("2-1", x.authorized)
		r.wait("the console knows how it is complied with", fmt.Sprintf("%s | grep -qF '%s'", data, x.status))
		r.wait("in its mode", `warder status --json | grep -q '"mode": "`+x.mode+`"'`)
		t.Log(x.mode, r.sh(data))
	}
	contains(t, call("POST", "/policies/remove-policy", "[1]"), "successfully deleted")

	// ManageEngine's calls, and Apperian's.
	zoho := func(method, path, body string) string {
		t.Helper()
		return r.sh(`curl -sk --fail-with-body -X %s -H "Authorization: Zoho-oauthtoken $(cat /root/console-manageengine)" https://127.0.0.1:9444/api/v1/mdm/profiles%s --data-binary '%s'`, method, path, body)
	}
	made := func(source string) string {
		t.Helper()
		var list struct {
			Data []struct{ ID, Source string }
		}
		if err := json.Unmarshal([]byte(r.curl("GET", "/policies?page_size=100", "")), &list); err != nil {
			t.Fatal(err)
		}
		for _, p := range list.Data {
			if p.Source == source {
				return p.ID
			}
		}
		t.Fatalf("no policy was made of %s", source)
		return ""
	}
	zoho("POST", "", `{"profile_name":"Sticks","platform_type":3}`)
	item := zoho("POST", "/1/payloads/windowsrestrictionpolicy", `{"disable_sd_card":true}`)
	zoho("POST", "/1/publish", "")
	r.curl("POST", "/assignments", `{"policy_id":"`+made("manageengine:1")+`","target":{},"priority":500}`)
	r.authorized("2-1", "0")
	id := item[strings.LastIndex(item, ":")+1 : len(item)-1]
	zoho("PUT", "/1/payloads/windowsrestrictionpolicy/payloaditems/"+id, `{"allow_screen_capture":false}`)
	contains(t, zoho("POST", "/1/publish", ""), "allow_screen_capture")
	contains(t, zoho("GET", "/1", ""), `"profile_version":2`)
	r.authorized("2-1", "1")
	r.until("the second version is in force", "/devices", `^"id":"`+made("manageengine:1")+`","version":2\b`)
	contains(t, zoho("DELETE", "", `{"profile_ids":[1]}`), `"is_moved_to_trash":true`)
	r.until("what is in the trash is not", "/devices", `^"id":"policy-default","version":`)

	app := `curl -sk --fail-with-body -H "X-TOKEN: $(cat /root/console-apperian)" https://127.0.0.1:9445/v2/applications/mail/policies/`
	contains(t, r.sh(app), `"code":0`)
	r.sh(app + ` -H 'Content-Type: application/json' --data '{"configurations":[{"policy_id":"com.apperian.app-usage"}]}'`)
	contains(t, r.sh(app), `"code":1`)
	r.curl("POST", "/assignments", `{"policy_id":"`+made("apperian:mail")+`","target":{},"priority":500}`)
	r.until("the app's policy is there", "/devices", `^"id":"`+made("apperian:mail")+`","version":1\b`)
	contains(t, r.curl("GET", "/policies/"+made("apperian:mail"), ""), "no section for it yet")
	r.sh(app + " -X DELETE")
	r.until("what was removed from an app is not in force", "/devices", `^"id":"policy-default","version":`)

	// Mocana's: a session, and a profile that is archived and still enforced.
	rest := `curl -sk --fail-with-body -b /root/cookies https://127.0.0.1:9446/mocana-app-control/rest`
	r.sh(`curl -sk --fail-with-body -c /root/cookies -d j_username=x -d j_password=$(cat /root/console-mocana) https://127.0.0.1:9446/mocana-app-control/rest/user/ping/j_security_check`)
	r.sh(`echo '{"privacyScreen":"1"}' >/root/profile.json; ` + rest + `/profile -F name=P -F type=data_sharing -F data=@/root/profile.json | sed 's/.*"profile_id":"\([^"]*\)".*/\1/' >/root/profile`)
	r.sh(rest + `/app-market/policy -F appID=mail -F 'policyCodes[]=POLICY_CODE_DATA_SHARING' -F data_sharing_profile_id=$(cat /root/profile)`)
	r.curl("POST", "/assignments", `{"policy_id":"`+made("mocana:mail")+`","target":{},"priority":500}`)
	const kept = `warder status --json | grep -q '"setting": "dlp.screenshot_allowed"'`
	r.wait("what the app is secured with is in force", kept)
	contains(t, r.sh(rest+`/profile/$(cat /root/profile) -X DELETE`), `"status":"OK"`)
	contains(t, r.try(rest+`/profile/$(cat /root/profile)`).Out, `"status":"Error"`)
	r.sh("warder check-in")
	r.sh(kept)
	contains(t, r.sh(rest+`/app-market/mail`), "POLICY_CODE_DATA_SHARING")
	r.sh(rest + `/app-market/policy/mail -X DELETE`)
	r.until("what was taken off is not in force", "/devices", `^"id":"policy-default","version":`)
	r.unplug("s9")
	r.gone("2-1")
	r.settled()
}
