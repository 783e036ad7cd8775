package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/admin"
)

func (a *app) namelist() *cobra.Command {
	c := &cobra.Command{Use: "namelist", Short: "Long lists of names that policies allow or block", Args: cobra.NoArgs, RunE: cli.Help,
		Long: "A list that is too long for a policy is uploaded by itself. A policy names it in network.blocked_lists or\n" +
			"network.allowed_lists, and devices fetch it once.",
		Example: "  warder-server namelist upload tracker.txt --name Trackers\n  warder-server namelist list"}
	c.AddCommand(a.namelistList(), a.namelistShow(), a.namelistUpload(), a.namelistDownload(), a.namelistDelete())
	return c
}

// nameList is what the commands show of a list.
type nameList struct {
	ID        string
	Name      string
	Version   int
	SHA256    string
	Names     int
	UpdatedAt *time.Time `json:"updated_at"`
	Policies  []string
}

func (a *app) namelistList() *cobra.Command {
	var l listFlags
	c := &cobra.Command{
		Use: "list", Short: "List long lists of names", Args: cobra.NoArgs, Example: "  warder-server namelist list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.list(cmd, "/lists", l, url.Values{}, []string{"LIST", "NAME", "VERSION", "NAMES", "UPDATED", "POLICIES"},
				decoded(func(n nameList) []string {
					return []string{n.ID, n.Name, strconv.Itoa(n.Version), strconv.Itoa(n.Names), moment(n.UpdatedAt), strings.Join(n.Policies, ",")}
				}))
		},
	}
	l.add(c)
	return a.targetFlags(c)
}

func (a *app) namelistShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show LIST", Short: "Show a list's versions, and which policies name them", Args: cobra.ExactArgs(1),
		Example: "  warder-server namelist show list-abcdefghijkl",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(cmd, "viewer")
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if _, err := client.Do(cmd.Context(), http.MethodGet, "/lists/"+url.PathEscape(args[0]), nil, nil, &raw); err != nil {
				return noList(err, args[0])
			}
			st := a.screen(cmd)
			if a.JSON() {
				return st.JSON(raw, true)
			}
			var n struct {
				nameList
				Versions []struct {
					Version   int
					SHA256    string
					Names     int
					ChangedBy string     `json:"changed_by"`
					ChangedAt *time.Time `json:"changed_at"`
					Policies  []string
				}
			}
			if err := json.Unmarshal(raw, &n); err != nil {
				return err
			}
			st.Printf("%s, %s\n\n", cli.Plain(n.ID), cli.Plain(n.Name))
			var rows [][]string
			for _, v := range n.Versions {
				rows = append(rows, []string{strconv.Itoa(v.Version), strconv.Itoa(v.Names), moment(v.ChangedAt), v.ChangedBy,
					strings.Join(v.Policies, ","), v.SHA256})
			}
			st.Table([]string{"VERSION", "NAMES", "CHANGED", "BY", "POLICIES", "SHA256"}, rows)
			return nil
		},
	}
	return a.targetFlags(c)
}

// noList is an error that says where the lists are.
func noList(err error, id string) error {
	if notFound(err) {
		return &cli.Failure{Err: fmt.Errorf("no list has the id %q", id), Code: "not_found", Hint: "see: warder-server namelist list"}
	}
	return err
}

