package main

import (
	"testing"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
)

// Help is complete, and its examples are commands.
func TestHelp(t *testing.T) {
	for _, w := range cli.CheckHelp(func() *cobra.Command { return newApp().Root }) {
		t.Error(w)
	}
}
