//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
)

// testTaken: where the kernel takes no programs, files that are too large are taken off external disks once they were written, and
// nothing of them is lost.
func testTaken(t *testing.T, r *rig) {
	defer r.withoutPrograms()()
	r.made("vfat", "/dev/mmcblk0p1", "/run/card")
	r.made("ntfs", "$(sh /root/nv outside-1)", "/run/nv")
	r.set(`{"compliance":"monitor","policy_data":{"storage":{"max_file_size_mb":1}}}`)
	r.sh("cp /run/card/before /run/card/open/watched; sleep 3; cmp /run/card/before /run/card/open/watched && rm /run/card/open/watched; ! test -e /var/lib/warder/quarantine")
	r.set(oneMiB)
	r.wait("what is written is watched", "warder status --json | grep -q 'files of more than 1048576 bytes are taken off 2 external disk(s)'")
	contains(t, r.finding(sizes), "compliant/partial: ")
	r.sh("head -c 3M /dev/urandom >/srv/three; head -c 1M /srv/three >/srv/one; cp /srv/three /srv/one /run/nv/open")
	r.sh(nobody + "sh -c 'cp /srv/three /run/card/open/.part; mv /run/card/open/.part /run/card/open/secret.film; cp /srv/one /run/card/open'") // as browsers and file managers do
	r.wait("they are taken", "! test -s /run/card/open/secret.film && ! test -s /run/nv/open/three && test $(ls /var/lib/warder/quarantine | wc -l) = 2")
	r.sh("cmp /srv/one /run/card/open/one && cmp /srv/one /run/nv/open/one && test -e /run/card/before -a -e /run/nv/before")
	contains(t, r.finding(sizes), "compliant/partial: ")
	r.told("denied", "is in quarantine as")
	if out := r.sh("warder events --json"); strings.Contains(out, "secret") {
		t.Errorf("the events: %.2000s", out)
	}
	list := r.sh("warder quarantine list")
	containsAll(t, list, "secret.film", "3145728", "/run/nv/open/three", "it has 3145728 bytes, and files on external disks may have 1048576")
	if out := r.try(nobody + "sh -c 'warder quarantine list; ls /var/lib/warder/quarantine'"); out.Code == 0 || !strings.Contains(out.Err, "needs root") || !strings.Contains(out.Err, "Permission denied") {
		t.Errorf("as a user: %+v", out)
	}
	r.sh(`for id in $(warder quarantine list --json | sed -n 's/.*"id": "\(.*\)".*/\1/p'); do warder quarantine release $id --to /root/back.$id && cmp /srv/three /root/back.$id || exit 1; done; warder quarantine list | grep -q empty; rm /root/back.*`)
	// The user is told by the paths, if the policy says so.
	r.set(`{"policy_data":{"storage":{"max_file_size_mb":1,"event_paths":"plain"}}}`)
	r.wait("what is written is watched", "warder status --json | grep -q 'are taken off 2 external disk(s)'")
	r.sh("cp /srv/three /run/card/open/named.film")
	r.told("denied", "wrote file .*/run/card/open/named.film.*, 3145728 bytes")
	r.wait("it is taken", "! test -s /run/card/open/named.film && warder quarantine purge --older-than 0s && warder quarantine list | grep -q empty")
	// The agent is killed in the middle: a file is whole, on the disk or in the quarantine.
	for i := range kills(3) {
		r.sh(fmt.Sprintf("cp /srv/three /run/card/open/k%d; sleep 0.0%d; systemctl kill -s KILL warder; sync", i, 3*i%10))
		r.wait("the agent is back", "systemctl is-active warder && warder status --json | grep -q 'are taken off 2 external disk(s)'")
		r.sh(fmt.Sprintf("test -s /run/card/open/k%d || test -s /var/lib/warder/quarantine/*/file", i))
		r.sh(fmt.Sprintf("if test -s /run/card/open/k%d; then cmp /srv/three /run/card/open/k%d; rm /run/card/open/k%d; else cmp /srv/three /var/lib/warder/quarantine/*/file; fi && ! ls -d /var/lib/warder/quarantine/.new-* 2>/dev/null; warder quarantine purge --older-than 0s", i, i, i))
	}
	r.sh("unmount /run/card; unmount /run/nv") // nothing of the agent's keeps them
	r.set(`{"policy_data":{}}`)
	r.made("vfat", "/dev/mmcblk0p1", "/run/card")
	r.sh("cp /srv/three /run/card/open; sleep 2; cmp /srv/three /run/card/open/three; unmount /run/card; warder quarantine list | grep -q empty")
}
