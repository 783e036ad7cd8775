//go:build linux

package laptop

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// packageLife: an upgrade with a stick plugged in while the agent runs, and a removal, after which every default equals
// a fresh boot and nothing of ours is left.
func packageLife(t *testing.T, whole *rig) {
	r := &rig{whole.Laptop, t, t.TempDir(), whole.policy}
	r.medium("up", 16)
	r.plug("usb-storage", "s1", map[string]any{"drive": "up", "port": "2"})
	r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-2")
	r.authorized("2-2", "0")

	t.Log(r.sh("systemd-analyze security warder.service --no-pager | tail -n 1"))
	directives(t, r)

	// During the upgrade, the stick must not be let in for a moment.
	r.sh(
		`(while :; do cat /sys/bus/usb/devices/2-2/authorized /sys/bus/usb/devices/usb2/authorized_default; sleep 0.01; done >/tmp/watch.log) & echo $! >/tmp/watch.pid
		dpkg -i /host/warder-next.deb; kill $(cat /tmp/watch.pid)`)
	r.wait("the new version runs", `warder status --json | grep -q '"version": "0.1.0.1"\|"agent": "running"'`)
	if n := r.sh("grep -c 1 /tmp/watch.log || true"); n != "0" {
		t.Errorf("%s times during the upgrade the stick or its bus was open", n)
	}
	r.authorized("2-2", "0")
	if r.sh("ls /run/warder/keep 2>/dev/null || true") != "" {
		t.Error("the mark of the upgrade is left")
	}

	// SIGKILL: the ports stay closed to what was not allowed, and the service is back within seconds.
	p := r.sh("systemctl show -P MainPID warder")
	r.sh("kill -9 %s; cat /sys/bus/usb/devices/usb2/authorized_default | grep -q 0", p)
	r.wait("it is back", `test "$(systemctl show -P MainPID warder)" != %s && systemctl is-active -q warder`, p)
	r.authorized("2-2", "0")

	// A dead agent, and "warder revert": status and explain answer from what it left.
	r.sh("systemctl kill -s KILL warder; systemctl mask --runtime -q warder; systemctl kill -s KILL warder 2>/dev/null; sleep 2; true")
	if res := r.try("warder status"); res.Code != 3 || !strings.Contains(res.Out, "dead") {
		t.Errorf("status of a dead agent: exit %d: %s %s", res.Code, res.Out, res.Err)
	}
	contains(t, r.sh("warder explain usb --port 2-2"), "no agent runs")
	r.sh("warder revert --for 1h --reason 'ticket 4711'")
	r.authorized("2-2", "1")
	if got := r.defaults(); got != fresh {
		t.Errorf("after revert the defaults are %q, fresh they are %q", got, fresh)
	}
	r.sh("systemctl unmask --runtime -q warder; systemctl start warder")
	if res := r.try("warder status"); res.Code != 2 || !strings.Contains(res.Out, "ticket 4711") {
		t.Errorf("status of a suspended agent: exit %d: %s", res.Code, res.Out)
	}
	r.authorized("2-2", "1")
	r.sh("warder revert --lift")
	r.authorized("2-2", "0")

	// The last resort: if the program cannot start, it opens the inputs, and only those.
	r.plug("usb-tablet", "m1", map[string]any{"port": "3"})
	r.wait("the tablet is there", "ls -d /sys/bus/usb/devices/1-3")
	r.authorized("1-3", "0")
	r.sh("mv /usr/bin/warder /usr/bin/warder.good; printf '#!/bin/sh\nexit 1\n' >/usr/bin/warder; chmod +x /usr/bin/warder; systemctl " +
		"kill -s KILL warder")
	r.authorized("1-3", "1")
	r.authorized("2-2", "0")
	r.wait("it says so", "journalctl -t warder --no-pager | grep -q 'last resort'")
	r.sh("systemctl stop warder; mv /usr/bin/warder.good /usr/bin/warder; systemctl start warder")
	r.authorized("1-3", "0")

	r.sh("dpkg -r warder")
	if got := r.defaults(); got != fresh {
		t.Errorf("after removal the defaults are %q, fresh they are %q", got, fresh)
	}
	r.authorized("2-2", "1")
	r.authorized("1-3", "1")
	r.sh("dpkg -P warder")
	if left := r.sh(`ls -d /run/warder /var/lib/warder /etc/warder /usr/bin/warder /usr/lib/warder /lib/systemd/system/warder* ` +
		`/etc/systemd/system/*/warder* 2>/dev/null || true; systemctl list-units --all --no-legend 'warder*' | grep -v ' ` +
		`not-found ' || true`); left != "" {
		t.Errorf("left after purge: %s", left)
	}
}

