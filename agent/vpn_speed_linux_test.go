//go:build bench

package agent

import (
	"encoding/json"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
)

// TestSpeed prints figures of the kill switch ("make bench"): how long a tunnel waits for it, how soon it is known to be closed
// after the tunnel fell, and what it costs a connection through the tunnel. It sets no limits.
func TestSpeed(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Web(platformtest.Server4 + ":80")
	const path, always = "/policies/policy-default", enforce.Setting("network.vpn_always_on")
	policy := `{"vpn_always_on":true,"vpn":{"peer":"` + w.Peer + `","endpoints":["` + platformtest.Router4 + `:51820"]}}`
	l.admin("PUT", path, network("enforce", policy))
	l.reason("closed", always, enforce.Compliant, "the VPN is down")
	var up, down []time.Duration
	for range 20 {
		w.Up(platformtest.Router4 + ":51820")
		begun := time.Now()
		for connects(platformtest.Server4+":80") != "ok" {
			time.Sleep(time.Millisecond)
		}
		up = append(up, time.Since(begun))
		l.reason("up", always, enforce.Compliant, "leave through wg0")
		w.Down()
		begun = time.Now()
		l.reason("fell", always, enforce.Compliant, "the VPN is down")
		down = append(down, time.Since(begun))
	}
	for what, list := range map[string][]time.Duration{"a tunnel that is up can be used": up, "a tunnel that fell: read back and told": down} {
		slices.Sort(list)
		t.Logf("%s: p50 %s, p99 %s", what, list[len(list)/2].Round(time.Millisecond), list[len(list)-1].Round(time.Millisecond))
	}
	w.Up(platformtest.Router4 + ":51820")
	w.Shake()
	open := func() {
		l.admin("PUT", path, network("monitor", policy))
		becomes(t, "open", "", func() string { out, _ := exec.Command("nft", "list", "tables").Output(); return string(out) })
	}
	closed := func() {
		l.admin("PUT", path, network("enforce", policy))
		becomes(t, "closed", "refused", func() string {
			return map[bool]string{true: "refused"}[exec.Command("nft", "list", "table", "inet", "warder_switch").Run() == nil]
		})
	}
	var with, without, ratios []float64
	for i := range 20 { // pairs, each in the other order than the one before
		var a, b float64
		if i%2 == 0 {
			open()
			a = throughput(t, o)
		}
		closed()
		b = throughput(t, o)
		if i%2 == 1 {
			open()
			a = throughput(t, o)
		}
		without, with, ratios = append(without, a), append(with, b), append(ratios, b/a)
	}
	for _, list := range [][]float64{with, without, ratios} {
		slices.Sort(list)
	}
	t.Logf("through the tunnel: %.2f Gbit/s with the kill switch, %.2f without (medians); median of 20 ratios %.3f, its interval (95%%) %.3f to %.3f",
		with[10], without[10], (ratios[9]+ratios[10])/2, ratios[5], ratios[14])
}

// throughput is what iperf3 says of a connection through the tunnel, in Gbit/s.
func throughput(t *testing.T, o *platformtest.Outside) float64 {
	t.Helper()
	if out, err := o.Run("iperf3", "-s", "-1", "-D", "-B", platformtest.Server4); err != nil {
		t.Fatal(err, out)
	}
	var out []byte
	var err error
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		if out, err = exec.Command("iperf3", "-c", platformtest.Server4, "-t", "2", "-J").Output(); err == nil {
			break
		}
	}
	var got struct {
		End struct {
			Sum struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err != nil || json.Unmarshal(out, &got) != nil {
		t.Fatalf("iperf3: %v\n%s", err, out)
	}
	return got.End.Sum.Bits / 1e9
}
