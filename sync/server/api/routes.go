package api

import (
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
)

// What many routes use.
var (
	deviceFilter = append([]param{
		{name: "policy_id", doc: "id of the policy that the devices should have", kind: "string"},
		{name: "compliance", doc: "compliance", kind: "string", enum: []string{"compliant", "unverified", "noncompliant", "unknown"}},
		{name: "platform", doc: "operating system", kind: "string", enum: []string{"linux", "windows", "darwin"}},
		{name: "ownership", doc: "ownership of the device", kind: "string", enum: []string{"ANY", "BYOD", "COPE"}},
		{name: "user", doc: "the device's user", kind: "string"},
		{name: "tag", doc: "one of the device's tags", kind: "string"},
		{name: "name", doc: "beginning of the name, ignoring case", kind: "string"},
		{name: "state", doc: "default: all except retired devices", kind: "string", enum: []string{"enrolled", "cloned", "retired"}},
		{name: "status", doc: "whether the device is connected or has checked in recently", kind: "string",
			enum: []string{"online", "offline"}},
		{name: "policy_name", doc: "part of the name of the policy that the devices should have", kind: "string"},
		textParam, sortParam("name", "last_sync", "enrolled_at"),
	}, paging...)
	policyFilter = append([]param{{name: "active", doc: "whether the policy is active", kind: "string",
		enum: []string{"true", "false"}}, textParam,
		sortParam("name", "created_at", "updated_at")}, paging...)
	assignmentFilter = append([]param{
		{name: "policy_id", doc: "id of the assigned policy", kind: "string"},
		{name: "platform", doc: "of the target", kind: "string", enum: []string{"linux", "windows", "darwin"}},
		{name: "ownership", doc: "of the target", kind: "string", enum: []string{"ANY", "BYOD", "COPE"}},
		{name: "user", doc: "of the target", kind: "string"},
		{name: "tag", doc: "of the target", kind: "string"},
		textParam, sortParam("priority", "created_at"),
	}, paging[0], param{name: "page_size", doc: "at most 1000, which is also how many there can be", kind: "integer", def: 1000,
		most: 1000}, paging[2])
	enrollmentFilter = append([]param{
		{name: "state", doc: "state of the token", kind: "string", enum: []string{usable, usedUp, expired, revoked}},
		{name: "created_by", doc: "who created the token", kind: "string"},
		textParam, sortParam("created_at", "expires_at"),
	}, paging...)
	rolloutFilter = append([]param{{name: "state", doc: "state of the rollout", kind: "string",
		enum: []string{fleet.Running, fleet.Paused, fleet.Done, fleet.Stopped}}, textParam, sortParam("created_at")}, paging...)
	auditFilter = append([]param{
		{name: "subject", doc: "id of what was changed", kind: "string"},
		{name: "actor", doc: "who changed it", kind: "string"},
		{name: "action", doc: "the action (policy.updated), or its beginning (policy.)", kind: "string"},
		textParam, since, until,
	}, paging...)
	eventFilter = []param{
		{name: "device_id", doc: "id of the device", kind: "string"},
		{name: "kind", doc: "denied, drift, failed, …", kind: "string"},
		{name: "setting", doc: "a setting (usb.allowed), or a section (usb.)", kind: "string"},
		textParam, since, until,
		{name: "page_size", doc: "at most 1000", kind: "integer", def: 100, most: 1000}, paging[2],
	}
	newest = []param{{name: "page_size", doc: "number of newest events, at most 10000", kind: "integer", def: 20, most: 10_000}}
)

