//go:build linux

package laptop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEncryption: with real LUKS, LVM, md, btrfs and loop devices, the report changes when something is mounted for
// writing from a plain disk, and back when it no longer is.
func TestEncryption(t *testing.T) {
	parallel(t, 4)
	var args []string
	dir := t.TempDir()
	for _, d := range []string{"b", "c", "d", "e", "f"} {
		size := int64(64 << 20)
		if d == "b" || d == "e" || d == "f" {
			size = 192 << 20 // btrfs needs more
		}
		file := filepath.Join(dir, "vd"+d)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "file="+file+",if=virtio,format=raw,cache=unsafe")
	}
	whole := ready(t, Options{Args: args})
	whole.set(`{"policy_data":` + encrypted + `}`)
	contains(t, whole.finding("storage.encryption_required"),
		"noncompliant/detect_only: / (ext4) is not encrypted: vda is plain (path: vda)")
	// One file system can be left out for a time.
	end := whole.except("storage", "mount:/")
	contains(t, whole.sh("warder exception "+whole.code("storage", "mount:/srv/elsewhere")+" --mount /srv/elsewhere"), "/srv/elsewhere need not be encrypted until")
	whole.wait("it is left out", `warder status --json | grep -q 'an exception is in force for / (ext4)'`)
	contains(t, whole.finding("storage.encryption_required"), "compliant/detect_only: ")
	end()
	whole.wait("it counts again", `warder status --json | grep -q '/ (ext4) is not encrypted: vda is plain'`)

	// Everything writable moves onto an encrypted disk; the system's own disk is read-only from then on.
	whole.sh(luks("vdb", "enc1") +
		` && mkfs.ext4 -q /dev/mapper/enc1 && mkdir -p /srv/enc /run/a /run/b && mount /dev/mapper/enc1 /srv/enc`)
	whole.sh(
		`systemctl stop warder policy-server; for d in /srv/server /var/lib/warder /var/log /var/tmp /root; do mkdir -p /srv/enc$d; cp -a $d/. /srv/enc$d/; mount --bind /srv/enc$d $d; done
		mount -t tmpfs none /tmp; mkdir -p /run/systemd/journal; cp -a /etc/lvm /run/lvm-etc; mount --bind /run/lvm-etc /etc/lvm; systemctl restart systemd-journald; journalctl --relinquish-var 2>/dev/null
		for i in $(seq 50); do mount -o remount,ro / && break; sleep 0.2; done; grep ' / ' /proc/self/mountinfo | grep -q ' ro' || { fuser -vm / 2>&1 | head -40; ls -l /proc/*/fd 2>/dev/null | grep -v 'pipe\|socket\|anon\|/dev/\|/proc\|/sys\|/run\|/srv/enc' | tail -40; exit 1; }`)
	whole.sh(`systemd-run -q --unit=policy-server3 /host/warder-server serve --data /srv/server --listen 127.0.0.1:8443 --interval 30s`)
	whole.wait("the server is up", "curl -sk https://127.0.0.1:8443/healthz")
	whole.sh("systemctl start warder")
	says := func(r *rig, what, words string) {
		t.Helper()
		r.wait(what, `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"storage.encryption_required"' | grep -q '%s'`, words)
	}
	good := "file system(s) and swap(s) are encrypted"
	says(whole, "all is encrypted", good)
	t.Log(whole.finding("storage.encryption_required"))
	contains(t, whole.finding("storage.encryption_required"), "compliant/detect_only")
	for _, s := range Sabotages {
		if !s.Seen || s.Network || s.Desk || s.Screen {
			continue
		}
		t.Run(strings.ReplaceAll(s.Name, " ", "_"), func(t *testing.T) {
			r := &rig{whole.Laptop, t, whole.dir, whole.policy}
			defer func() {
				if t.Failed() {
					r.try("( %s ) 2>/dev/null", s.Undo)
				}
			}()
			r.seen(s, "storage.encryption_required")
			contains(t, r.finding("storage.encryption_required"), "noncompliant/detect_only")
			r.sh("( %s ) >/tmp/undo.log 2>&1 || { cat /tmp/undo.log; exit 1; }", s.Undo)
			says(r, "undone", good)
		})
	}
	t.Run("server", func(t *testing.T) {
		r := &rig{whole.Laptop, t, whole.dir, whole.policy}
		for _, mode := range []string{"warn", "monitor", "enforce"} {
			r.set(fmt.Sprintf(`{"compliance":%q,"policy_data":%s}`, mode, encrypted))
			contains(t, r.finding("storage.encryption_required"), "compliant/detect_only")
		}
		r.wait("the server has the evidence",
			`curl -sk -H "Authorization: Bearer $(cat /root/token)" %s/devices/$(warder status --json | sed -n 's/.*"device_id": `+
				`"\(.*\)".*/\1/p') | grep -q 'crypt aes-xts-plain64'`, api)
	})
}
