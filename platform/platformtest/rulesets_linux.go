package platformtest

import (
	"bytes"
	"embed"
	"os/exec"
	"strings"
	"testing"
)

// Rulesets are the programs whose rules LoadRuleset knows. Those of ufw and firewalld were recorded from the programs of Debian 12
// (ufw default with port 22 open; firewalld's zone "public"); those of docker are what its daemon adds for one published port.
var Rulesets = []string{"docker", "ufw", "firewalld"}

//go:embed rulesets
var rulesets embed.FS

// LoadRuleset loads another program's firewall rules, and returns what is there then.
func LoadRuleset(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath("iptables-nft-restore"); err != nil {
		Cannot(t, "iptables is not installed")
	}
	found := 0
	for end, command := range map[string][]string{".iptables": {"iptables-nft-restore"}, ".ip6tables": {"ip6tables-nft-restore"}, ".nft": {"nft", "-f", "-"}} {
		text, err := rulesets.ReadFile("rulesets/" + name + end)
		if err != nil {
			continue
		}
		found++
		cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // one of the three above
		cmd.Stdin = bytes.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", command[0], err, out)
		}
	}
	out, err := exec.Command("nft", "-s", "list", "ruleset").Output()
	if err != nil || found == 0 || !strings.Contains(strings.ToLower(string(out)), name[:3]) {
		t.Fatalf("%d files; the rules of %s are not there: %v", found, name, err)
	}
	return string(out)
}
