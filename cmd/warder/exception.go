package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce/policy"
)

func (a *app) exception() *cobra.Command {
	var usb, network, disk, client, mount, file string
	var printing, board, shots, data bool
	c := &cobra.Command{
		Use: "exception CODE", Short: "Let something pass with a code from support", Args: cobra.ExactArgs(1),
		Long: "Support reads out a code for one thing on this machine, such as a stick, for a time. It works without a network, " +
			"once, within\n" +
			"a day. It is tried on what is there and refused, and on the VPN that the policy asks for; name the stick where it\n" +
			"is not plugged in yet, or the disk's serial, or the domain name or address that is meant.",
		Example: "  warder exception ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-A\n  warder exception ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-A --usb " +
			"0951:1666:0011AABB\n  warder exception ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-A --network docs.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			var x identity.Exception
			in := agent.ExceptionRequest{Code: args[0]}
			if usb != "" {
				in.Section, in.Subject = "usb", usb
			}
			if network != "" {
				in.Section, in.Subject = "network", network
			}
			if disk != "" {
				in.Section, in.Subject = "storage", policy.DiskSubject+disk
			}
			if client != "" {
				in.Section, in.Subject = "storage", policy.ClientSubject+client
			}
			if mount != "" {
				in.Section, in.Subject = "storage", policy.MountSubject+mount
			}
			if file != "" {
				in.Section, in.Subject = "storage", policy.FileSubject+file
			}
			if printing {
				in.Section, in.Subject = "dlp", policy.PrintSubject
			}
			if board {
				in.Section, in.Subject = "dlp", policy.ClipboardSubject
			}
			if shots {
				in.Section, in.Subject = "dlp", policy.ScreenshotSubject
			}
			if data {
				in.Section, in.Subject = "dlp", policy.SensitiveSubject
			}
			if err := a.client().Do(cmd.Context(), "POST", "/v1/exceptions", in, &x); err != nil {
				return fmt.Errorf("cannot take the code: %w", err)
			}
			if x.Section == "network" && x.Subject == "vpn" {
				return a.say(cmd, x, "No VPN is needed until %s.\n", x.Until.Local().Format(time.DateTime))
			}
			if x.Section == "dlp" && x.Subject == policy.ClipboardSubject {
				return a.say(cmd, x, "Everything may be copied until %s.\n", x.Until.Local().Format(time.DateTime))
			}
			if x.Section == "dlp" && x.Subject == policy.ScreenshotSubject {
				return a.say(cmd, x, "Pictures of the screen may be taken until %s.\n", x.Until.Local().Format(time.DateTime))
			}
			if x.Section == "dlp" && x.Subject == policy.SensitiveSubject {
				return a.say(cmd, x, "Sensitive data may be used everywhere until %s.\n", x.Until.Local().Format(time.DateTime))
			}
			if x.Section == "dlp" {
				return a.say(cmd, x, "This computer may print until %s.\n", x.Until.Local().Format(time.DateTime))
			}
			if x.Section == "storage" && strings.HasPrefix(x.Subject, policy.MountSubject) {
				return a.say(cmd, x, "%s need not be encrypted until %s.\n", strings.TrimPrefix(x.Subject, policy.MountSubject), x.Until.Local().Format(time.DateTime))
			}
			if name, is := strings.CutPrefix(x.Subject, policy.FileSubject); x.Section == "storage" && is {
				return a.say(cmd, x, "%s may have any size until %s.\n", name, x.Until.Local().Format(time.DateTime))
			}
			return a.say(cmd, x, "%s may be used until %s.\n", x.Name(), x.Until.Local().Format(time.DateTime))
		},
	}
	c.Flags().StringVar(&usb, "usb", "", "the stick, vendor:product or vendor:product:SERIAL")
	c.Flags().StringVar(&network, "network", "", "the domain name, with all names below it, or the address; vpn: no VPN is needed")
	c.Flags().StringVar(&disk, "disk", "", "the serial of an external disk, as warder events shows it")
	c.Flags().StringVar(&client, "client", "", "the sync client, such as dropbox")
	c.Flags().StringVar(&mount, "mount", "", "where the file system is mounted that need not be encrypted")
	c.Flags().StringVar(&file, "file", "", "the path of a file on an external disk that may be larger than the policy allows")
	c.Flags().BoolVar(&printing, "print", false, "printing")
	c.Flags().BoolVar(&board, "clipboard", false, "copying between work and personal")
	c.Flags().BoolVar(&shots, "screenshot", false, "pictures of the screen")
	c.Flags().BoolVar(&data, "sensitive", false, "sensitive data")
	c.MarkFlagsMutuallyExclusive("usb", "network", "disk", "client", "mount", "file", "print", "clipboard", "screenshot", "sensitive")
	return c
}
