package api

import (
	"encoding/json"

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

func getTemplate(_ *API, q *request) (templateView, error) {
	t, ok := templates.Find(q.PathValue("id"))
	if !ok {
		return templateView{}, store.ErrNotFound
	}
	return templateView{TemplateItem{t.ID, t.Name, t.Description, t.RecommendedFor}, modeText(t.Compliance), policyData{raw: t.Data}}, nil
}

type fromTemplateBody struct {
	TemplateID     string       `json:"template_id" minLength:"1" maxLength:"64"`
	Name           string       `json:"name" minLength:"1" maxLength:"4096"`
	Description    *string      `json:"description,omitempty" maxLength:"4096"`
	Organization   *string      `json:"organization_id,omitempty" maxLength:"4096"`
	Compliance     modeText     `json:"compliance,omitempty"`
	Sections       sectionModes `json:"section_compliance,omitempty"`
	Customizations policyData   `json:"customizations,omitempty" doc:"laid over the template, setting by setting"`
}

// fromTemplate lays customizations over a template, however deep: an object is merged, anything
// else is replaced.
func fromTemplate(a *API, q *request) (createdView, error) {
	var in fromTemplateBody
	if err := q.decode(a, &in); err != nil {
		return createdView{}, err
	}
	t, ok := templates.Find(in.TemplateID)
	if !ok {
		return createdView{}, invalid(policy.Errors{{Field: "template_id", Message: "is no template; GET /policies/templates lists them", Received: in.TemplateID}})
	}
	var data, custom map[string]any
	if err := json.Unmarshal(t.Data, &data); err != nil {
		return createdView{}, err
	}
	if in.Customizations.raw != nil {
		if err := json.Unmarshal(in.Customizations.raw, &custom); err != nil {
			return createdView{}, bad("customizations must be an object")
		}
		overlay(data, custom)
	}
	o := map[string]any{"name": in.Name, "description": t.Description, "compliance": t.Compliance, "policy_data": data}
	set := func(field string, given bool, v any) {
		if given {
			o[field] = v
		}
	}
	set("description", in.Description != nil, in.Description)
	set("organization_id", in.Organization != nil, in.Organization)
	set("compliance", in.Compliance != "", in.Compliance)
	set("section_compliance", in.Sections != nil, in.Sections)
	body, err := json.Marshal(o)
	if err != nil {
		return createdView{}, err
	}
	return a.create(q, body)
}

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
