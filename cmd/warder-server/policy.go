package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/admin"
)

func (a *app) policy() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Policies: list, show, apply from a file, translate another console's", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server policy list\n  warder-server policy apply engineering.json --dry-run",
	}
	c.AddCommand(a.policyList(), a.policyShow(), a.policyApply(), a.policyTranslate())
	return c
}

// policyObject is what the commands show of a policy.
type policyObject struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version int    `json:"version"`
	Active  bool   `json:"active"`
	Mode    string `json:"compliance"`
	Devices int    `json:"device_count"`
	Source  string `json:"source"`
}

func (a *app) policyList() *cobra.Command {
	var l listFlags
	c := &cobra.Command{
		Use: "list", Short: "List policies", Args: cobra.NoArgs, Example: "  warder-server policy list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.list(cmd, "/policies", l, url.Values{}, []string{"POLICY", "NAME", "VERSION", "MODE", "ACTIVE", "DEVICES", "MADE OF"},
				decoded(func(p policyObject) []string {
					active := "no"
					if p.Active {
						active = "yes"
					}
					return []string{p.ID, p.Name, fmt.Sprint(p.Version), p.Mode, active, fmt.Sprint(p.Devices), p.Source}
				}))
		},
	}
	l.add(c)
	return a.targetFlags(c)
}

func (a *app) policyShow() *cobra.Command {
	var number int
	c := &cobra.Command{
		Use: "show POLICY", Short: "Print a policy as JSON, by its id or its name", Args: cobra.ExactArgs(1),
		Long: "Prints the policy as \"policy apply\" takes it: change the file and apply it.",
		Example: "  warder-server policy show \"Engineering Team Policy\" > engineering.json\n  warder-server policy show " +
			"policy-default --version-number 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(cmd, "viewer")
			if err != nil {
				return err
			}
			p, _, err := find(cmd, client, args[0])
			if err != nil {
				return err
			}
			if number > 0 {
				var v struct{ Policy json.RawMessage }
				if _, err := client.Do(cmd.Context(), http.MethodGet, fmt.Sprintf("/policies/%s/versions/%d", url.PathEscape(p.ID), number),
					nil, nil, &v); notFound(err) {
					return &cli.Failure{Err: fmt.Errorf("%q has no version %d; the newest is %d", p.Name, number, p.Version),
						Code: "not_found"}
				} else if err != nil {
					return err
				}
				return a.screen(cmd).JSON(v.Policy, true)
			}
			var raw json.RawMessage
			if _, err := client.Do(cmd.Context(), http.MethodGet, "/policies/"+url.PathEscape(p.ID), nil, nil, &raw); err != nil {
				return err
			}
			return a.screen(cmd).JSON(raw, true)
		},
	}
	c.Flags().IntVar(&number, "version-number", 0, "an earlier version")
	return a.targetFlags(c)
}

// find looks a policy up by its id, or else by its full name, and returns its ETag.
func find(cmd *cobra.Command, client *admin.Client, name string) (p policyObject, etag string, err error) {
	if etag, err = client.Do(cmd.Context(), http.MethodGet, "/policies/"+url.PathEscape(name), nil, nil, &p); err == nil {
		return p, etag, nil
	}
	if !notFound(err) {
		return p, "", err
	}
	var same []string
	_, err = client.List(cmd.Context(), "/policies", url.Values{"q": {name}}, 0, func(raw json.RawMessage) error {
		var c policyObject
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		if c.Name == name {
			same = append(same, c.ID)
		}
		return nil
	})
	switch {
	case err != nil:
		return p, "", err
	case len(same) == 0:
		return p, "", &cli.Failure{Err: fmt.Errorf("no policy has the id or the name %q", name), Code: "not_found",
			Hint: "see: warder-server policy list"}
	case len(same) > 1:
		return p, "", &cli.Failure{Err: fmt.Errorf("%d policies have the name %q: %q", len(same), name, same), Code: "ambiguous",
			Hint: "use the id"}
	}
	etag, err = client.Do(cmd.Context(), http.MethodGet, "/policies/"+same[0], nil, nil, &p)
	return p, etag, err
}

