//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
)

const (
	// canary is what nobody may find anywhere but in the documents themselves.
	canary = "CANARY-7183-quince"
	looked = `{"compliance":"%s","policy_data":{"dlp":{"sensitive_data_patterns":["BEGIN [A-Z]{1,20} PRIVATE KEY"],"patterns":[` +
		`{"name":"project","regex":"CANARY-[0-9]{4}-[a-z]{3,10}"},{"name":"card","regex":"\\b(?:[0-9]{4}[ -]?){3}[0-9]{4}\\b","validator":"luhn","min_count":2}]%s}}}`
	lookedInto = `warder status --json | grep -q 'looked for in what is written to %d external disk(s) and %d sync folder(s)'`
	ann        = "setpriv --reuid 2001 --regid 2001 --clear-groups env HOME=/home/ann "
	bob        = "setpriv --reuid 2002 --regid 2002 --clear-groups env HOME=/home/bob "
	// here finds files that have it, but for the directory of documents.
	here = "grep -rl " + canary + " /run/stick /home/ann/Nextcloud /home/bob/Dropbox 2>/dev/null"
)

// Files with sensitive data leave this machine neither on a stick nor by a sync client, whoever writes them and however; nothing is
// lost, nothing is kept twice, and nobody is told what is in them.
func TestSensitive(t *testing.T) {
	parallel(t, 6)
	r := ready(t, Options{Single: true})
	for _, u := range []string{"ann 2001", "bob 2002"} {
		name, uid, _ := strings.Cut(u, " ")
		r.sh("useradd -m -u %[2]s -s /bin/bash %[1]s", name, uid)
	}
	r.sh(`mkdir -p /home/ann/Nextcloud/deep /home/ann/.config/Nextcloud /home/bob/Dropbox /home/bob/.dropbox /srv/docs; printf '[Accounts]\n0\\Folders\\1\\localPath=/home/ann/Nextcloud/\n' >/home/ann/.config/Nextcloud/nextcloud.cfg
printf '{"personal":{"path":"/home/bob/Dropbox"}}' >/home/bob/.dropbox/info.json; chown -R ann: /home/ann; chown -R bob: /home/bob
cd /srv/docs; echo "of %[1]s" >text; echo "4111 1111 1111 1111" >one; printf '4111 1111 1111 1111\n5500-0000-0000-0004\n' >cards; printf -- '-----BEGIN RSA PRIVATE KEY-----\nx\n' >key; echo harmless >harmless
python3 - <<'E'
import zipfile, tarfile, gzip, io
def docx(name, text):
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("[Content_Types].xml", '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>')
        z.writestr("word/document.xml", '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>%%s</w:t></w:r></w:p></w:body></w:document>' %% text)
docx("docx", "of %[1]s")
with zipfile.ZipFile("zip", "w", zipfile.ZIP_DEFLATED) as z: z.write("docx", "a.docx")
open("gz", "wb").write(gzip.compress(b"of %[1]s"))
open("utf16", "wb").write("of %[1]s".encode("utf-16"))
with zipfile.ZipFile("bomb", "w", zipfile.ZIP_DEFLATED) as z:
    for i in range(3): z.writestr("b%%d" %% i, b"0" * (8 << 20))
data, name = b"harmless", "t"
for i in range(30):
    b = io.BytesIO()
    with zipfile.ZipFile(b, "w", zipfile.ZIP_DEFLATED) as z: z.writestr(name, data)
    data, name = b.getvalue(), "n.zip"
open("nested", "wb").write(data)
with zipfile.ZipFile("sealed", "w") as z: z.writestr("t", "harmless")
b = bytearray(open("sealed", "rb").read())
for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)): b[b.find(mark) + at] |= 1  # encrypted, it says
open("sealed", "wb").write(b)
open("xref", "wb").write(b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 1 0 R/Kids[1 0 R]>>endobj\nxref\n0 99999999\n" + b"1 0 obj<</Length 99999999999>>stream\n" * 50 + b"startxref\n-7\n%%%%EOF\n")
E
truncate -s 10G sparse; chmod 755 /srv/docs; chmod 644 /srv/docs/*`, canary)
	r.medium("a", 64)
	r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1"})
	r.authorized("2-1", "1")
	r.wait("the stick is there", "test -b /dev/sda")
	stick := func() { r.sh("mkdir -p /run/stick; mount -o umask=0 /dev/sda /run/stick") }
	stick()

	memory := `grep -E 'VmRSS|RssAnon' /proc/$(systemctl show -P MainPID warder)/status`
	t.Log("the agent without patterns:", r.sh(memory))
	// Below enforce nothing is written and nobody waits; it is told.
	for _, mode := range []string{"monitor", "warn"} {
		r.set(fmt.Sprintf(looked, mode, ""))
		r.wait("it is looked for", lookedInto, 1, 2)
		r.sh(ann+"sh -c 'cp /srv/docs/text /run/stick/%[1]s; cp /srv/docs/text /home/ann/Nextcloud/%[1]s; cat /run/stick/%[1]s /home/ann/Nextcloud/%[1]s'", mode)
		r.wait("both are told", `test "$(warder events --last 50 --json | grep '"would_deny"' | grep '"mode":"%s"' | grep -c 'project (1)')" = 2`, mode)
		r.sh(`test "$(warder quarantine list --json | grep -c '"id"')" = 0 && test "$(cat /run/stick/%[1]s)" = "of %[2]s"; rm /run/stick/* /home/ann/Nextcloud/%[1]s`, mode, canary)
		containsAll(t, r.sh("warder explain dlp sensitive"), "WOULD DENY", "in "+mode+" mode")
		contains(t, r.sh(nobody+"warder explain dlp sensitive"), "ALLOW")
	}

	r.set(fmt.Sprintf(looked, "enforce", ""))
	r.wait("it is looked for", lookedInto+" && warder status --json | grep -q Hyperscan", 1, 2)
	t.Log(r.finding("dlp.patterns"))
	t.Log("with them:", r.sh(memory))
	containsAll(t, r.sh("warder explain dlp sensitive"), "DENY", "3 pattern(s)", "project, card", `grant an exception for "sensitive"`)
	n := 0
	taken := func(what string, more int) {
		t.Helper()
		n += more
		r.wait(what, `test "$(warder quarantine list --json | grep -c '"id"')" = %d && ! %s`, n, here)
	}
	for _, doc := range []string{"text", "docx", "zip", "gz", "utf16", "cards", "key"} {
		r.sh(ann+"sh -c 'cp /srv/docs/%[1]s /run/stick/%[1]s; cp /srv/docs/%[1]s /home/ann/Nextcloud/deep/%[1]s'", doc)
		taken(doc+" is taken", 2)
		r.sh("test ! -s /run/stick/%[1]s && test ! -s /home/ann/Nextcloud/deep/%[1]s", doc)
	}
	// Below the count, and what is harmless, stays; so does what hurts who reads it.
	r.sh(ann + "sh -c 'cd /srv/docs; cp one harmless bomb nested xref sealed /run/stick; cp one harmless bomb nested xref sparse /home/ann/Nextcloud'")
	r.wait("all are looked into", `warder check-in >/dev/null; ! warder status --json | grep -q 'wait to be looked into'; cmp /srv/docs/one /run/stick/one && cmp /srv/docs/bomb /run/stick/bomb && cmp /srv/docs/nested /run/stick/nested && cmp /srv/docs/xref /run/stick/xref && cmp /srv/docs/harmless /home/ann/Nextcloud/harmless`)
	taken("nothing more", 0)
	for _, why := range []string{"encrypted", "archives inside archives, more than three deep"} {
		r.wait("what was not read is told", `warder events --last 50 --json | grep -q 'parts of it were not read: [a-z,; -]*%s'`, why)
	}
	// Who opens it at once does not get it: a sync client that hears of it when we do.
	r.sh(bob + `sh -c 'for i in 1 2 3 4 5 6 7 8; do cp /srv/docs/text /home/bob/Dropbox/at$i; cat /home/bob/Dropbox/at$i; done' 2>/dev/null | grep -c ` + canary + ` | grep -qx 0`)
	taken("bob's are taken", 8)
	r.sh(bob + `sh -c 'cp /srv/docs/text ~/t; mv ~/t ~/Dropbox/moved; cat ~/Dropbox/moved; mkdir ~/d; cp /srv/docs/docx ~/d; mv ~/d ~/Dropbox/d; cp /srv/docs/text ~/own; ln ~/own ~/Dropbox/link; true' 2>/dev/null`)
	r.wait("what was moved there is taken", `test "$(warder quarantine list --json | grep -c '"id"')" = %d && ! %s`, n+3, here)
	n += 3
	r.sh("grep -q %s /home/bob/own && test ! -e /home/bob/Dropbox/link", canary)

	// Given back, it is whole, and its owner's.
	r.sh(`id=$(warder quarantine list --json | grep -B1 '"path": "/home/ann/Nextcloud/deep/docx"' | sed -n 's/.*"id": "\(.*\)".*/\1/p'); warder quarantine release $id --to /home/ann/back >/dev/null; cmp /home/ann/back /srv/docs/docx; test "$(stat -c %%U /home/ann/back)" = ann; rm /home/ann/back`)
	n--

	// The program that looks is killed, stopped, and killed while it looks: nothing passes for that.
	for i, do := range []string{"pkill -KILL -f '^warder-scan child'; true", "pkill -STOP -f '^warder-scan child'; true", "(for i in $(seq 40); do pkill -KILL -f '^warder-scan child'; sleep 0.05; done) >/dev/null 2>&1 &"} {
		r.sh(do)
		r.sh(ann+"sh -c 'cp /srv/docs/text /run/stick/k%d'", i)
		if i == 2 { // it may be let through, as scan_timeout says, and is told of then
			r.sh("sleep 4; pkill -KILL -f '^warder-scan child'; true")
			r.wait("it is taken or told", `! `+here+` || warder events --last 20 --json | grep -q 'could not be looked into in time'`)
			r.sh("rm -f /run/stick/k2; sleep 3")
			n = int(r.number(`warder quarantine list --json | grep -c '"id"'`))
			continue
		}
		taken(do, 1)
	}

	// With dlp.scan_timeout deny nobody opens what could not be looked into; it is there again as soon as it was.
	r.set(fmt.Sprintf(looked, "enforce", `,"scan_timeout":"deny"`))
	r.wait("it is looked for", lookedInto, 1, 2)
	r.sh("mount --bind /bin/false /usr/lib/warder/warder-scan; pkill -KILL -f '^warder-scan child'; true")
	for _, place := range []string{"/run/stick", "/home/ann/Nextcloud"} {
		r.sh(ann+"sh -c 'cp /srv/docs/harmless %[1]s/late; ! cat %[1]s/late 2>/dev/null'", place)
	}
	r.wait("both are held", `test "$(warder events --last 20 --json | grep 'it may not be opened until then' | grep -c '"denied"')" -ge 2`)
	t.Log(r.finding("dlp.scan_timeout"))
	r.sh("umount /usr/lib/warder/warder-scan")
	r.wait("they are looked into again", ann+"cmp /srv/docs/harmless /run/stick/late && cmp /srv/docs/harmless /home/ann/Nextcloud/late")
	r.set(fmt.Sprintf(looked, "enforce", ""))
	r.wait("it is looked for", lookedInto, 1, 2)

	// The agent is killed again and again while files come: nothing is lost, and nothing is kept twice.
	r.sh(ann + `sh -c 'mkdir -p /run/stick/many; for i in $(seq 30); do cp /srv/docs/text /run/stick/many/f$i; cp /srv/docs/text /home/ann/Nextcloud/f$i; sleep 0.2; done' >/dev/null 2>&1 &
for i in 1 2 3 4; do sleep 1.5; systemctl kill -s KILL warder; done; wait`)
	r.wait("the agent is back", "warder status >/dev/null")
	taken("all are taken once", 60)

	// A stick that is pulled off and comes back, and one that was written elsewhere: what was there before stays.
	r.sh("umount /run/stick")
	r.unplug("s1")
	r.gone("2-1")
	r.wait("it is known", lookedInto, 0, 2)
	r.plug("usb-storage", "s2", map[string]any{"drive": "a", "port": "1"})
	r.wait("the stick is there", "test -b /dev/sda")
	stick()
	r.wait("it is looked into", lookedInto, 1, 2)
	r.sh(ann + "cp /srv/docs/text /run/stick/again")
	taken("it is taken", 1)

	// An exception: by code, and by the server.
	contains(t, r.sh("warder exception "+r.code("dlp", "sensitive")+" --sensitive"), "Sensitive data may be used everywhere until ")
	r.sh(ann+"cp /srv/docs/text /run/stick/free; sleep 1; test \"$(cat /run/stick/free)\" = \"of %s\"; rm /run/stick/free", canary)
	containsAll(t, r.sh("warder explain dlp sensitive"), "ALLOW", "an exception for sensitive data is in force")
	taken("nothing more", 0)

	// What it cost, and who may know what: nobody but the documents has it.
	t.Log(r.sh("systemctl show -P MemoryCurrent warder; grep -E 'VmRSS|RssAnon' /proc/$(systemctl show -P MainPID warder)/status; for p in $(pgrep -f '^warder-scan child'); do grep -E 'Name|VmRSS|Uid' /proc/$p/status; done"))
	r.sh(`warder check-in >/dev/null; sleep 2; systemctl kill -s ABRT warder; sleep 2; ! grep -rl %[1]s /var/lib/warder --include='*' --exclude-dir=quarantine && ! journalctl --no-pager | grep %[1]s && ! grep -rl %[1]s /run/warder /var/lib/systemd/coredump /srv/server* /root/server* 2>/dev/null | grep .`, canary)
	r.sh(`D=$(warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p'); ! curl -sk -H "Authorization: Bearer $(cat /root/token)" "%s/devices/$D/events?page_size=500" | grep %s`, api, canary)
	r.sh("dpkg -r warder >/dev/null 2>&1; ls /var/lib/warder/quarantine | grep -q .")
}

// number is what a script prints.
func (r *rig) number(script string) (n int64) {
	r.t.Helper()
	if _, err := fmt.Sscan(r.sh(script), &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}
