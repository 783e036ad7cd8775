package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/early"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/platform/input"
	"github.com/warderd/warder/platform/usb"
)

// boot has the commands for the time before any program on the disk runs.
func (a *app) boot() *cobra.Command {
	c := &cobra.Command{
		Use: "boot", Short: "Close USB from the first moment of a start, or leave it open", RunE: cli.Help,
		Long: "While a machine starts up, the last confirmed policy is in force as soon as programs of the disk run. What\n" +
			"the initramfs let in before that works until then. \"warder boot close-usb\" closes that time, too, at a price: no\n" +
			"USB device works in the initramfs.",
		Example: "  warder boot status\n  sudo warder boot close-usb\n  sudo warder boot open-usb",
	}
	c.AddCommand(a.bootStatus(), a.closeUSB(), a.openUSB())
	return c
}

func (a *app) option() usb.Option { return usb.NewOption(a.paths().Run) }

func (a *app) bootStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say what is in force while this machine starts up", Args: cobra.NoArgs, Example: "  warder boot status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s struct {
				Start     string `json:"start"`     // held, open or broken
				Initramfs string `json:"initramfs"` // open, closed or unknown
			}
			start, initramfs := "", ""
			early, err := agent.EnforcesEarly(a.paths())
			switch {
			case err != nil:
				s.Start, start = "broken", fmt.Sprintf("not protected before the agent runs: %s", err)
			case early:
				s.Start, start = "held", "the last confirmed policy is in force from early in the start on"
			default:
				s.Start, start = "open", "no policy is in force before the agent runs: none that was confirmed enforces USB or storage"
			}
			switch o := a.option(); {
			case !o.Sure():
				s.Initramfs, initramfs = "unknown", "not known: it could not be rebuilt; repeat sudo warder boot open-usb"
			case o.Set():
				s.Initramfs, initramfs = "closed", "USB is closed; sudo warder boot open-usb opens it"
			default:
				s.Initramfs, initramfs = "open", "USB is open; sudo warder boot close-usb closes it"
			}
			return a.say(cmd, s, "start      %s\ninitramfs  %s\n", start, initramfs)
		},
	}
}

// bootRisk is shown before USB is closed in the initramfs.
const bootRisk = "From the next start on no USB device works until the programs on the disk run, keyboards included:\n" +
	"a disk's passphrase must then be typed on a built-in (not USB) keyboard, and a USB disk or stick that the\n" +
	"machine is started from is not found. Where Warder's service does not run, USB stays closed: in a rescue\n" +
	"or emergency shell, and with the service disabled or masked. Undo this before you disable it:\n" +
	"sudo warder boot open-usb. To start once without it: usbcore.authorized_default=1 on the kernel's command line.\n"

func (a *app) closeUSB() *cobra.Command {
	var accept bool
	c := &cobra.Command{
		Use: "close-usb", Short: "Close USB in the initramfs", Args: cobra.NoArgs,
		Long:    bootRisk,
		Example: "  sudo warder boot close-usb\n  sudo warder boot close-usb --accept-risk",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needsRoot(cmd); err != nil {
				return err
			}
			out := a.screen(cmd)
			builtin, err := input.Observer{File: "/proc/bus/input/devices"}.BuiltIn()
			if !accept && (err != nil || builtin == 0) {
				return errors.Join(errors.New("no built-in keyboard was found (USB and Bluetooth do not count): a passphrase could not "+
					"be typed at the next start. "+
					"If none is asked for, repeat this with --accept-risk"), err)
			}
			if !a.JSON() {
				out.Printf(bootRisk)
			}
			if err := a.option().Close(cmd.Context(), a.progress(cmd)); err != nil {
				return fmt.Errorf("cannot close USB in the initramfs: %w", err)
			}
			return a.say(cmd, map[string]string{"initramfs": "closed"}, "Done. It takes effect at the next start.\n")
		},
	}
	c.Flags().BoolVar(&accept, "accept-risk", false, "also where no built-in keyboard was found")
	return c
}

func (a *app) openUSB() *cobra.Command {
	return &cobra.Command{
		Use: "open-usb", Short: "Leave USB open in the initramfs", Args: cobra.NoArgs, Example: "  sudo warder boot open-usb",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needsRoot(cmd); err != nil {
				return err
			}
			open := map[string]string{"initramfs": "open"}
			if !a.option().Set() {
				return a.say(cmd, open, "USB is open in the initramfs already.\n")
			}
			if err := a.option().Open(cmd.Context(), a.progress(cmd)); err != nil {
				return fmt.Errorf("cannot open USB in the initramfs: %w", err)
			}
			return a.say(cmd, open, "Done. USB works in the initramfs from the next start on.\n")
		},
	}
}

// progress prints what a long command is doing; to standard error if the answer is JSON.
func (a *app) progress(cmd *cobra.Command) func(string) {
	out := a.screen(cmd)
	if a.JSON() {
		out = cli.NewScreen(cmd.ErrOrStderr())
	}
	return func(s string) { out.Printf("%s\n", s) }
}

// leavesStart is called before the service is removed: nothing may enforce, or close, anything at the next start of the
// machine.
func (a *app) leavesStart() error {
	if a.option().Set() {
		return errors.New("USB is closed in the initramfs, and without the service it would stay closed; first: sudo warder boot open-usb")
	}
	if err := early.Remove(a.paths().EarlyFile()); err != nil {
		return fmt.Errorf("the policy saved for the next start cannot be removed, so the service stays: %w", err)
	}
	return nil
}