func notFound(err error) bool {
	e, ok := err.(*admin.Error) //nolint:errorlint // as Do gives it
	return ok && e.Status == http.StatusNotFound
}

// filledIn are the fields of a policy that the server fills in: "policy show" prints them, and "policy apply" leaves
// them out.
var filledIn = []string{"id", "version", "device_count", "created_at", "updated_at", "rollout", "source", "source_report"}

// known are the fields that a policy may set.
var known = []string{"name", "description", "organization_id", "active", "compliance", "section_compliance", "policy_data"}

// maxPolicyFile bounds a policy file; the server accepts less.
const maxPolicyFile = 4 << 20

func (a *app) policyApply() *cobra.Command {
	var dry, asDefault bool
	var into string
	c := &cobra.Command{
		Use: "apply FILE", Short: "Create a policy from a JSON file, or update the one of its id or name", Args: cobra.ExactArgs(1),
		Long: "The file is a policy object as the API has it (name, description, compliance, policy_data). The policy that its id or\n" +
			"name names, or --policy, is updated: sections in the file replace those sections, the others stay. Without one a\n" +
			"policy is created. With --dry-run nothing is changed: the file is validated, and for a policy that exists it is said\n" +
			"how many devices would be affected.",
		Example: "  warder-server policy apply engineering.json --dry-run\n  warder-server policy apply engineering.json\n  " +
			"warder-server policy show policy-default | warder-server policy apply - --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := readInput(cmd, args[0], maxPolicyFile)
			if err != nil {
				return fmt.Errorf("cannot read the policy: %w", err)
			}
			var object map[string]json.RawMessage
			if err := json.Unmarshal(b, &object); err != nil {
				return fmt.Errorf("%s is not a policy in JSON: %w", args[0], err)
			}
			var named struct{ ID, Name string }
			_ = json.Unmarshal(b, &named)
			role := "admin"
			if dry {
				role = "viewer"
			}
			client, err := a.client(cmd, role)
			if err != nil {
				return err
			}
			old, etag, err := lookup(cmd, client, into, named.ID, named.Name)
			if err != nil {
				return err
			}
			// Fields that the server fills in are not part of a change. The server refuses any other field that it does
			// not know.
			body := maps.Clone(object)
			for _, field := range filledIn {
				delete(body, field)
			}
			if dry {
				return a.dryRun(cmd, client, old, body)
			}
			return a.applyPolicy(cmd, client, old, etag, body, asDefault)
		},
	}
	c.Flags().StringVar(&into, "policy", "", "id or name of the policy to update, whatever the file says")
	c.Flags().BoolVar(&dry, "dry-run", false, "change nothing; say what would happen")
	c.Flags().BoolVar(&asDefault, "default", false, "make it the policy of devices that have no other")
	return a.targetFlags(c)
}

// lookup finds the policy that a file changes; the zero value if it creates one.
func lookup(cmd *cobra.Command, client *admin.Client, into, id, name string) (policyObject, string, error) {
	if into != "" {
		return find(cmd, client, into)
	}
	for _, s := range []string{id, name} {
		if s == "" {
			continue
		}
		p, etag, err := find(cmd, client, s)
		var f *cli.Failure
		if ok := asFailure(err, &f); ok && f.Code == "not_found" {
			continue
		}
		return p, etag, err
	}
	return policyObject{}, "", nil
}

// asFailure is errors.As for a Failure.
func asFailure(err error, f **cli.Failure) bool {
	x, ok := err.(*cli.Failure) //nolint:errorlint // as find gives it
	*f = x
	return ok
}

