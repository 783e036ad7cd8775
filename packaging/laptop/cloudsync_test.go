//go:build linux

package laptop

import (
	"strings"
	"testing"
)

const (
	noSync   = `{"policy_data":{"storage":{"cloud_sync_allowed":false}}}`
	syncless = "test ! -e /sys/fs/bpf/warder/cloudsync"
	// syncs tries to start known clients in every way, and prints those in which they start. $1 is a directory that the user may
	// write to.
	syncs = `d=$1; cd $d; ld=$(ls /lib64/ld-linux-x86-64.so.2)
try() { name=$1; shift; "$@" >$d/out 2>&1 </dev/null; if grep -Eq 'rclone v|onedrive v|insync runs' $d/out; then echo "started: $name"; elif ! grep -Eiq 'not permitted|failed to map segment|203/EXEC' $d/out; then echo "failed otherwise: $name: $(head -c 200 $d/out)"; fi; }
try rclone rclone version
try onedrive onedrive --version
try "its path" /usr/bin/rclone version
try "a link" sh -c 'ln -sf /usr/bin/rclone l; ./l version'
try "a copy" sh -c 'cp /usr/bin/onedrive c; ./c --version'
try "a copy of its name" sh -c 'mkdir -p n; cp /usr/bin/onedrive n/onedrive; n/onedrive --version'
try "memory" /host/attacker memfd /usr/bin/onedrive --version
try "its descriptor" sh -c 'exec 3</usr/bin/rclone; /proc/self/fd/3 version'
try "the loader" $ld /usr/bin/onedrive --version
try "the loader, with a copy of its name" $ld n/onedrive --version
try "a mount under another name" unshare -Urm sh -c 'touch m; mount --bind /usr/bin/rclone m; ./m version'
try "another root" unshare -Ur sh -c 'chroot / rclone version'
try "a layer" unshare -Urm sh -c 'mkdir -p up work all; mount -t overlay -o lowerdir=/usr/bin,upperdir=up,workdir=work none all && cp all/onedrive all/other && all/other --version'
try "a script" sh -c 'printf "#!/bin/sh\necho insync runs\n" >insync; chmod 755 insync; ./insync'
try "an image" sh -c 'printf "#!/bin/sh\necho insync runs\n" >Nextcloud-9.AppImage; chmod 755 Nextcloud-9.AppImage; ./Nextcloud-9.AppImage'
test $(id -u) != 0 || try systemd sh -c 'systemd-run -q --wait --pipe rclone version; test $? != 203 || echo 203/EXEC'
# What only resembles them.
echo echo fine >rclone-notes; sh rclone-notes | grep -q fine || echo "a harmless script is refused"
printf '#!/bin/sh\necho fine\n' >my-dropbox; chmod 755 my-dropbox; ./my-dropbox | grep -q fine || echo "a harmless program is refused"
cp /bin/true Nextcloud && ./Nextcloud || echo "a name that is only like one is refused"
true`
	waysToSync = 15 // as nobody; root has systemd, too
)

// started lists the ways in which clients start.
func (r *rig) started(as string) string {
	r.t.Helper()
	return strings.TrimSpace(r.sh("d=$(mktemp -d -p /var/tmp); chmod 777 $d; %s sh /srv/starts $d; rm -rf $d", as))
}

