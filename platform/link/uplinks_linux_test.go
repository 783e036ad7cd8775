package link

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The interfaces of default routes, in both families, without routes that refuse, and no more than are asked for.
func TestUplinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
			"eth0\t00000000\t01004D0A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n" +
			"wlan0\t00000000\t01004D0A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n" +
			"eth0\t00004D0A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n" +
			"tun0\t00000000\t01004D0A\t0003\t0\t0\t50\t00000080\t0\t0\t0\n" +
			"bad\t00000000\t01004D0A\tx\t0\t0\t0\t00000000\t0\t0\t0\n*\n",
		"ipv6_route": "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 " +
			"00000400 00000001 00000000 00000003     eth1\n" +
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 " +
			"ffffffff 00000001 00000000 00200200       lo\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := uplinksIn(dir); !slices.Equal(got, []string{"eth0", "wlan0", "eth1"}) {
		t.Errorf("%q", got)
	}
	if got := uplinksIn(dir + "/none"); got != nil {
		t.Errorf("without files: %q", got)
	}
}
