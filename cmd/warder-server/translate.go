package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/dialect/all"
)

const released = "The other console says that it is not in force there."

func (a *app) policyTranslate() *cobra.Command {
	var document, whole bool
	var apps []string
	c := &cobra.Command{
		Use: "translate VENDOR FILE", Short: "Say what of another console's policy Warder carries", Args: cobra.ExactArgs(2),
		Long: "The file is a policy as the other console's API answers it, in JSON. Each setting of it is said to be translated, partial, or\n" +
			"not carried, and why; what is not configured there is left out. Nothing is changed, and no server is asked. With --document the\n" +
			"policy is printed as \"policy apply\" takes it. Vendors: " + all.IDs() + ".",
		Example: "  warder-server policy translate wso2 camera.json\n  warder-server policy translate wso2 camera.json --document > camera-warder.json\n" +
			"  warder-server policy translate mocana sharing.json --app mail=/usr/bin/thunderbird --whole-machine",
		RunE: func(cmd *cobra.Command, args []string) error {
			vendor, known := all.Find(args[0])
			if !known {
				return &cli.Failure{Err: fmt.Errorf("no vendor %q: it is one of %s", args[0], all.IDs()), Code: "not_found"}
			}
			b, err := readInput(cmd, args[1], maxPolicyFile)
			if err != nil {
				return fmt.Errorf("cannot read the policy: %w", err)
			}
			o := dialect.Options{Whole: whole}
			if o.Apps, err = programs(apps); err != nil {
				return err
			}
			switch {
			case len(apps) > 0 && !vendor.Apps:
				return cli.Usagef("--app is for %s: a policy of %s is not about apps", all.AppIDs(), vendor.ID)
			case len(o.Apps) > 1 && vendor.OneApp:
				return cli.Usagef("--app names %d apps, and a file of %s is about one", len(o.Apps), vendor.ID)
			}
			t, err := vendor.Translate(b, o)
			if err != nil {
				return fmt.Errorf("%s cannot be translated: %w", args[1], err)
			}
			var doc map[string]json.RawMessage
			if err := json.Unmarshal(t.Document, &doc); err != nil {
				return err
			}
			delete(doc, "id") // the other console's: ours is given by the server
			if document {
				s := cli.NewScreen(cmd.ErrOrStderr())
				if t.Released {
					s.Printf("%s\n", released)
				}
				for _, note := range t.Notes {
					s.Printf("%s\n", note)
				}
				for _, setting := range translated(&t) {
					for _, p := range t.Partial[setting] {
						s.Printf("%s is partial: %s: %s\n", setting, p.Name, p.Reason)
					}
				}
				if n := len(t.Named); n > 0 {
					s.Printf("%s not carried; without --document they are listed, with the reasons.\n", cli.Count(n, "value"))
				}
				if who := whom(&t); who != "" {
					s.Printf("%s\n", who)
				}
				return a.screen(cmd).JSON(doc, true)
			}
			return a.translation(cmd, &t, doc)
		},
	}
	c.Flags().BoolVar(&document, "document", false, "print the policy, as \"policy apply\" takes it")
	c.Flags().BoolVar(&whole, "whole-machine", false, "carry, too, what a laptop can only do to the whole machine, such as a limit that was meant for one app")
	c.Flags().StringArrayVar(&apps, "app", nil, "which program of a laptop an app is: `ID=PATH`, as often as needed")
	return c
}

// programs are the paths of programs by the id of an app.
func programs(list []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, e := range list {
		id, file, ok := strings.Cut(e, "=")
		if !ok || id == "" || !dialect.Program(file) {
			return nil, cli.Usagef("--app must be ID=PATH, with the whole path of a program, without . and .. in it (received %q)", e)
		}
		out[id] = append(out[id], file)
	}
	return out, nil
}

// translation shows one.
func (a *app) translation(cmd *cobra.Command, t *dialect.Translation, doc map[string]json.RawMessage) error {
	var rows [][]string
	for _, s := range translated(t) {
		if len(t.Partial[s]) == 0 {
			rows = append(rows, []string{string(s), "translated", ""})
		}
		for _, p := range t.Partial[s] {
			rows = append(rows, []string{string(s), "partial", p.Name + ": " + p.Reason})
		}
	}
	for _, u := range t.Named {
		rows = append(rows, []string{u.Name, "not carried", u.Reason})
	}
	if a.JSON() {
		return a.screen(cmd).JSON(map[string]any{"source": t.Source, "released": t.Released, "policy": doc, "partial": t.Partial,
			"kept": t.Kept, "named": append([]dialect.Unsupported{}, t.Named...), "stamp": t.Stamp, "selection": t.Selection}, true)
	}
	var mode string
	if err := json.Unmarshal(doc["compliance"], &mode); err != nil {
		return err
	}
	s := a.screen(cmd)
	s.Table([]string{"SETTING", "RESULT", "WHY"}, rows)
	s.Printf("%s, in %s mode.\n", cli.Count(len(translated(t)), "setting"), mode)
	for _, note := range t.Notes {
		s.Printf("%s\n", note)
	}
	if t.Nothing() {
		s.Printf("It asks for nothing.\n")
	}
	if t.Released {
		s.Printf("%s\n", released)
	}
	if who := whom(t); who != "" {
		s.Printf("%s\n", who)
	}
	return nil
}

// whom says for whom a policy is on the other console; "" for everybody.
func whom(t *dialect.Translation) string {
	x := t.Selection
	var parts []string
	for _, l := range []struct {
		name string
		list []string
	}{{"device types", x.DeviceTypes}, {"roles", x.Roles}, {"groups", x.Groups}, {"users", x.Users}, {"devices", x.Devices}, {"apps", x.Apps}} {
		if n := len(l.list); n > 0 {
			some := slices.Clone(l.list[:min(n, 5)])
			for i, w := range some {
				if len(w) > 60 {
					some[i] = strings.ToValidUTF8(w[:60], "") + "…"
				}
			}
			parts = append(parts, fmt.Sprintf("%s %s", l.name, strings.Join(some, ", ")))
			if n > len(some) {
				parts[len(parts)-1] += fmt.Sprintf(" and %d more", n-len(some))
			}
		}
	}
	if x.Ownership != "" {
		parts = append(parts, "ownership "+x.Ownership)
	}
	said := "On the other console it is for " + strings.Join(parts, "; ") + "."
	if len(parts) == 0 {
		said = ""
	}
	if x.Unknown {
		said = strings.TrimSpace(said + " Whom it is for there the file does not say, or not in a form that is understood: decide yourself.")
	}
	return said
}

// translated lists the settings that a translation sets.
func translated(t *dialect.Translation) (out []enforce.Setting) {
	d, err := policy.Decode(t.Document, policy.Options{})
	if err != nil {
		return nil
	}
	return slices.Sorted(slices.Values(d.Settings()))
}
