//go:build !linux

package main

import "github.com/spf13/cobra"

// boot: there is no early start on this system, and no command.
func (a *app) boot() *cobra.Command { return nil }

// leavesStart: nothing holds a start here.
func (a *app) leavesStart() error { return nil }
