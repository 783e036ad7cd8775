//go:build linux

package laptop

import (
	"fmt"
	"testing"
)

// anotherConsole: a policy that a client of WSO2's writes is held by the laptop in each mode, and that console's call says how.
func anotherConsole(t *testing.T, r *rig) {
	r.set(`{"policy_data":{}}`)
	r.sh(`systemctl stop policy-server; systemd-run -q --unit=policy-server --property=Restart=no /srv/warder-server serve --data /srv/server ` +
		`--listen 127.0.0.1:8443 --interval 30s --facade wso2=127.0.0.1:9443
/srv/warder-server token create --data /srv/server --facade wso2 --role admin --ttl 24h >/root/console`)
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
	r.unplug("s9")
	r.gone("2-1")
	r.settled()
}