// dryRun validates a policy and prints what it would change, without storing it.
func (a *app) dryRun(cmd *cobra.Command, client *admin.Client, old policyObject, body map[string]json.RawMessage) error {
	var valid json.RawMessage
	if old.ID == "" {
		if _, err := client.Do(cmd.Context(), http.MethodPost, "/policies/validate", nil, body, &valid); err != nil {
			return err
		}
		return a.say(cmd, map[string]any{"action": "create", "validation": valid}, "The policy is valid; it would be created.\n%s",
			warnings(a.screen(cmd), valid))
	}
	var effect struct {
		Total    int `json:"total"`
		Affected int `json:"affected"`
	}
	var raw json.RawMessage
	if _, err := client.Do(cmd.Context(), http.MethodGet, "/policies/"+url.PathEscape(old.ID), nil, nil, &raw); err != nil {
		return err
	}
	if contains(raw, body) {
		return a.say(cmd, map[string]any{"action": "unchanged", "policy_id": old.ID},
			"The policy is valid; %s (version %d) says all of it already.\n", old.ID, old.Version)
	}
	if _, err := client.Do(cmd.Context(), http.MethodPost, "/policies/"+url.PathEscape(old.ID)+"/whatif", nil, body, &raw); err != nil {
		return err
	}
	_ = json.Unmarshal(raw, &effect)
	return a.say(cmd, map[string]any{"action": "update", "policy_id": old.ID, "effect": raw},
		"The policy is valid; %s (version %d) would be updated. %s have it.\n",
		old.ID, old.Version, cli.Count(effect.Total, "device"))
}

// warnings formats the warnings of a validation, one per line.
func warnings(s cli.Screen, valid json.RawMessage) cli.Painted {
	var v struct {
		Warnings []admin.FieldError `json:"warnings"`
	}
	_ = json.Unmarshal(valid, &v)
	var out cli.Painted
	for _, w := range v.Warnings {
		out += s.Sprintf("  %s %s: %s\n", s.Warn("warning"), w.Field, w.Message)
	}
	return out
}

// contains reports whether a policy already has what a change would set, so that applying a file twice makes no second
// version.
func contains(have json.RawMessage, change map[string]json.RawMessage) bool {
	var old, now map[string]any
	b, err := json.Marshal(change)
	if err != nil || json.Unmarshal(have, &old) != nil || json.Unmarshal(b, &now) != nil {
		return false
	}
	for field, v := range now {
		if !slices.Contains(known, field) {
			return false // the server says what is wrong with it
		}
		sections, ok := v.(map[string]any)
		before, had := old[field].(map[string]any)
		if field != "policy_data" || !ok || !had {
			if !reflect.DeepEqual(v, old[field]) {
				return false
			}
			continue
		}
		for name, section := range sections {
			if !reflect.DeepEqual(section, before[name]) {
				return false
			}
		}
	}
	return true
}

// applyPolicy creates a policy, or updates the version that was read (by its ETag).
func (a *app) applyPolicy(cmd *cobra.Command, client *admin.Client, old policyObject, etag string, body map[string]json.RawMessage,
	asDefault bool) error {
	var p policyObject
	var raw json.RawMessage
	what := "created"
	var err error
	if old.ID == "" {
		_, err = client.Do(cmd.Context(), http.MethodPost, "/policies", nil, body, &raw)
	} else if _, err = client.Do(cmd.Context(), http.MethodGet, "/policies/"+old.ID, nil, nil, &raw); err == nil {
		what = "unchanged"
		if !contains(raw, body) {
			what = "updated"
			_, err = client.Do(cmd.Context(), http.MethodPut, "/policies/"+old.ID, http.Header{"If-Match": {etag}}, body, &raw)
		}
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("the answer is not the API's: %w", err)
	}
	var standing struct {
		ID string `json:"policy_id"`
	}
	if asDefault {
		if _, err := client.Do(cmd.Context(), http.MethodGet, "/policies/default", nil, nil, &standing); err != nil {
			return err
		}
	}
	if asDefault && standing.ID != p.ID {
		if _, err := client.Do(cmd.Context(), http.MethodPut, "/policies/default", nil, map[string]string{"policy_id": p.ID},
			nil); err != nil {
			return fmt.Errorf("%q was %s, but cannot be made the default: %w", p.ID, what, err)
		}
	}
	return a.say(cmd, map[string]any{"action": what, "policy": raw}, "%s  %s, version %d: %s.\n%s", p.ID, p.Name, p.Version, what,
		warnings(a.screen(cmd), raw))
}
