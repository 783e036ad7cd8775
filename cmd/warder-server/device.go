package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/admin"
)

func (a *app) device() *cobra.Command {
	c := &cobra.Command{
		Use: "device", Short: "List and show devices and their compliance", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server device list --compliance noncompliant\n  warder-server device show device-ABCDEFGHIJKLMNOP",
	}
	c.AddCommand(a.deviceList(), a.deviceShow())
	return c
}

// listFlags are the flags that every list command has.
type listFlags struct {
	text string
	most int
	ids  bool
}

func (l *listFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&l.text, "q", "", "only rows with this text, in capitals or not")
	c.Flags().IntVar(&l.most, "limit", 100, "maximum number of rows; 0 for all")
	c.Flags().BoolVar(&l.ids, "ids", false, "print only the first column, one per line, for scripts")
}

// list fetches a list and prints it, as one JSON array or as a table.
func (a *app) list(cmd *cobra.Command, path string, l listFlags, q url.Values, headings []string,
	row func(json.RawMessage) ([]string, error)) error {
	if l.most < 0 {
		return cli.Usagef("--limit must be 0 or more (received %d)", l.most)
	}
	client, err := a.client(cmd, "viewer")
	if err != nil {
		return err
	}
	if l.text != "" {
		q.Set("q", l.text)
	}
	all, rows := []json.RawMessage{}, [][]string{}
	total, err := client.List(cmd.Context(), path, q, l.most, func(raw json.RawMessage) error {
		if a.JSON() {
			all = append(all, raw)
			return nil
		}
		r, err := row(raw)
		rows = append(rows, r)
		return err
	})
	if err != nil {
		return asFlag(cmd, err)
	}
	out := a.screen(cmd)
	if a.JSON() {
		return out.JSON(all, true)
	}
	if l.ids {
		for _, r := range rows {
			out.Printf("%s\n", r[0])
		}
		return nil
	}
	if len(rows) == 0 {
		out.Printf("None.\n")
		return nil
	}
	out.Table(headings, rows)
	if total > len(rows) {
		out.Printf("%s\n", out.Dim(fmt.Sprintf("%d of %d; --limit 0 shows all", len(rows), total)))
	}
	return nil
}

// asFlag turns the API's error about a query parameter into one about the flag that set it.
func asFlag(cmd *cobra.Command, err error) error {
	var e *admin.Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest {
		return err
	}
	f := admin.FieldError{Field: e.Field, Message: e.Message}
	if len(e.Errors) > 0 {
		f = e.Errors[0]
	}
	name := strings.TrimSuffix(strings.TrimPrefix(f.Field, "?"), "_id")
	if cmd.Flags().Lookup(name) == nil {
		return err
	}
	return cli.Usagef("--%s %s", name, cli.Plain(f.Message))
}

// decoded decodes one row of a list.
func decoded[T any](cells func(T) []string) func(json.RawMessage) ([]string, error) {
	return func(raw json.RawMessage) ([]string, error) {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("the answer is not the API's: %w", err)
		}
		return cells(v), nil
	}
}

// moment formats a time for people, in this machine's zone.
func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

func (a *app) deviceList() *cobra.Command {
	var l listFlags
	filters := map[string]*string{}
	c := &cobra.Command{
		Use: "list", Short: "List devices", Args: cobra.NoArgs,
		Example: "  warder-server device list\n  warder-server device list --compliance noncompliant --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			for name, v := range filters {
				if *v != "" {
					q.Set(name, *v)
				}
			}
			type device struct {
				ID, Status, State, Platform, User, Compliance string
				Name                                          string     `json:"device_name"`
				Seen                                          *time.Time `json:"last_sync"`
			}
			return a.list(cmd, "/devices", l, q, []string{"DEVICE", "NAME", "STATE", "COMPLIANCE", "STATUS", "USER", "LAST SEEN"},
				decoded(func(d device) []string {
					return []string{d.ID, d.Name, d.State, d.Compliance, d.Status, d.User, moment(d.Seen)}
				}))
		},
	}
	l.add(c)
	for _, f := range []struct{ flag, param, help string }{
		{"compliance", "compliance", "compliant, unverified, noncompliant or unknown"}, {"status", "status", "online or offline"},
		{"state", "state", "enrolled, retired or cloned"}, {"policy", "policy_id", "only devices that should have the policy with this id"},
		{"user", "user", "only devices of this user"}, {"tag", "tag", "only devices with this tag"},
		{"sort", "sort", "name, last_sync or enrolled_at; with - before it descending"},
	} {
		filters[f.param] = c.Flags().String(f.flag, "", f.help)
	}
	return a.targetFlags(c)
}

func (a *app) deviceShow() *cobra.Command {
	return a.targetFlags(&cobra.Command{
		Use: "show DEVICE", Short: "Show a device with its findings", Args: cobra.ExactArgs(1),
		Example: "  warder-server device show device-ABCDEFGHIJKLMNOP",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(cmd, "viewer")
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if _, err := client.Do(cmd.Context(), http.MethodGet, "/devices/"+url.PathEscape(args[0]), nil, nil, &raw); notFound(err) {
				return &cli.Failure{Err: fmt.Errorf("no device has the id %q", args[0]), Code: "not_found",
					Hint: "the ids: warder-server device list"}
			} else if err != nil {
				return err
			}
			if a.JSON() {
				return a.screen(cmd).JSON(raw, true)
			}
			var d struct {
				ID, Status, State, Platform, User, Compliance string
				Name                                          string     `json:"device_name"`
				Why                                           string     `json:"compliance_reason"`
				Seen                                          *time.Time `json:"last_sync"`
				Effective                                     string     `json:"effective_policy"`
				Version                                       int        `json:"effective_version"`
				Policy                                        struct {
					ID, State string
					Version   int
				} `json:"policy"`
				Findings []struct{ Setting, Mode, Compliance, Enforcement, Reason string } `json:"findings"`
			}
			if err := json.Unmarshal(raw, &d); err != nil {
				return fmt.Errorf("the answer is not the API's: %w", err)
			}
			out := a.screen(cmd)
			out.Printf("%s  %s  %s\n", out.Bold(d.Name), d.ID, d.Compliance)
			out.Printf("  state     %s, %s, last seen %s\n", d.State, d.Status, moment(d.Seen))
			out.Printf("  user      %s\n", first(d.User, "none"))
			out.Printf("  platform  %s\n", d.Platform)
			has := first(d.Policy.ID, "none")
			if d.Policy.ID != "" {
				has = fmt.Sprintf("%s, version %d, %s", d.Policy.ID, d.Policy.Version, d.Policy.State)
			}
			out.Printf("  policy    %s\n", has)
			if d.Effective != "" && (d.Effective != d.Policy.ID || d.Version != d.Policy.Version) {
				out.Printf("  should    have %s, version %d\n", d.Effective, d.Version)
			}
			if d.Why != "" {
				out.Printf("  because   %s\n", d.Why)
			}
			if len(d.Findings) > 0 {
				var rows [][]string
				for _, f := range d.Findings {
					if f.Enforcement == "unsupported" {
						f.Compliance = f.Enforcement // as the device's own status shows it
					}
					rows = append(rows, []string{f.Compliance, f.Setting, f.Mode, f.Enforcement, f.Reason})
				}
				out.Printf("\n")
				out.Table([]string{"STATE", "SETTING", "MODE", "THERE", "WHY"}, rows)
			}
			return nil
		},
	})
}
