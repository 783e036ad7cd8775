package agent

import (
	"log/slog"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
)

// TestReadmeTable compares the README's table with the code's own capability data, so that it cannot claim more.
// WARDER_UPDATE=1 writes it.
func TestReadmeTable(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- capabilities -->\n", "<!-- /capabilities -->"
	head, rest, ok := strings.Cut(string(b), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the table")
	}
	want := table()
	if have == want {
		return
	}
	if os.Getenv("WARDER_UPDATE") == "" {
		t.Fatalf("README.md differs from the capability data; run WARDER_UPDATE=1 go test -run TestReadmeTable ./agent\n%s", want)
	}
	if err := os.WriteFile("../README.md", []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table() string {
	by := map[string]map[string]string{}
	notes := map[string]*note{}
	for _, c := range claims(all.Sections) {
		if by[string(c.Setting)] == nil {
			by[string(c.Setting)] = map[string]string{}
		}
		cell := c.Level
		if c.Level != "unsupported" && !c.Exercised {
			cell += ", not exercised on real hardware"
		}
		if c.Level != "unsupported" && c.Limit != "" {
			if notes[c.Limit] == nil {
				notes[c.Limit] = &note{level: c.Level, os: c.OS}
			}
			notes[c.Limit].settings = append(notes[c.Limit].settings, "`"+string(c.Setting)+"`")
		}
		by[string(c.Setting)][c.OS] = cell
	}
	var out strings.Builder
	out.WriteString("| setting | Linux | Windows | macOS |\n|---|---|---|---|\n")
	for _, s := range policy.Names() {
		row := by[string(s)]
		out.WriteString("| `" + string(s) + "` | " + row["linux"] + " | " + row["windows"] + " | " + row["darwin"] + " |\n")
	}
	var lines []string
	for limit, n := range notes {
		sort.Strings(n.settings)
		last := len(n.settings) - 1
		names, is := strings.Join(n.settings[:last], ", "), " is "
		if last > 0 {
			names, is = names+" and ", " are "
		}
		lines = append(lines, names+n.settings[last]+is+n.level+" on "+n.os+": "+limit)
	}
	sort.Strings(lines)
	for _, n := range lines {
		out.WriteString("\n" + n + ".\n")
	}
	return out.String()
}

// note is the table's footnote for a limit.
type note struct {
	level, os string
	settings  []string
}

// claims are what this version's capabilities claim, on every system: the README's table.
func claims(s []section.Section) []platform.Claim {
	var list []platform.Capability
	for _, f := range capabilities {
		list = append(list, f(platform.Host{Log: slog.New(slog.DiscardHandler)}))
	}
	var out []platform.Claim
	for _, sec := range s {
		for _, set := range sec.Settings {
			for _, os := range platform.Systems {
				out = append(out, platform.ClaimOf(list, set.Name, os))
			}
		}
	}
	return out
}
