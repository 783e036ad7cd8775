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
	c := &cobra.Command{Use: "keys", Short: "Manage the keys that policies are signed with", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server keys show --data /var/lib/warder-server"}
	var data, recovery string
	rotate := &cobra.Command{
		Use: "rotate", Short: "Sign policies with a new key", Args: cobra.NoArgs,
		Long: `Creates a new key to sign policies with. Devices follow at their next check-in, because the old key signs the change.
If the old key may have been stolen, use --recovery-key with the file that you keep offline: then that key signs the
change, and the old one is deleted. A running server uses the new key within seconds; other nodes need the files
policy.key and policy.past.`,
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
			a.Note(cmd,
				"policies are signed with this new key; devices follow at their next check-in. Other nodes need policy.key and policy.past")
			return a.say(cmd, map[string]string{"key_id": k.Signing().KeyID}, "%s\n", k.Signing().KeyID)
		},
	}
	dataFlags(rotate, &data, nil)
	rotate.Flags().StringVar(&recovery, "recovery-key", "", "file of the offline recovery key")
	show := &cobra.Command{
		Use: "show", Short: "Print the public keys that devices trust", Args: cobra.NoArgs,
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
		Use: "ca", Short: "Print the certificate of the server's authority (PEM)", Args: cobra.NoArgs,
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
