package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/dialect/all"
)

func (a *app) policyTranslate() *cobra.Command {
	var document bool
	c := &cobra.Command{
		Use: "translate VENDOR FILE", Short: "Say what of another console's policy Warder carries", Args: cobra.ExactArgs(2),
		Long: "The file is a policy as the other console's API answers it, in JSON. Each setting of it is said to be translated, partial, or\n" +
			"not carried, and why. Nothing is changed, and no server is asked. With --document the policy is printed as \"policy apply\"\n" +
			"takes it. Vendors: " + all.IDs() + ".",
		Example: "  warder-server policy translate wso2 camera.json\n  warder-server policy translate wso2 camera.json --document > camera-warder.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			vendor, known := all.Find(args[0])
			if !known {
				return &cli.Failure{Err: fmt.Errorf("no vendor %q: it is one of %s", args[0], all.IDs()), Code: "not_found"}
			}
			b, err := readInput(cmd, args[1], maxPolicyFile)
			if err != nil {
				return fmt.Errorf("cannot read the policy: %w", err)
			}
			t, err := vendor.Translate(b)
			if err != nil {
				return fmt.Errorf("%s cannot be translated: %w", args[1], err)
			}
			var policy map[string]json.RawMessage
			if err := json.Unmarshal(t.Document, &policy); err != nil {
				return err
			}
			delete(policy, "id") // the other console's: ours is given by the server
			if document {
				s := cli.NewScreen(cmd.ErrOrStderr())
				if t.Released {
					s.Printf("The other console says that it is in force nowhere.\n")
				}
				if n := len(t.Named); n > 0 {
					s.Printf("%s not carried; without --document they are listed, with the reasons.\n", cli.Count(n, "value"))
				}
				if who := whom(&t); who != "" {
					s.Printf("%s\n", who)
				}
				return a.screen(cmd).JSON(policy, true)
			}
			return a.translation(cmd, &t, policy)
		},
	}
	c.Flags().BoolVar(&document, "document", false, "print the policy, as \"policy apply\" takes it")
	return c
}

// translation shows one.
func (a *app) translation(cmd *cobra.Command, t *dialect.Translation, policy map[string]json.RawMessage) error {
	var rows [][]string
	for _, s := range translated(t) {
		what, why := "translated", ""
		if p := t.Partial[s]; p != "" {
			what, why = "partial", p
		}
		rows = append(rows, []string{string(s), what, why})
	}
	for _, u := range t.Named {
		rows = append(rows, []string{u.Name, "not carried", u.Reason})
	}
	if a.JSON() {
		return a.screen(cmd).JSON(map[string]any{"source": t.Source, "released": t.Released, "policy": policy, "partial": t.Partial,
			"named": append([]dialect.Unsupported{}, t.Named...), "stamp": t.Stamp, "selection": t.Selection}, true)
	}
	var mode string
	if err := json.Unmarshal(policy["compliance"], &mode); err != nil {
		return err
	}
	s := a.screen(cmd)
	s.Table([]string{"SETTING", "RESULT", "WHY"}, rows)
	s.Printf("%s, in %s mode.\n", cli.Count(len(translated(t)), "setting"), mode)
	if t.Released {
		s.Printf("The other console says that it is in force nowhere.\n")
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
	}{{"device types", x.DeviceTypes}, {"roles", x.Roles}, {"groups", x.Groups}, {"users", x.Users}, {"devices", x.Devices}} {
		if n := len(l.list); n > 0 {
			some := l.list[:min(n, 5)]
			parts = append(parts, fmt.Sprintf("%s %s", l.name, strings.Join(some, ", ")))
			if n > len(some) {
				parts[len(parts)-1] += fmt.Sprintf(" and %d more", n-len(some))
			}
		}
	}
	if x.Ownership != "" {
		parts = append(parts, "ownership "+x.Ownership)
	}
	if x.Unknown {
		parts = append(parts, "others, in a form that is not understood: decide yourself whom it is for")
	}
	if len(parts) == 0 {
		return ""
	}
	return "On the other console it is for " + strings.Join(parts, "; ") + "."
}

// translated lists the settings that a translation sets.
func translated(t *dialect.Translation) (out []enforce.Setting) {
	for _, l := range t.Leaves {
		if l.Fate == dialect.Translated && strings.Contains(string(l.Setting), ".") && !slices.Contains(out, l.Setting) {
			out = append(out, l.Setting)
		}
	}
	slices.Sort(out)
	return out
}
