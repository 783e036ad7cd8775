package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/early"
	"github.com/warderd/warder/platform/input"
	"github.com/warderd/warder/platform/usb"
)

// boot is what is done about the time before any program of the disk runs.
func (a *app) boot() *cobra.Command {
	c := &cobra.Command{
		Use: "boot", Short: "Close USB from the first moment of a start, or leave it open", RunE: help,
		Long: "While a machine starts up, Warder holds the last confirmed policy from the moment on in which programs of\n" +
			"the disk run. What the initramfs has let in before worked until then. \"warder boot close-usb\" closes\n" +
			"that time, too, and has a price: no USB device works in the initramfs.",
		Example: "  warder boot status\n  sudo warder boot close-usb\n  sudo warder boot open-usb",
	}
	c.AddCommand(a.bootStatus(), a.closeUSB(), a.openUSB())
	return c
}

func (a *app) option() usb.Option { return usb.NewOption(a.paths().Run) }

func (a *app) bootStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say what holds while this machine starts up", Args: cobra.NoArgs, Example: "  warder boot status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := a.screen(cmd)
			held, err := agent.HoldsEarly(a.paths())
			switch {
			case err != nil:
				out.printf("start      not held before the agent runs: %s\n", err)
			case held:
				out.printf("start      held by the last confirmed policy, from early in the start on\n")
			default:
				out.printf("start      nothing is held before the agent runs: no confirmed policy in enforce mode asks for it\n")
			}
			switch o := a.option(); {
			case !o.Sure():
				out.printf("initramfs  not known: it could not be made anew; repeat sudo warder boot open-usb\n")
			case o.Set():
				out.printf("initramfs  USB is closed; sudo warder boot open-usb opens it\n")
			default:
				out.printf("initramfs  USB is open; sudo warder boot close-usb closes it\n")
			}
			return nil
		},
	}
}

// bootRisk is said before USB is closed in the initramfs.
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
			out := a.screen(cmd)
			builtin, err := input.Observer{File: "/proc/bus/input/devices"}.BuiltIn()
			if !accept && (err != nil || builtin == 0) {
				return errors.Join(errors.New("no built-in keyboard was found (USB and Bluetooth do not count): a passphrase could not be typed at the next start. "+
					"If none is asked for, repeat this with --accept-risk"), err)
			}
			out.printf(bootRisk)
			if err := a.option().Close(cmd.Context(), func(s string) { out.printf("%s\n", s) }); err != nil {
				return fmt.Errorf("cannot close USB in the initramfs: %w", err)
			}
			out.printf("Done. It holds from the next start on.\n")
			return nil
		},
	}
	c.Flags().BoolVar(&accept, "accept-risk", false, "also where no built-in keyboard was found")
	return c
}

func (a *app) openUSB() *cobra.Command {
	return &cobra.Command{
		Use: "open-usb", Short: "Leave USB open in the initramfs", Args: cobra.NoArgs, Example: "  sudo warder boot open-usb",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := a.screen(cmd)
			if !a.option().Set() {
				out.printf("USB is open in the initramfs already.\n")
				return nil
			}
			if err := a.option().Open(cmd.Context(), func(s string) { out.printf("%s\n", s) }); err != nil {
				return fmt.Errorf("cannot open USB in the initramfs: %w", err)
			}
			out.printf("Done. USB works in the initramfs from the next start on.\n")
			return nil
		},
	}
}

// leavesStart is asked before the service goes: nothing may hold, or close, the next start of the machine.
func (a *app) leavesStart() error {
	if a.option().Set() {
		return errors.New("USB is closed in the initramfs, and without the service it would stay closed; first: sudo warder boot open-usb")
	}
	if err := early.Remove(a.paths().EarlyFile()); err != nil {
		return fmt.Errorf("what holds the machine while it starts up cannot be removed, so the service stays: %w", err)
	}
	return nil
}
