package api

import (
	"encoding/json"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warderd/warder/sync/protocol"
)

// examples are the bodies of the calls as a person would write them, by method and path. The document and its page show
// them, and a test calls each against a real server.
var examples = map[string]string{
	"POST /policies": `{"name":"Engineering","description":"Laptops of engineers","compliance":"monitor",` +
		`"policy_data":{"usb":{"allowed_classes":["hid"],"whitelist":["0951:1666:0011AABB"]},"storage":{"external_storage_allowed":false}}}`,
	"POST /policies/validate":      `{"policy_data":{"usb":{"allowed_classes":["hid"],"whitelist":["0951:1666:0011AABB"]}}}`,
	"POST /policies/from-template": `{"template_id":"template-strict","name":"Finance","customizations":{"dlp":{"print_allowed":true}}}`,
	"PUT /policies/default":        `{"policy_id":"policy-default"}`,
	"PUT /policies/{id}":           `{"policy_data":{"usb":{"allowed_classes":["hid","audio"]}}}`,
	"POST /policies/{id}/whatif":   `{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`,
	"POST /policies/{id}/rollouts": `{"policy":{"compliance":"enforce"},"stages":[{"percent":5,"wait_minutes":1440},{"percent":50,` +
		`"wait_minutes":1440},{"percent":100}],` +
		`"groups":[{"tag":"it"}],"stop_above_percent":5,"min_devices":10}`,
	"POST /assignments": `{"policy_id":"policy-default","target":{"tag":"berlin","platform":"linux","ownership":"COPE"},` +
		`"priority":100,"compliance":"warn"}`,
	"PUT /assignments/{id}":         `{"policy_id":"policy-default","target":{"tag":"berlin"},"priority":200}`,
	"PATCH /devices/{id}":           `{"user":"ann@example.com","ownership":"COPE","tags":["berlin","pilot"]}`,
	"PUT /devices/{id}/policy":      `{"policy_id":"policy-default","priority":1000}`,
	"POST /devices/{id}/exceptions": `{"usb":"0951:1666:0011AABB","minutes":60,"reason":"slides of a customer, ticket 4711"}`,
	"POST /enrollments":             `{"uses":500,"hours":168,"tags":["berlin"],"note":"autumn rollout"}`,
	"POST /time":                    `{"nonce":"b3f1c0de7a55e11e"}`,
	"POST /devices/enroll": `{"public_key":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},` +
		`"device":{"name":"laptop-17","os":"linux","version":"Debian GNU/Linux 13","arch":"amd64"},` +
		`"machine":"6f1ed002ab5595859014ebf0951522d9"}`,
	"POST /devices/{id}/checkin": `{"counter":1795730000000,"policy":{"policy_id":"policy-default","version":3,"serial":7},"epoch":"e1",` +
		`"agent":{"version":"0.9.0","started_at":"2026-11-26T08:00:00Z"}}`,
}

// pathExamples are ids as the server makes them.
var pathExamples = map[string]string{
	"id": "policy-default", "version": "1", "exception": "exception-abcdefghijkl", "bundle": "bundle-abcdefghijkl",
	"sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}

// exampleOf is an example id for a path's value.
func exampleOf(r *route, name string) string {
	if name == "id" {
		switch first := strings.Split(r.path, "/")[1]; first {
		case "templates":
			return "template-strict"
		case "devices":
			return "device-ABCDEFGHIJKLMNOP"
		case "rollouts", "assignments", "enrollments", "lists":
			return strings.TrimSuffix(first, "s") + "-abcdefghijkl"
		}
	}
	return pathExamples[name]
}

// callOf is an example of a call with the administrator's command line and with curl; "" for what devices call.
func callOf(r *route) (command, curl string) {
	if r.access != viewer && r.access != admin {
		return "", ""
	}
	path := r.path
	for _, name := range valuesOf(r.path) {
		path = strings.ReplaceAll(path, "{"+name+"}", exampleOf(r, name))
	}
	command = "warder-server api " + r.method + " " + path
	curl = "curl --cacert warder-ca.pem -H \"Authorization: Bearer $TOKEN\""
	if r.method != "GET" {
		curl += " -X " + r.method
	}
	curl += " $URL" + protocol.Base + path
	if r.stream {
		command, curl = "warder-server namelist upload tracker.txt", curl+" --data-binary @tracker.txt"
		if r.method == "PUT" {
			command += " --id " + exampleOf(r, "id")
		} else {
			command, curl = command+" --name Trackers", strings.Replace(curl, path, path+"?name=Trackers", 1)
		}
	}
	if body := examples[r.method+" "+r.path]; body != "" {
		command += " '" + body + "'"
		curl += " -d '" + body + "'"
	}
	return command, curl
}

// withExample adds a route's example to the description of its body.
func withExample(r *route, body map[string]*huma.MediaType) map[string]*huma.MediaType {
	text := examples[r.method+" "+r.path]
	if text == "" {
		return body
	}
	var v any
	if json.Unmarshal([]byte(text), &v) == nil {
		body["application/json"].Example = v
	}
	return body
}
