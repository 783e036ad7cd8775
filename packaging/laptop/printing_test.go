//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
)

const (
	noPrinting = `{"policy_data":{"dlp":{"print_allowed":false}}}`
	printing   = "dlp.print_allowed"
	closedAll  = "warder status --json | grep -q '%d queue(s) take no jobs'"
	// queues are what the spooler says of its queues, without when that began.
	queues = `LC_ALL=C lpstat -a | sed 's/ since .*//' | sort; LC_ALL=C lpstat -l -p | sed 's/ since .*//; s/On fault.*//' | grep -v '^$'`
	job    = nobody + "sh -c 'echo %s | lp -d %s -'"
)

// spooler starts CUPS with one queue, "office", which prints into a file.
func (r *rig) spooler() {
	r.t.Helper()
	r.sh(`rm -f /etc/systemd/system/cups.*; systemctl daemon-reload; systemctl start cups.socket cups.path; mkdir -p /srv/kept
cat >/usr/lib/cups/backend/keep <<'E'
#!/bin/sh
[ $# = 0 ] && exit 0
cat ${6:+"$6"} >>"/srv/kept/${DEVICE_URI#keep:}"
E
cat >/usr/lib/cups/backend/tcp <<'E'
#!/usr/bin/python3
import os, socket, sys
if len(sys.argv) == 1: sys.exit(0)
host, port = os.environ["DEVICE_URI"][len("tcp:"):].split("/")
b = open(sys.argv[6], "rb").read() if len(sys.argv) > 6 else sys.stdin.buffer.read()
try:
    with socket.create_connection((host, int(port)), 10) as s: s.sendall(b)
except OSError as e:
    print("ERROR:", e, file=sys.stderr); sys.exit(1)
E
chmod 700 /usr/lib/cups/backend/keep /usr/lib/cups/backend/tcp; lpadmin -p office -E -v keep:office -m raw`)
}

// subscribe takes what subscriptions a spooler has (IPP: Create-Printer-Subscriptions, RFC 3995).
const subscribe = `import socket, struct
def attribute(tag, name, value): return bytes([tag]) + struct.pack(">H", len(name)) + name + struct.pack(">H", len(value)) + value
body = (b"\x02\x00" + struct.pack(">HI", 0x16, 1) + b"\x01" + attribute(0x47, b"attributes-charset", b"utf-8") + attribute(0x48, b"attributes-natural-language", b"en")
    + attribute(0x45, b"printer-uri", b"ipp://localhost/") + attribute(0x42, b"requesting-user-name", b"nobody")
    + b"\x06" + attribute(0x44, b"notify-events", b"printer-deleted") + attribute(0x44, b"notify-pull-method", b"ippget") + b"\x03")
for n in range(200):
    s = socket.socket(socket.AF_UNIX); s.connect("/run/cups/cups.sock")
    s.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/ipp\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = s.recv(65536).split(b"\r\n\r\n", 1)[-1] or s.recv(65536)
    if answer[2:4] != b"\x00\x00": break
else: raise SystemExit("it has no end of them")`

