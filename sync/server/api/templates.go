package api

import (
	"encoding/json"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/store"
	"github.com/warderd/warder/sync/server/templates"
)

type TemplateItem struct {
	ID             string   `json:"id"`
	Name           string   `json:"name"`
	Description    string   `json:"description"`
	RecommendedFor []string `json:"recommended_for"`
}

type templateList struct {
	Data []TemplateItem `json:"data"`
}

// listTemplates answers GET /policies/templates.
func listTemplates(*API, *request) (templateList, error) {
	var out templateList
	for _, t := range templates.All {
		out.Data = append(out.Data, TemplateItem{t.ID, t.Name, t.Description, t.RecommendedFor})
	}
	return out, nil
}

type templateView struct {
	TemplateItem
	Compliance modeText   `json:"compliance"`
	Data       policyData `json:"policy_data"`
}

// getTemplate answers GET /templates/{id}.
func getTemplate(_ *API, q *request) (templateView, error) {
	t, ok := templates.Find(q.PathValue("id"))
	if !ok {
		return templateView{}, store.ErrNotFound
	}
	return templateView{TemplateItem{t.ID, t.Name, t.Description, t.RecommendedFor}, modeText(t.Compliance), policyData{raw: t.Data}}, nil
}

// fromTemplate makes a policy from a template and an administrator's customizations. They are merged into its settings
// at any depth: an object is merged, anything else is replaced.
func fromTemplate(a *API, q *request) (createdView, error) {
	var in fromTemplateBody
	if err := q.decode(a, &in); err != nil {
		return createdView{}, err
	}
	t, ok := templates.Find(in.TemplateID)
	if !ok {
		return createdView{}, invalid(policy.Errors{{Field: "template_id", Message: "is not a template; GET /policies/templates lists them",
			Received: in.TemplateID}})
	}
	// In monitor mode, whatever the template is made for: nothing is enforced before somebody says so.
	o := map[string]any{"description": t.Description, "compliance": enforce.Monitor.String()}
	var data map[string]any
	if err := json.Unmarshal(t.Data, &data); err != nil {
		return createdView{}, err
	}
	var over map[string]any
	if err := json.Unmarshal(q.body, &over); err != nil {
		return createdView{}, bad("the body cannot be read: " + err.Error())
	}
	for name, v := range over {
		if v != nil || name == "name" { // null leaves the template's value
			o[name] = v
		}
	}
	if custom, ok := o["customizations"].(map[string]any); ok {
		overlay(data, custom)
	}
	o["policy_data"] = data
	delete(o, "template_id")
	delete(o, "customizations")
	body, err := json.Marshal(o)
	if err != nil {
		return createdView{}, err
	}
	return a.create(q, body)
}

// overlay merges over into under.
func overlay(under, over map[string]any) {
	for name, v := range over {
		o, oo := v.(map[string]any)
		u, uo := under[name].(map[string]any)
		if oo && uo {
			overlay(u, o)
			continue
		}
		under[name] = v
	}
}
