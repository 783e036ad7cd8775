package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"
)

func keys() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "The key that policies are signed with"}
	var data, recovery string
	rotate := &cobra.Command{
		Use: "rotate --data DIR", Short: "Sign policies with a new key", Args: cobra.NoArgs,
		Long: `Makes a new key to sign policies with. Devices follow at their next check-in, because the key before says so.
With --recovery-key, the file that was taken offline, they follow because that says so, and the key before is
forgotten: do this when it may be in wrong hands. A running server takes the new key within seconds; other nodes need
the files policy.key and policy.past.`,
		Example: "  warder-server keys rotate --data /var/lib/warder-server\n  warder-server keys rotate --data /var/lib/warder-server --recovery-key /media/safe/recovery.key",
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
					return fmt.Errorf("%s is no private key", recovery)
				}
			}
			if err := k.RotatePolicy(r, time.Now()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), k.Signing().KeyID)
			return nil
		},
	}
	dataFlags(rotate, &data, nil)
	rotate.Flags().StringVar(&recovery, "recovery-key", "", "file of the offline recovery key")
	show := &cobra.Command{
		Use: "show --data DIR", Short: "Print the public keys that devices trust", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := existing(data)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"policy_keys": k.PolicyKeys(), "recovery_key": k.RecoveryKey()})
		},
	}
	dataFlags(show, &data, nil)
	c.AddCommand(rotate, show)
	return c
}
