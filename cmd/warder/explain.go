package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce/dlp"
	"github.com/warderd/warder/enforce/network"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/storage"
	"github.com/warderd/warder/enforce/usb"
)

func (a *app) explain() *cobra.Command {
	c := &cobra.Command{
		Args: cobra.NoArgs, RunE: cli.Help, Use: "explain", Short: "Why something is allowed or refused, and what would change it",
		Example: "  warder explain usb 0951:1666\n  warder explain usb --port 1-2\n  warder explain network docs.example.com\n" +
			"  warder explain storage /dev/sdb1\n  warder explain dlp print\n  warder explain dlp clipboard\n  warder explain dlp screenshot\n  warder explain dlp sensitive",
	}
	c.AddCommand(a.explainUSB(), a.explainNetwork(), a.explainStorage(), a.explainDLP())
	return c
}

func (a *app) explainUSB() *cobra.Command {
	var classes []string
	var port string
	c := &cobra.Command{
		Use: "usb VID:PID[:SERIAL] [--class 08,03] | usb --port 1-2", Short: "Explain the verdict on a USB device",
		Long: "Explains the verdict on a device that need not be plugged in. Where its classes matter and are not\n" +
			"named, the answer is that it depends.",
		Example: "  warder explain usb 0951:1666 --class 08\n  warder explain usb 046d:c52b:12345 --class hid\n  warder explain " +
			"usb --port 1-2",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := usb.Subject{Port: port}
			switch {
			case port == "" && len(args) == 0:
				return cli.Usagef("name a device (VID:PID) or a port (--port 1-2)")
			case port != "" && len(args) > 0:
				return cli.Usagef("name a device or a port, not both")
			case len(args) > 0:
				e, err := policy.ParseUSBEntry(args[0])
				if err != nil || e.AnyProduct {
					return cli.Usagef("device %q must be VID:PID or VID:PID:SERIAL, with four hex digits each", args[0])
				}
				in.Vendor, in.Product, in.Serial = e.Vendor, e.Product, e.Serial
			}
			for _, s := range classes {
				class, err := policy.ParseClass(s)
				if err != nil {
					return cli.Usagef("class %q %w", s, err)
				}
				in.Classes = append(in.Classes, uint8(class))
			}
			return a.explained(cmd, "usb", in)
		},
	}
	c.Flags().StringSliceVar(&classes, "class", nil, "USB classes of the device's interfaces, as names or two hex digits")
	c.Flags().StringVar(&port, "port", "", "the device plugged in here, as the kernel names it")
	return c
}

func (a *app) explainNetwork() *cobra.Command {
	return &cobra.Command{
		Use: "network NAME | ADDRESS[:PORT]", Short: "Explain the verdict on a name or an address",
		Long: "Explains whether a name or an address may be reached, by which entry of which list, and what would change it.\n" +
			"It need not have been looked up.",
		Example: "  warder explain network docs.example.com\n  warder explain network 192.0.2.10:443",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := network.ParseSubject(args[0])
			if err != nil {
				return cli.Usagef("%w", err)
			}
			return a.explained(cmd, "network", in)
		},
	}
}

func (a *app) explainStorage() *cobra.Command {
	var client string
	c := &cobra.Command{
		Use: "storage DEVICE | PATH [SIZE] | storage --client NAME", Short: "Explain the verdict on a disk, on a file on it, or on a sync client",
		Long: "Explains whether a disk may be used, why, and what would change it. A path stands for the disk that it is on.\n" +
			"With a size (10MiB, 3GB, 4096), explains whether a file there may get that large. The disk has to be there.\n" +
			"A sync client is named by itself (dropbox) or by one of its programs (megasync).",
		Example: "  warder explain storage /dev/sdb1\n  warder explain storage /media/card\n  warder explain storage /media/card/film.mkv 3GiB\n  warder explain storage --client dropbox",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case client != "" && len(args) > 0:
				return cli.Usagef("name a path or a client, not both")
			case client != "":
				return a.explained(cmd, "storage", storage.Subject{Client: client})
			case len(args) == 0:
				return cli.Usagef("name a device, a path or a client (--client dropbox)")
			}
			at, err := filepath.Abs(args[0])
			if err != nil {
				return cli.Usagef("path %q: %w", args[0], err)
			}
			if to, err := filepath.EvalSymlinks(at); err == nil { // "/dev/disk/by-label/CARD"
				at = to
			}
			in := storage.Subject{Path: at}
			if len(args) > 1 {
				size, err := humanize.ParseBytes(args[1])
				if err != nil {
					return cli.Usagef("size %q must be a number of bytes, such as 10MiB, 3GB or 4096", args[1])
				}
				in.Size = &size
			}
			return a.explained(cmd, "storage", in)
		},
	}
	c.Flags().StringVar(&client, "client", "", "a program that synchronises files with a cloud")
	return c
}

