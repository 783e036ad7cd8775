package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ExitUsage is the exit code of a command that was typed wrongly (EX_USAGE of sysexits.h), so that a script can tell it
// from an answer.
const ExitUsage = 64

// UsageError is the error of a command that was typed wrongly.
type UsageError struct{ error }

// Unwrap returns what was wrong.
func (e UsageError) Unwrap() error { return e.error }

// Usagef is the error of a flag or an argument with a wrong value.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// markUsage makes every command below root return a UsageError for unknown flags and arguments.
func markUsage(root *cobra.Command) {
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError{flagError(err)} })
	walk(root, func(c *cobra.Command) {
		if check := c.Args; check != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return UsageError{argError(cmd, args, err)}
				}
				return nil
			}
		}
	})
}

// walk calls f with a command and with every command below it.
func walk(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		walk(sub, f)
	}
}

// unknown refuses a command that does not exist, with suggestions.
func unknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2 // as the library has it elsewhere
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		text += "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return errors.New(text)
}

// inWords puts two of the library's messages into one line: an unknown command with its suggestions, and missing flags.
func inWords(err error) error {
	if flags, ok := strings.CutPrefix(err.Error(), "required flag(s) "); ok {
		list := strings.Split(strings.TrimSuffix(flags, " not set"), ", ")
		for i, f := range list {
			list[i] = "--" + strings.Trim(f, `"`)
		}
		if len(list) == 1 {
			return fmt.Errorf("%s is missing", list[0])
		}
		return fmt.Errorf("%s are missing", strings.Join(list, " and "))
	}
	if text, like, ok := strings.Cut(err.Error(), "\n\nDid you mean this?\n"); ok {
		return fmt.Errorf("%s; did you mean %s?", text, strings.Join(strings.Fields(like), " or "))
	}
	return err
}

// argError names the missing or superfluous argument, as the command's usage line calls it. The library only counts.
func argError(cmd *cobra.Command, args []string, err error) error {
	if strings.HasPrefix(err.Error(), "unknown command ") {
		return inWords(err)
	}
	var wants []string
	or := false // what follows a "|" takes the place of what comes before it
	for _, w := range strings.Fields(cmd.Use)[1:] {
		if strings.HasPrefix(strings.TrimPrefix(w, "["), "-") {
			break
		}
		if alternative := w == "|" || or; alternative {
			or = w == "|"
			continue
		}
		wants = append(wants, w)
	}
	switch {
	case len(args) < len(wants) && !strings.HasPrefix(wants[len(args)], "["):
		return fmt.Errorf("%s is missing: %s %s", wants[len(args)], cmd.CommandPath(), strings.Join(wants, " "))
	case len(args) > len(wants):
		return fmt.Errorf("%q is one argument too many: %s %s", args[len(wants)], cmd.CommandPath(), strings.Join(wants, " "))
	}
	return err
}

// flagError says in words what a flag accepts. The library's own message names the Go function that could not read the
// value.
func flagError(err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	f := bad.GetFlag()
	takes := map[string]string{
		"bool": "true or false", "duration": `a duration such as 90s, 15m or 8h`, "int": "a whole number", "int64": "a whole number",
		"uint": "a whole number, not negative", "float64": "a number",
	}[f.Value.Type()]
	if takes == "" {
		return fmt.Errorf("--%s cannot be %q: %w", f.Name, bad.GetValue(), bad.Unwrap())
	}
	return fmt.Errorf("--%s must be %s (received %q)", f.Name, takes, bad.GetValue())
}

// isUsage reports whether a command was typed wrongly. The library has no error type for two kinds of mistake.
func isUsage(err error) bool {
	var e UsageError
	if errors.As(err, &e) {
		return true
	}
	var theirs Foreign
	if errors.As(err, &theirs) {
		return false
	}
	return err != nil && (strings.HasPrefix(err.Error(), "unknown command ") || strings.HasPrefix(err.Error(), "required flag(s) "))
}
