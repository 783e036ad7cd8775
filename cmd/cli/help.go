package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// CheckHelp says what is wrong with the help of a command line: every command that people run needs a short text and an
// example, and every example has to be a valid command. The tests of both programs use it. root makes a new command
// line each time, because flags keep parsed values.
func CheckHelp(root func() *cobra.Command) (wrong []string) {
	walk(root(), func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || strings.Contains(c.CommandPath(), " completion") {
			return
		}
		if c.Short == "" || c.Example == "" {
			wrong = append(wrong, fmt.Sprintf("%q lacks a short text or an example", c.CommandPath()))
		}
		for line := range strings.Lines(c.Example) {
			if why := checkExample(root(), line); why != nil {
				wrong = append(wrong, fmt.Sprintf("the help of %q has %q: %v", c.CommandPath(), strings.TrimSpace(line), why))
			}
		}
	})
	return wrong
}

// checkExample checks the flags and arguments of each part of a line that calls the program.
func checkExample(root *cobra.Command, line string) error {
	found := false
	for _, part := range strings.Split(line, " | ") {
		words := fields(strings.Split(part, " > ")[0])
		for len(words) > 0 && (words[0] == "sudo" || strings.Contains(words[0], "=")) {
			words = words[1:]
		}
		if len(words) == 0 || words[0] != root.Name() {
			continue
		}
		found = true
		c, rest, err := root.Find(words[1:])
		if err != nil {
			return err
		}
		if err := c.ParseFlags(rest); err != nil {
			return err
		}
		if err := c.ValidateRequiredFlags(); err != nil {
			return err
		}
		if err := c.ValidateArgs(c.Flags().Args()); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("it does not call %s", root.Name())
	}
	return nil
}

// fields splits a line as a shell does, as far as examples need it: it understands quotes.
func fields(line string) (out []string) {
	var word strings.Builder
	quote, open := rune(0), false
	for _, r := range strings.TrimSpace(line) {
		switch {
		case quote == 0 && (r == '"' || r == '\''):
			quote, open = r, true
		case r == quote:
			quote = 0
		case quote == 0 && r == ' ':
			if open {
				out = append(out, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		out = append(out, word.String())
	}
	return out
}