// testCloudSync: known sync clients cannot start, and those that run are stopped.
func testCloudSync(t *testing.T, r *rig, first bool) {
	r.sh("cat >/srv/starts <<'E'\n%s\nE", syncs)
	r.set(`{"policy_data":{}}`)
	for as, n := range map[string]int{"": waysToSync + 1, nobody: waysToSync} {
		if out := r.started(as); strings.Count(out, "started: ") != n {
			t.Fatalf("without a policy they start by (%s): %s", as, out)
		}
	}
	// Two run when the policy comes; one does not want to stop. And a program that somebody has put under a client's name.
	r.sh(`ln -f /bin/true /usr/local/bin/onedrive; touch /usr/local/bin/megasync; mount --bind /bin/dash /usr/local/bin/megasync; printf '#!/bin/bash\ntrap "" TERM; while :; do sleep 1; done\n' >/usr/local/bin/insync; chmod 755 /usr/local/bin/insync
setpriv --reuid 65534 --clear-groups rclone rcd --rc-no-auth >/dev/null 2>&1 & /usr/local/bin/insync >/dev/null 2>&1 & sleep 1; pidof rclone`)
	if first {
		for _, mode := range []string{"monitor", "warn"} {
			r.set(strings.Replace(noSync, "{", `{"compliance":"`+mode+`",`, 1))
			r.told("would_deny", "rclone")
			r.sh(syncless + " && pidof rclone && pgrep -x insync")
			if got := r.finding("storage.cloud_sync_allowed"); !strings.HasPrefix(got, "noncompliant/observed: ") || !strings.Contains(got, " runs (program ") {
				t.Errorf("%s: %s", mode, got)
			}
		}
	}
	r.set(noSync)
	r.wait("what ran has stopped", "! pidof rclone && ! pgrep -x insync")
	r.told("denied", "was asked to stop")
	r.told("denied", "did not stop within 10s")
	r.wait("it is compliant", "warder status | grep cloud_sync_allowed | grep -q compliant && ! warder status | grep cloud_sync_allowed | grep -q noncompliant")
	t.Log(r.finding("storage.cloud_sync_allowed"))
	for _, as := range []string{"", nobody} {
		if out := r.started(as); out != "" {
			t.Errorf("it is refused, and (%s): %s", as, out)
		}
	}
	r.told("denied", "tried to start rclone")
	r.told("denied", "a copy of it under another name")
	r.told("denied", "without starting it")
	r.sh("/bin/true && /bin/dash -c true && unmount /usr/local/bin/megasync && rm /usr/local/bin/onedrive /usr/local/bin/insync /usr/local/bin/megasync") // not refused, although they had clients' names, too
	// What is not seen is in the finding.
	out := r.sh(`cp /usr/bin/onedrive /var/tmp/x; printf x >>/var/tmp/x; /var/tmp/x --version; rm /var/tmp/x`)
	contains(t, out, "onedrive v")
	contains(t, r.finding("storage.cloud_sync_allowed"), "a program that was changed and renamed")
	containsAll(t, r.sh("warder explain storage --client rclone"), "DENY", "storage.cloud_sync_allowed is false", "client:rclone", "it does not run")
	containsAll(t, r.sh("warder explain storage --client gedit"), "ALLOW", "none of the clients that are known")

	// Exceptions.
	end := r.except("storage", "client:rclone")
	r.wait("rclone starts", "rclone version")
	r.sh("! onedrive --version")
	end()
	r.wait("it does not any more", "! rclone version")
	contains(t, r.sh("warder exception "+r.code("storage", "client:onedrive")), "client:onedrive may be used until")
	r.wait("onedrive starts", "onedrive --version")
	r.sh("! rclone version")

	if first {
		// Killed, and changed by others: there is no moment in which one starts.
		r.sh(`(while :; do rclone version >/dev/null 2>&1 && echo started >>/run/never; sleep 0.05; done) >/dev/null 2>&1 & echo $! >/run/tries; rm -f /run/never`)
		kills := 3 // TestMedia kills the agent elsewhere, too
		if soak() {
			kills = 200
		}
		for i := range kills {
			r.change([]string{noSync, strings.Replace(noSync, "false", `false,"max_file_size_mb":1`, 1)}[i%2])
			r.sh("sleep 0.%d; systemctl kill -s KILL warder", i%10)
			r.wait("the agent is back", "systemctl is-active -q warder")
		}
		r.set(noSync)
		r.sh("rm /sys/fs/bpf/warder/cloudsync/link_cloud_exec")
		r.wait("mended", "test -e /sys/fs/bpf/warder/cloudsync/link_cloud_exec")
		r.told("drift", "cloudsync/clients")
		r.sh("systemctl kill -s STOP warder; sleep 1; systemctl kill -s CONT warder")
		r.sh(`kill $(cat /run/tries); if test -s /run/never; then wc -l /run/never; exit 1; fi`)
	}
	r.set(`{"policy_data":{}}`)
	r.wait("clients start again", syncless+" && rclone version")
}
