//go:build !linux

package main

import "github.com/spf13/cobra"

// boot adds no command: this system has no early start.
func (a *app) boot() *cobra.Command { return nil }

// leavesStart does nothing here.
func (a *app) leavesStart() error { return nil }
