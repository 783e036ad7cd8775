//go:build manual

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// addManual adds, in a build for packaging, the command that writes man pages and completions from the commands
// themselves, so that packaged text and --help never differ.
func addManual(p *Program) {
	p.Root.AddCommand(&cobra.Command{
		Use: "manual DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			root, name := p.Root, p.Root.Name()
			for _, dir := range []string{"man", "completions"} {
				if err := os.MkdirAll(filepath.Join(args[0], dir), 0o755); err != nil {
					return err
				}
			}
			root.InitDefaultHelpCmd()
			root.DisableAutoGenTag = true
			// The date of the version (SOURCE_DATE_EPOCH), so that two builds of it are identical; none if it is not
			// set.
			day := time.Unix(0, 0).UTC()
			var seconds int64
			if _, err := fmt.Sscan(os.Getenv("SOURCE_DATE_EPOCH"), &seconds); err == nil {
				day = time.Unix(seconds, 0).UTC()
			}
			section := "1"
			if name == "warder-server" {
				section = "8"
			}
			header := &doc.GenManHeader{Section: section, Date: &day, Source: "Warder " + p.Version, Manual: "Warder"}
			if err := doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{Header: header, Path: filepath.Join(args[0], "man"),
				CommandSeparator: "-"}); err != nil {
				return err
			}
			at := filepath.Join(args[0], "completions")
			if err := root.GenBashCompletionFileV2(filepath.Join(at, name), true); err != nil {
				return err
			}
			if err := root.GenZshCompletionFile(filepath.Join(at, "_"+name)); err != nil {
				return err
			}
			return root.GenFishCompletionFile(filepath.Join(at, name+".fish"), true)
		},
	})
}