// serverPackage is the server's own package: a confined service that runs as its own user, the administrator's commands
// beside it, an upgrade over it, and a removal that keeps the keys.
func serverPackage(t *testing.T, whole *rig) {
	r := &rig{whole.Laptop, t, t.TempDir(), whole.policy}
	r.sh("dpkg -i /host/warder-server.deb")
	if got := r.try("systemctl is-active warder-server"); strings.TrimSpace(got.Out) != "inactive" {
		t.Errorf("a new server is %s before anybody has chosen its address", got.Out)
	}
	r.sh(`sed -i 's/^OPTIONS=.*/OPTIONS="--listen 127.0.0.1:7443 --name policy.example.com"/' /etc/default/warder-server; systemctl ` +
		`enable -q --now warder-server`)
	contains(t, r.sh("runuser -u warder-server -- warder-server policy list"), "Default Security Policy")
	contains(t, r.sh("warder-server api GET /compliance"), `"devices": 0`) // root may, too
	t.Log(r.sh("systemd-analyze security warder-server.service --no-pager | tail -n 1"))
	if got := r.sh(
		"stat -c '%U %a' /var/lib/warder-server /var/lib/warder-server/policy.key /var/lib/warder-server/server.db"); strings.Count(got,
		"warder-server ") != 3 || strings.Contains(got, "644") {
		t.Errorf("who owns what: %s", got)
	}
	if res := r.try("runuser -u nobody -- warder-server policy list"); res.Code == 0 ||
		!strings.Contains(res.Err, "can only be read by its owner") {
		t.Errorf("anybody may ask the server for its policies: %d %s %s", res.Code, res.Out, res.Err)
	}
	p := r.sh("systemctl show -P MainPID warder-server")
	r.sh("dpkg -i /host/warder-server-next.deb")
	r.wait("the next version serves",
		`test "$(systemctl show -P MainPID warder-server)" != %s && runuser -u warder-server -- warder-server policy list | grep -q Default`, p)
	contains(t,
		r.sh("man -w warder-server-policy-apply 2>/dev/null || ls /usr/share/man/man8/warder-server-policy-apply.8.gz 2>/dev/null || "+
			"dpkg -L warder-server"), "warder-server-policy-apply.8.gz")
	r.sh("dpkg -r warder-server")
	if got := strings.TrimSpace(r.try("systemctl is-active warder-server").Out); got != "inactive" {
		t.Errorf("after the removal it is %s", got)
	}
	r.sh("test -s /var/lib/warder-server/policy.key")
	contains(t, r.sh("dpkg -P warder-server"), "stays, with the keys")
	r.sh("test -s /var/lib/warder-server/policy.key; rm -r /var/lib/warder-server")
}

// fresh is what every kernel default of the laptop reads after a boot without Warder.
const fresh = "usb1 1\nusb2 1\nparam -1"

// directives compares the unit's hardening, as systemd understood it, with the exact list.
func directives(t *testing.T, r *rig) {
	t.Helper()
	want := map[string]string{
		"Type": "notify", "Restart": "always", "RestartUSec": "1s", "WatchdogUSec": "10min", "StartLimitIntervalUSec": "0",
		"OnFailure": "warder-last-resort.service", "NoNewPrivileges": "yes", "MemoryDenyWriteExecute": "yes", "LockPersonality": "yes",
		"RestrictRealtime": "yes", "RestrictSUIDSGID": "yes", "SystemCallArchitectures": "native",
		"RestrictAddressFamilies": "AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_UNIX",
		"MemoryMax":               "268435456", "TasksMax": "512", "OOMPolicy": "continue", "RestrictNamespaces": "yes",
		"StateDirectoryMode": "0700", "PrivateTmp": "no", "PrivateDevices": "no", "ProtectSystem": "no", "ProtectHome": "no",
		"ProtectKernelTunables": "no", "PrivateMounts": "no", "ReadWritePaths": "",
	}
	for name, w := range want {
		if got := r.sh("systemctl show -P %s warder", name); got != w {
			t.Errorf("%s=%q, want %q", name, got, w)
		}
	}
	// The unit's own list, which TestCapabilitiesHaveAReason holds against ATTACKSURFACE.md, must be what the service has.
	unit, err := os.ReadFile("../../platform/service/warder.service")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	list, _, _ = strings.Cut(list, "\n")
	asked := strings.Fields(strings.ToLower(list))
	got := strings.Fields(r.sh("systemctl show -P CapabilityBoundingSet warder"))
	slices.Sort(asked)
	slices.Sort(got)
	if len(got) == 0 || !slices.Equal(got, asked) {
		t.Errorf("the service's capabilities are %q, the unit asks for %q", got, asked)
	}
	if a, b := r.sh("readlink /proc/1/ns/mnt"), r.sh("readlink /proc/$(systemctl show -P MainPID warder)/ns/mnt"); a != b {
		t.Errorf("the service is in a mount namespace of its own: %s, the host's is %s", b, a)
	}
}