func (a *app) explainDLP() *cobra.Command {
	return &cobra.Command{
		Use: "dlp print [QUEUE] | dlp clipboard [FROM TO] | dlp screenshot [PROGRAM] | dlp sensitive", Short: "Explain the verdict on printing, the clipboard, screenshots or sensitive data",
		Long: "Explains whether this computer may print, why, what would change it, and what the print queues do now; or whether\n" +
			"something may be copied from work to personal or back, and what is so in each session now; or whether pictures of the\n" +
			"screen may be taken, by all or by one program; or which sensitive data may not leave this computer.",
		Example: "  warder explain dlp print\n  warder explain dlp print office\n  warder explain dlp clipboard\n  warder explain dlp clipboard work personal\n  warder explain dlp screenshot flameshot\n  warder explain dlp sensitive",
		Args:    cobra.RangeArgs(1, 3), ValidArgs: []string{"print", "clipboard", "screenshot", "sensitive"},
		RunE: func(cmd *cobra.Command, args []string) error {
			var in dlp.Subject
			switch {
			case args[0] == "print" && len(args) == 1:
				in.Print = true
			case args[0] == "print" && len(args) == 2:
				in.Print, in.Queue = true, args[1]
			case args[0] == "clipboard" && len(args) == 1:
				in.Clipboard = true
			case args[0] == "clipboard" && len(args) == 3:
				in.Clipboard, in.From, in.To = true, args[1], args[2]
			case args[0] == "sensitive" && len(args) == 1:
				in.Sensitive = true
			case args[0] == "screenshot" && len(args) < 3:
				if in.Screenshot = true; len(args) == 2 {
					in.Program = args[1]
				}
			case args[0] == "screenshot":
				return cli.Usagef("name one program")
			case args[0] == "print":
				return cli.Usagef("name one queue")
			case args[0] == "clipboard":
				return cli.Usagef("name both zones, such as work personal")
			default:
				return cli.Usagef("%q must be print, clipboard, screenshot or sensitive", args[0])
			}
			return a.explained(cmd, "dlp", in)
		},
	}
}

// explained asks a section about a subject, and prints the answer.
func (a *app) explained(cmd *cobra.Command, sec string, subject any) error {
	x, dead, err := a.ask(cmd, sec, subject)
	if err != nil {
		return fmt.Errorf("cannot explain: %w", err)
	}
	st := a.screen(cmd)
	if a.JSON() {
		return st.JSON(x, true)
	}
	word := cli.Plain(strings.ToUpper(x.Answer.Answer))
	switch x.Answer.Answer {
	case section.Allow:
		word = st.Good(word)
	case section.Deny:
		word = st.Bad(word)
	default:
		word = st.Warn(word)
	}
	line := func(name, text string) {
		if text != "" {
			st.Printf("  %-13s %s\n", name, text)
		}
	}
	change := map[string]string{section.Allow: "to refuse it", section.Deny: "to allow it",
		section.WouldDeny: "to allow it"}[x.Answer.Answer]
	if change == "" {
		change = "to find out"
	}
	st.Printf("%s  %s\n", word, x.Subject)
	line("why", x.Reason)
	line(change, x.Nearest)
	if x.Now != "" {
		line("now", x.Now+" (read back)")
	}
	line("policy", x.Policy)
	if dead {
		st.Printf("  %s\n", st.Warn("no agent runs; this is by the last policy that it stored"))
	}
	return nil
}

// ask asks a section about a subject. The agent answers, or what a dead one left.
func (a *app) ask(cmd *cobra.Command, section string, subject any) (x agent.Explanation, dead bool, err error) {
	in := agent.ExplainRequest{Section: section}
	if in.Subject, err = json.Marshal(subject); err != nil {
		return x, false, err
	}
	err = a.client().Do(cmd.Context(), "POST", "/v1/explain", in, &x)
	if errors.Is(err, localapi.ErrNoAgent) {
		x, err = agent.ExplainOffline(cmd.Context(), a.paths(), in)
		return x, true, err
	}
	return x, false, err
}