func (a *app) namelistUpload() *cobra.Command {
	var name, id, policy string
	var skip bool
	c := &cobra.Command{
		Use: "upload FILE", Short: "Upload a list: one name a line, a hosts file, or ||name^ (\"-\" for standard input)",
		Args: cobra.ExactArgs(1),
		Long: "Uploads a new list (--name), or the next version of one (--id). If a line is not a name, it is reported and\n" +
			"nothing is stored; with --skip-bad such lines are left out. With --policy, a policy that uses this list is\n" +
			"changed to use the new version.",
		Example: "  warder-server namelist upload tracker.txt --name Trackers\n" +
			"  warder-server namelist upload hosts --id list-abcdefghijkl --skip-bad --policy \"Engineering Team Policy\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (name == "") == (id == "") {
				return cli.Usagef("one of --name (a new list) and --id (the next version) is needed")
			}
			if policy != "" && id == "" {
				return cli.Usagef("--policy needs --id: a new list is named by no policy yet")
			}
			client, err := a.client(cmd, "admin")
			if err != nil {
				return err
			}
			var in io.Reader = cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			method, path, q := http.MethodPost, "/lists", url.Values{}
			if id != "" {
				method, path = http.MethodPut, path+"/"+url.PathEscape(id)
			} else {
				q.Set("name", name)
			}
			if skip {
				q.Set("skip_bad", "true")
			}
			var raw json.RawMessage
			if err := client.Upload(cmd.Context(), method, path+"?"+q.Encode(), in, &raw); err != nil {
				return noList(shortened(err), id)
			}
			var n struct {
				nameList
				BadLines int `json:"bad_lines"`
				Bad      []struct {
					Line          int
					Text, Message string
				}
				Same bool `json:"unchanged"`
			}
			if err := json.Unmarshal(raw, &n); err != nil {
				return err
			}
			changed := false
			if policy != "" {
				if changed, err = renew(cmd, client, policy, n.ID, n.SHA256); err != nil {
					return fmt.Errorf("the list was uploaded (version %d), but the policy was not changed: %w", n.Version, err)
				}
			}
			st := a.screen(cmd)
			if a.JSON() {
				return st.JSON(raw, true)
			}
			for _, b := range n.Bad[:min(len(n.Bad), 20)] {
				st.Printf("left out: line %d, %s: %s\n", b.Line, cli.Plain(b.Text), cli.Plain(b.Message))
			}
			if n.BadLines > 20 {
				st.Printf("%d lines were left out (--json shows 10000 of them)\n", n.BadLines)
			}
			word := ""
			if n.Same {
				word = " (unchanged)"
			}
			st.Printf("%s, %s: version %d, %d names%s\n", cli.Plain(n.ID), cli.Plain(n.Name), n.Version, n.Names, word)
			switch {
			case changed:
				st.Printf("%s uses this version now.\n", cli.Plain(policy))
			case policy != "":
				st.Printf("%s uses this version already.\n", cli.Plain(policy))
			default:
				st.Printf("To use it in a policy:  \"network\": {\"blocked_lists\": [{\"id\": %q, \"sha256\": %q}]}\n", cli.Plain(n.ID), cli.Plain(n.SHA256))
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of a new list")
	c.Flags().StringVar(&id, "id", "", "id of the list whose next version this is")
	c.Flags().BoolVar(&skip, "skip-bad", false, "leave out lines that are not names")
	c.Flags().StringVar(&policy, "policy", "", "id or name of a policy that is to use the new version")
	return a.targetFlags(c)
}

// shortened says the first of many bad lines.
func shortened(err error) error {
	const most = 10
	var e *admin.Error
	if !errors.As(err, &e) || len(e.Errors) == 0 {
		return err
	}
	text := e.Message
	for _, f := range e.Errors[:min(len(e.Errors), most)] {
		text += fmt.Sprintf("; %s %s", f.Field, f.Message)
	}
	if more := len(e.Errors) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return &cli.Failure{Err: errors.New(text), Code: e.Code, Hint: "with --skip-bad these lines are left out"}
}

// renew makes a policy name another version of a list. It reports whether anything had to be changed.
func renew(cmd *cobra.Command, client *admin.Client, policy, id, sha256 string) (bool, error) {
	p, _, err := find(cmd, client, policy)
	if err != nil {
		return false, err
	}
	var whole struct {
		Data map[string]map[string]json.RawMessage `json:"policy_data"`
	}
	etag, err := client.Do(cmd.Context(), http.MethodGet, "/policies/"+url.PathEscape(p.ID), nil, nil, &whole)
	if err != nil {
		return false, err
	}
	network, named, changed := whole.Data["network"], false, false
	for _, setting := range []string{"allowed_lists", "blocked_lists"} {
		var refs []map[string]string
		if len(network[setting]) == 0 || json.Unmarshal(network[setting], &refs) != nil {
			continue
		}
		for _, r := range refs {
			if r["id"] == id {
				named, changed = true, changed || r["sha256"] != sha256
				r["sha256"] = sha256
			}
		}
		if network[setting], err = json.Marshal(refs); err != nil {
			return false, err
		}
	}
	if !named {
		return false, &cli.Failure{Err: fmt.Errorf("%q does not use the list %s", policy, id), Code: "not_named",
			Hint: "write it into network.blocked_lists or network.allowed_lists: warder-server policy apply"}
	}
	if !changed {
		return false, nil
	}
	body := map[string]any{"policy_data": map[string]any{"network": network}}
	_, err = client.Do(cmd.Context(), http.MethodPut, "/policies/"+url.PathEscape(p.ID), http.Header{"If-Match": {etag}}, body, nil)
	return err == nil, err
}

func (a *app) namelistDownload() *cobra.Command {
	var number int
	c := &cobra.Command{
		Use: "download LIST", Short: "Print the names of a list", Args: cobra.ExactArgs(1),
		Example: "  warder-server namelist download list-abcdefghijkl --version-number 3 > names.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(cmd, "viewer")
			if err != nil {
				return err
			}
			if number == 0 {
				var n nameList
				if _, err := client.Do(cmd.Context(), http.MethodGet, "/lists/"+url.PathEscape(args[0]), nil, nil, &n); err != nil {
					return noList(err, args[0])
				}
				number = n.Version
			}
			err = client.Download(cmd.Context(), fmt.Sprintf("/lists/%s/versions/%d", url.PathEscape(args[0]), number), &lineWriter{st: a.screen(cmd)})
			if notFound(err) {
				return &cli.Failure{Err: fmt.Errorf("no list %q has a version %d", args[0], number), Code: "not_found",
					Hint: "see: warder-server namelist show"}
			}
			return err
		},
	}
	c.Flags().IntVar(&number, "version-number", 0, "an earlier version")
	return a.targetFlags(c)
}

// lineWriter prints whole lines, safely.
type lineWriter struct {
	st   cli.Screen
	rest []byte
}

// Write prints what is complete. The last line of a list has an end, too.
func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		w.st.Printf("%s\n", cli.Plain(string(line)))
		w.rest = rest
	}
}

func (a *app) namelistDelete() *cobra.Command {
	c := &cobra.Command{
		Use: "delete LIST", Short: "Delete a list that no policy names", Args: cobra.ExactArgs(1),
		Example: "  warder-server namelist delete list-abcdefghijkl",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(cmd, "admin")
			if err != nil {
				return err
			}
			if _, err := client.Do(cmd.Context(), http.MethodDelete, "/lists/"+url.PathEscape(args[0]), nil, nil, nil); err != nil {
				return noList(err, args[0])
			}
			if a.JSON() {
				return a.screen(cmd).JSON(map[string]any{"deleted": args[0]}, false)
			}
			a.screen(cmd).Printf("%s is deleted.\n", args[0])
			return nil
		},
	}
	return a.targetFlags(c)
}
