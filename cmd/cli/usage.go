// Package usage tells a command that was typed wrongly from one that failed, for both programs: the first
// exits with 64 (EX_USAGE of sysexits.h), so that a script does not take it for an answer.
package usage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Exit is the exit code of a command that was typed wrongly.
const Exit = 64

// Error is such a command's.
type Error struct{ error }

// Unwrap gives what was wrong.
func (e Error) Unwrap() error { return e.error }

// Errorf is the error of a flag or an argument that has a wrong value.
func Errorf(format string, args ...any) error { return Error{fmt.Errorf(format, args...)} }

// Mark makes every command below root say Error for flags and arguments that it does not take.
func Mark(root *cobra.Command) {
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Error{err} })
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if check := c.Args; check != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return Error{err}
				}
				return nil
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// Is reports whether a command was typed wrongly. Of two mistakes the library says so in words alone.
func Is(err error) bool {
	var e Error
	if errors.As(err, &e) {
		return true
	}
	return err != nil && (strings.HasPrefix(err.Error(), "unknown command ") || strings.HasPrefix(err.Error(), "required flag(s) "))
}