// Nobody prints, by the spooler or past it; what waits is not lost, and all of it is as before afterwards.
func TestPrinting(t *testing.T) {
	parallel(t, 6)
	r := ready(t, Options{Single: true})
	r.network()
	r.spooler()
	r.sh(`cat >/root/printer.py <<'E'
import socket
s = socket.create_server(("203.0.113.20", 9100))
while True:
    c, _ = s.accept()
    with c:
        while b := c.recv(65536): open("/srv/kept/net", "ab").write(b)
E
systemd-run -q --unit printer ip netns exec outside python3 /root/printer.py; lpadmin -p net -E -v tcp:203.0.113.20/9100 -m raw; lpadmin -p slow -E -v keep:slow -m raw; cupsdisable slow`)
	r.sh(job, "first", "office")
	r.sh(job, "first", "net")
	r.sh(job, "waits", "slow")
	r.wait("both print", "grep -q first /srv/kept/office && grep -q first /srv/kept/net")
	before := r.sh(queues)
	// A browser is a file of its name here; that one obeys, platform/browser tests with Debian's Chromium.
	r.sh("mkdir -p /opt/google/chrome; touch /opt/google/chrome/chrome; test ! -e /etc/opt/chrome")

	// Below enforce nothing is written.
	for _, mode := range []string{"monitor", "warn"} {
		r.set(strings.Replace(noPrinting, `{"policy_data"`, `{"compliance":"`+mode+`","policy_data"`, 1))
		r.wait("it is seen", "warder status --json | grep -q 'queue .* takes jobs'")
		if now := r.sh(queues); now != before {
			t.Errorf("in %s mode: %s, not %s", mode, now, before)
		}
		r.sh("test ! -e /etc/opt/chrome; ! nft list table inet warder_ports 2>/dev/null && ! grep -qs dbus: /etc/cups/subscriptions.conf")
		containsAll(t, r.sh("warder explain dlp print"), "WOULD DENY", "in "+mode+" mode")
		contains(t, r.sh(nobody+"warder explain dlp print"), "ALLOW")
		r.sh("! grep -rqs dbus: /etc/cups/subscriptions.conf /var/cache/cups /var/lib/cups")
		r.sh(job, mode, "office")
		r.wait("it prints", "grep -q "+mode+" /srv/kept/office")
	}

	r.set(noPrinting)
	r.wait("the queues are closed", closedAll, 3)
	t.Log(r.finding(printing))
	r.wait("a user's browser is told", "%sgrep -q '\"PrintingEnabled\": false' "+chromePolicies, nobody)
	for _, q := range []string{"office", "net", "slow"} {
		if out := r.try(job, "never", q); out.Code == 0 || !strings.Contains(out.Out+out.Err, "not accepting jobs") {
			t.Errorf("%s: %d %s %s", q, out.Code, out.Out, out.Err)
		}
	}
	containsAll(t, r.sh("lpstat -a"), "Your organization does not allow printing on this computer (Warder).")
	contains(t, r.sh("lpstat -o slow"), "slow-")
	for _, as := range []string{"", nobody} {
		if out := r.try(as + "bash -c 'exec 3<>/dev/tcp/203.0.113.20/9100'"); out.Code == 0 || !strings.Contains(out.Err, "refused") {
			t.Errorf("%sport 9100: %s", as, out.Err)
		}
	}
	r.sh("bash -c 'exec 3<>/dev/tcp/203.0.113.20/443'")
	containsAll(t, r.sh("warder explain dlp print"), "DENY", "dlp.print_allowed is false", `grant an exception for "print"`, "3 queue(s), 3 of them closed")
	containsAll(t, r.sh("warder explain dlp print slow"), "DENY", "queue slow", "takes no jobs, stopped, and says why; 1 job(s) in it")
	contains(t, r.sh(nobody+"warder explain dlp print"), "DENY")
	if out := r.try("warder explain dlp print none"); out.Code == 0 || !strings.Contains(out.Err, `the spooler has no queue "none"`) {
		t.Errorf("%d %s", out.Code, out.Err)
	}

	// A new queue is closed before anybody has found it. How much gets through if somebody prints in the same moment?
	t.Log("a queue is closed after (ms, ten of them):", r.sh(`for i in 0 1 2 3 4 5 6 7 8 9; do lpadmin -p new$i -E -v keep:new$i -m raw 2>/dev/null; b=$(date +%s%N); n=0; until LC_ALL=C lpstat -a new$i | grep -q 'not accepting'; do n=$((n+1)); test $n -lt 1000 || exit 1; done; echo $(( ($(date +%s%N) - b) / 1000000 )); done`))
	t.Log("of ten jobs in the moment in which their queue was added, so many were printed:", r.sh(`for i in 0 1 2 3 4 5 6 7 8 9; do lpadmin -p at$i -E -v keep:at$i -m raw 2>/dev/null; echo raced | lp -d at$i - >/dev/null 2>&1; done; sleep 3; ls /srv/kept | grep -c '^at'; true`))
	r.wait("all are closed", closedAll, 23)
	r.sh("for i in 0 1 2 3 4 5 6 7 8 9; do lpadmin -x new$i; lpadmin -x at$i; done")
	r.wait("three are left", closedAll, 3)

	// A user who takes all subscriptions of the spooler: it is asked then, and the finding says so.
	r.sh("cat >/tmp/subscribe.py <<'E'\n%s\nE\n%spython3 /tmp/subscribe.py; systemctl kill -s KILL warder", subscribe, nobody)
	r.wait("it is said", "warder status --json | grep -q 'the spooler does not tell of new queues'")
	t.Log("unheard, a queue is closed after (ms):", r.sh(`lpadmin -p unheard -E -v keep:unheard -m raw 2>/dev/null; b=$(date +%s%N); n=0; until LC_ALL=C lpstat -a unheard | grep -q 'not accepting'; do n=$((n+1)); test $n -lt 1000 || exit 1; done; echo $(( ($(date +%s%N) - b) / 1000000 ))`))
	r.sh("systemctl stop cups.path cups.socket cups.service; rm /etc/cups/subscriptions.conf*; systemctl start cups.socket cups.path cups.service; lpadmin -x unheard")
	r.wait("it tells again", "! warder status --json | grep -q 'the spooler does not tell of new queues' && grep -qs dbus: /etc/cups/subscriptions.conf")

	// Killed, and with the spooler stopped and started, they stay closed. A spooler that has ended is not started by a look.
	r.sh("systemctl kill -s KILL warder; systemctl restart cups.service; for i in 1 2 3 4 5; do if echo never | lp -d office - 2>/dev/null; then exit 1; fi; sleep 0.2; done")
	r.wait("the agent is back", closedAll, 3)
	// Stopped, with looks while nothing listens: that there is no spooler for a moment is no reason to forget what was before.
	r.sh("systemctl stop cups.path cups.service; test ! -e /run/cups/cups.sock; warder check-in >/dev/null; sleep 3; warder status --json | grep -q '3 queue(s) take no jobs' && warder ledger | grep -c printing.queue | grep -qx 3; systemctl start cups.socket cups.path; systemctl restart cups.service; sleep 1")
	r.wait("they are closed still", closedAll, 3)
	// Killed is how it ends when it is idle; while jobs wait, cups.path starts it again. A look that was asking it just then leaves its
	// connection in the socket's queue, and starts it once more: until it stays ended.
	r.sh("systemctl stop cups.path")
	r.wait("the spooler has ended", "systemctl kill -s TERM cups.service; sleep 5; ! systemctl is-active -q cups.service && systemctl is-active -q cups.socket")
	r.sh("warder check-in >/dev/null; sleep 5; warder check-in >/dev/null")
	r.wait("it is known without it", closedAll, 3)
	r.sh("if systemctl is-active cups.service; then journalctl -u cups -u cups.socket -n 20 --no-pager; exit 1; fi; systemctl start cups.path")

	// An exception: by code, and by the server.
	contains(t, r.sh("warder exception "+r.code("dlp", "print")+" --print"), "This computer may print until ")
	r.wait("they are open", "echo code | lp -d office - && grep -q code /srv/kept/office")
	if now := r.sh(queues); now != before {
		t.Errorf("with an exception: %s, not %s", now, before)
	}
	containsAll(t, r.sh("warder explain dlp print"), "ALLOW", "an exception for printing is in force")
	r.wait("the browser may, too", "test ! -e /etc/opt/chrome")
	r.set(`{"policy_data":{}}`)
	r.wait("the way to the printer is open", "bash -c 'exec 3<>/dev/tcp/203.0.113.20/9100'")

	r.printsSensitive()
	r.set(`{"policy_data":{}}`)

	// What waited is printed when it can be, and nothing of us is left.
	r.sh("cupsenable slow")
	r.wait("what waited is printed", "grep -q waits /srv/kept/slow")
	r.sh("cupsdisable slow; ! grep -rq never /srv/kept")
	r.sh("dpkg -r warder >/dev/null 2>&1")
	if now := r.sh(queues); now != before {
		t.Errorf("after it was removed: %s, not %s", now, before)
	}
	r.sh("! nft list tables | grep warder")
}

