package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
)

func (a *app) keys() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "The key that policies are signed with", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server keys show --data /var/lib/warder-server"}
	var data, recovery string
	rotate := &cobra.Command{
		Use: "rotate --data DIR", Short: "Sign policies with a new key", Args: cobra.NoArgs,
		Long: `Makes a new key to sign policies with. Devices follow at their next check-in, because the key before says so.
With --recovery-key, the file that was taken offline, they follow because that says so, and the key before is
forgotten: do this when it may be in wrong hands. A running server takes the new key within seconds; other nodes need
the files policy.key and policy.past.`,
		Example: "  warder-server keys rotate --data /var/lib/warder-server\n  warder-server keys rotate --data /var/lib/warder-server " +
			"--recovery-key /media/safe/recovery.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := existing(data)
			if err != nil {
				return err
			}
			var r *jose.JSONWebKey
			if recovery != "" {
				b, err := os.ReadFile(recovery)
				if err != nil {
					return err
				}
				r = &jose.JSONWebKey{}
				if err := json.Unmarshal(b, r); err != nil || r.IsPublic() {
					return fmt.Errorf("%s is not a private key", recovery)
				}
			}
			if err := k.RotatePolicy(r, time.Now()); err != nil {
				return err
			}
			return a.say(cmd, map[string]string{"key_id": k.Signing().KeyID}, "%s\n", k.Signing().KeyID)
		},
	}
	dataFlags(rotate, &data, nil)
	rotate.Flags().StringVar(&recovery, "recovery-key", "", "file of the offline recovery key")
	show := &cobra.Command{
		Use: "show --data DIR", Short: "Print the public keys that devices trust", Args: cobra.NoArgs,
		Example: "  warder-server keys show --data /var/lib/warder-server",
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := existing(data)
			if err != nil {
				return err
			}
			return a.screen(cmd).JSON(map[string]any{"policy_keys": k.PolicyKeys(), "recovery_key": k.RecoveryKey()}, a.JSON())
		},
	}
	dataFlags(show, &data, nil)
	ca := &cobra.Command{
		Use: "ca --data DIR", Short: "Print the certificate of the server's authority (PEM)", Args: cobra.NoArgs,
		Long:    "Prints the certificate that curl takes as --cacert, and the commands from elsewhere as --ca. It is no secret.",
		Example: "  warder-server keys ca --data /var/lib/warder-server > warder-ca.pem",
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := existing(data)
			if err != nil {
				return err
			}
			authority, err := k.CA(time.Now())
			if err != nil {
				return err
			}
			if a.JSON() {
				return a.screen(cmd).JSON(map[string]string{"certificate": authority.PEM(), "fingerprint": authority.Fingerprint()}, true)
			}
			for line := range strings.Lines(authority.PEM()) {
				a.screen(cmd).Printf("%s\n", strings.TrimSuffix(line, "\n"))
			}
			return nil
		},
	}
	dataFlags(ca, &data, nil)
	c.AddCommand(rotate, show, ca)
	return c
}
