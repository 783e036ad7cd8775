package main

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
)

// maxBody bounds a body that is read from a file; the server accepts less.
const maxBody = 8 << 20

func (a *app) api() *cobra.Command {
	var ifMatch string
	c := &cobra.Command{
		Use: "api METHOD PATH [BODY]", Short: "Call any operation of the API", Args: cobra.RangeArgs(2, 3),
		Long: "Calls an operation of the API and prints its answer. PATH begins below /api/v1. BODY is JSON, @FILE, or - for\n" +
			"standard input. The server's own page /docs lists the operations, with examples.",
		Example: "  warder-server api GET /compliance\n  warder-server api PUT /policies/default '{\"policy_id\":\"policy-default\"}'\n" +
			"  warder-server api POST /policies @engineering.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			method := strings.ToUpper(args[0])
			role := "admin"
			switch method {
			case http.MethodGet:
				role = "viewer"
			case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
			default:
				return cli.Usagef("METHOD must be GET, POST, PUT, PATCH or DELETE (received %q)", args[0])
			}
			path := strings.TrimPrefix(args[1], "/api/v1")
			if !strings.HasPrefix(path, "/") {
				return cli.Usagef("PATH must begin with / (received %q)", args[1])
			}
			var body any
			if len(args) == 3 {
				b := []byte(args[2])
				if file, ok := strings.CutPrefix(args[2], "@"); ok || args[2] == "-" {
					var err error
					if b, err = readInput(cmd, first(file, "-"), maxBody); err != nil {
						return err
					}
				}
				if !json.Valid(b) {
					return cli.Usagef("BODY must be JSON, @FILE or -")
				}
				body = json.RawMessage(b)
			}
			client, err := a.client(cmd, role)
			if err != nil {
				return err
			}
			var h http.Header
			if ifMatch != "" {
				h = http.Header{"If-Match": {ifMatch}}
			}
			var raw json.RawMessage
			if _, err := client.Do(cmd.Context(), method, path, h, body, &raw); err != nil || raw == nil {
				return err
			}
			return a.screen(cmd).JSON(raw, true)
		},
	}
	c.Flags().StringVar(&ifMatch, "if-match", "", "ETag of what is to be changed: another one since is refused")
	return a.targetFlags(c)
}