// printsSensitive: what is printed is looked into, and in enforce mode before it is.
func (r *rig) printsSensitive() {
	r.t.Helper()
	const watched = "warder status --json | grep -q 'sync folder(s) and in print jobs'"
	r.sh(`cd /srv; echo "of %[1]s" >text; python3 - <<'E'
def pdf(text):
    stream = b"BT /F1 12 Tf 72 720 Td (" + text + b") Tj ET"
    parts = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 5 0 R>>>>/Contents 4 0 R>>",
        b"<</Length %%d>>stream\n" %% len(stream) + stream + b"\nendstream", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"]
    out, at = b"%%PDF-1.4\n", []
    for i, p in enumerate(parts): at.append(len(out)); out += b"%%d 0 obj" %% (i + 1) + p + b"endobj\n"
    start = len(out)
    return out + b"xref\n0 %%d\n0000000000 65535 f \n" %% (len(parts) + 1) + b"".join(b"%%010d 00000 n \n" %% a for a in at) + b"trailer<</Size %%d/Root 1 0 R>>\nstartxref\n%%d\n%%%%%%%%EOF\n" %% (len(parts) + 1, start)
open("pdf", "wb").write(pdf(b"of %[1]s"))
E
chmod 644 text pdf`, canary)
	for _, mode := range []string{"monitor", "warn"} {
		r.set(fmt.Sprintf(looked, mode, ""))
		r.wait("print jobs are watched", watched)
		r.sh(nobody + "lp -d office /srv/text >/dev/null")
		r.wait("it is printed", "grep -q %s /srv/kept/office", canary)
		r.wait("it is told", `warder events --last 20 --json | grep '"would_deny"' | grep '"mode":"%s"' | grep 'a print job for office' | grep -q 'project (1)'`, mode)
		r.sh("rm /srv/kept/office")
	}
	r.set(fmt.Sprintf(looked, "enforce", ""))
	r.wait("print jobs are watched", watched)
	containsAll(r.t, r.sh("warder explain dlp sensitive"), "DENY", "print jobs, and what is copied may not have")
	for _, doc := range []string{"text", "pdf"} {
		n := r.number(nobody + "lp -d office /srv/" + doc + " | sed 's/.*office-\\([0-9]*\\) .*/\\1/'")
		held := fmt.Sprintf("LC_ALL=C lpstat -l -o office | grep -A3 '^office-%d ' | grep -q job-hold-until-specified", n)
		r.wait(doc+" is held", held)
		r.wait("it is told", `warder events --last 20 --json | grep '"denied"' | grep 'job %d of user nobody' | grep -q 'project (1)'`, n)
		// Whose it is lets it go on; the agent is killed, and its guard begins anew.
		for _, first := range []string{"true", "systemctl kill -s KILL warder; sleep 1"} {
			r.sh(first)
			r.wait("the agent runs", `warder status --json | grep -q '"agent": "running"'`)
			r.wait("print jobs are watched", watched)
			r.sh("%slp -i %d -H resume && sleep 1", nobody, n)
			r.wait(doc+" is held again", held)
		}
	}
	r.sh(job, "harmless", "office")
	r.wait("the queue goes on", "grep -q harmless /srv/kept/office && LC_ALL=C lpstat -p office | grep -q enabled")
	r.sh("! grep -rq %s /srv/kept", canary)
	// Once it is allowed, it can be printed.
	contains(r.t, r.sh("warder exception "+r.code("dlp", "sensitive")+" --sensitive"), "Sensitive data may be used everywhere until ")
	r.sh("for j in $(LC_ALL=C lpstat -o office | sed 's/ .*//'); do lp -i $j -H resume; done")
	r.wait("both are printed", "grep -q %s /srv/kept/office && ! LC_ALL=C lpstat -o office | grep -q .", canary)
	r.sh("! journalctl --no-pager | grep %[1]s && ! grep -rl %[1]s /var/lib/warder /run/warder | grep .", canary)
}