// routes is the API, readable in one place; the OpenAPI document is made from it.
var routes = []route{
	{"GET", "/policies", viewer, "List policies", get(listPolicies), 0, policyFilter},
	{"POST", "/policies", admin, "Create a policy", document[PolicyBody](createPolicy), 201, nil},
	{"POST", "/policies/validate", viewer, "Validate a policy without creating it", document[candidateBody](validatePolicy), 0, nil},
	{"GET", "/policies/templates", viewer, "List templates", get(listTemplates), 0, nil},
	{"GET", "/templates/{id}", viewer, "Get a template with its content", get(getTemplate), 0, nil},
	{"POST", "/policies/from-template", admin, "Create a policy from a template", document[fromTemplateBody](fromTemplate), 201, nil},
	{"GET", "/policies/default", viewer, "Get the default policy", get(getDefault), 0, nil},
	{"PUT", "/policies/default", admin, "Set the default policy", with(putDefault), 0, nil},
	{"GET", "/policies/{id}", viewer, "Get a policy", get(getPolicy), 0, nil},
	{"PUT", "/policies/{id}", admin, "Update a policy; each update is a version", document[PolicyPatch](putPolicy), 0, nil},
	{"DELETE", "/policies/{id}", admin, "Delete a policy; its devices get the next one by priority", get(deletePolicy), 0, nil},
	{"GET", "/policies/{id}/devices", viewer, "List a policy's devices", get(policyDevices), 0, paging},
	{"GET", "/policies/{id}/history", viewer, "List a policy's versions", get(policyHistory), 0, paging},
	{"GET", "/policies/{id}/versions/{version}", viewer, "Get one version", get(policyVersion), 0, nil},
	{"GET", "/policies/{id}/compliance", viewer, "Sum up the compliance of a policy's devices", get(policyCompliance), 0, nil},
	{"POST", "/policies/{id}/whatif", viewer, "Ask what a change would do on devices (what-if)", document[PolicyPatch](whatIf), 0,
		[]param{paging[2]}},
	{"GET", "/policies/{id}/rollouts", viewer, "List a policy's rollouts", get(listRollouts), 0, rolloutFilter},
	{"POST", "/policies/{id}/rollouts", admin, "Update a policy in stages", document[rolloutBody](startRollout), 201, nil},

	{"GET", "/lists", viewer, "List long lists of names", get(listNameLists), 0, append([]param{textParam, sortParam("name", "updated_at")},
		paging...)},
	{"POST", "/lists", admin, "Upload a long list: one name a line, a hosts file, or ||name^", upload(createNameList), 201,
		append([]param{{name: "name", doc: "of the list", kind: "string"}}, uploadParams...)},
	{"GET", "/lists/{id}", viewer, "Get a long list's versions", get(getNameList), 0, nil},
	{"PUT", "/lists/{id}", admin, "Upload a long list's next version", upload(putNameList), 0,
		append([]param{{name: "name", doc: "a new name for the list", kind: "string"}}, uploadParams...)},
	{"DELETE", "/lists/{id}", admin, "Delete a long list that no policy names", get(deleteNameList), 0, nil},
	{"GET", "/lists/{id}/versions/{version}", viewer, "Download a version of a long list", get(getNameListText), 0, nil},

	{"GET", "/rollouts/{id}", viewer, "Get a rollout", get(getRollout), 0, nil},
	{"POST", "/rollouts/{id}/pause", admin, "Pause a rollout: no further device is moved",
		get(turnRollout([]string{fleet.Running}, fleet.Paused, "paused")), 0, nil},
	{"POST", "/rollouts/{id}/resume", admin, "Resume a paused rollout",
		get(turnRollout([]string{fleet.Paused}, fleet.Running, "resumed")), 0, nil},
	{"POST", "/rollouts/{id}/finish", admin, "Give the new version to all devices now",
		get(turnRollout([]string{fleet.Running, fleet.Paused}, fleet.Done, "finished")), 0, nil},
	{"POST", "/rollouts/{id}/stop", admin, "Stop a rollout and send devices back",
		get(turnRollout([]string{fleet.Running, fleet.Paused}, fleet.Stopped, "stopped")), 0, nil},

	{"GET", "/assignments", viewer, "List assignments to groups, in order of precedence", get(listAssignments), 0,
		assignmentFilter},
	{"GET", "/assignments/{id}", viewer, "Get an assignment", get(getAssignment), 0, nil},
	{"PUT", "/assignments/{id}", admin, "Replace an assignment", with(putAssignment), 0, nil},
	{"POST", "/assignments", admin, "Assign a policy to a group", with(createAssignment), 201, nil},
	{"DELETE", "/assignments/{id}", admin, "Delete an assignment", get(deleteAssignment), 0, nil},

	{"GET", "/devices", viewer, "List devices", get(listDevices), 0, deviceFilter},
	{"GET", "/devices/{id}", viewer, "Get a device with its findings", get(getDevice), 0, nil},
	{"PATCH", "/devices/{id}", admin, "Set a device's user, ownership and tags", with(editDevice), 0, nil},
	{"DELETE", "/devices/{id}", admin, "Retire a device: it is released at its next check-in", get(retireDevice), 0, nil},
	{"PUT", "/devices/{id}/policy", admin, "Assign a policy to a device", with(assignDevice), 0, nil},
	{"GET", "/devices/{id}/events", viewer, "List a device's newest events", get(deviceEvents), 0, newest},
	{"GET", "/devices/{id}/exceptions", viewer, "List a device's exceptions", get(listExceptions), 0, nil},
	{"POST", "/devices/{id}/exceptions", admin, "Let a device or a name pass on a device for a time", with(grantException), 201, nil},
	{"DELETE", "/devices/{id}/exceptions/{exception}", admin, "End an exception", get(endException), 0, nil},
	{"GET", "/devices/{id}/diagnostics", viewer, "List a device's diagnostics bundles", get(listDiagnostics), 0, nil},
	{"POST", "/devices/{id}/diagnostics", admin, "Ask a device for a diagnostics bundle", get(requestDiagnostics), 202, nil},
	{"GET", "/devices/{id}/diagnostics/{bundle}", viewer, "Download a bundle", get(getDiagnostics), 0, nil},

	{"GET", "/enrollments", viewer, "List enrollment tokens", get(listEnrollments), 0, enrollmentFilter},
	{"POST", "/enrollments", admin, "Create an enrollment token", with(createEnrollment), 201, nil},
	{"DELETE", "/enrollments/{id}", admin, "Revoke an enrollment token", get(revokeEnrollment), 0, nil},

	{"GET", "/compliance", viewer, "Sum up the fleet's compliance, by policy and setting", get(getCompliance), 0, nil},
	{"GET", "/events", viewer, "List the events of all devices, newest first", get(listEvents), 0, eventFilter},
	{"GET", "/audit", viewer, "List changes, newest first", get(listAudit), 0, auditFilter},
	{"GET", "/tokens", viewer, "List administrators' tokens, newest first", get(listTokens), 0,
		append([]param{textParam, since, until}, paging...)},
	{"GET", "/latency", viewer, "Get how long changes took to be reported", get(getLatency), 0, nil},

	{"POST", "/time", anyone, "Ask for the server's time, signed: for a device whose clock is wrong", with(serverTime), 0, nil},
	{"POST", "/devices/enroll", token, "Enroll a device", document[protocol.EnrollRequest](enroll), 201, nil},
	{"POST", "/devices/{id}/checkin", device, "Check in: report, and get the policy", document[protocol.Report](checkin), 0, nil},
	{"PUT", "/devices/{id}/diagnostics", device, "Send a diagnostics bundle that was asked for (gzip)", get(putDiagnostics), 201, nil},
	{"GET", "/devices/{id}/lists/{sha256}", device, "Fetch a long list that a policy names (zstd), or a part of it", get(fetchList), 0, nil},
	{"GET", "/devices/{id}/push", device, "The websocket on which the server nudges", get(push), 0, nil},
}
