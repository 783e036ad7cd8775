package main

import (
	"maps"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/media"
	"github.com/warderd/warder/platform/programs"
)

// kernelPrograms is the child process that loads programs into the kernel. People do not call it.
func (a *app) kernelPrograms() *cobra.Command {
	return &cobra.Command{
		Use: "kernel-programs load|try|prove SET [ARG...]", Short: "Load programs into the kernel (the agent does)", Args: cobra.MinimumNArgs(2), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			loaders := media.Loaders()
			maps.Copy(loaders, programs.Loaders())
			return bpf.Child(loaders, args[0], args[1], args[2:]...)
		},
	}
}
