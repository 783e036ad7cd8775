//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
)

// person logs somebody in at a virtual terminal, with a desktop (Xvfb) in a language. Its service manager reaches
// graphical-session.target, as those of GNOME, KDE and sway do, if units is set; otherwise the desktop starts what is in
// /etc/xdg/autostart, as others do.
func (r *rig) person(name, uid, vt, lang string, units bool) {
	r.t.Helper()
	start := "systemctl --user start desk.target"
	if !units {
		start = "sh -c \"$(sed -n s/^Exec=//p /etc/xdg/autostart/warder-session.desktop)\" &"
	}
	// Debian's package of onedrive starts its client for everybody, which asks for notices before there is a desktop.
	r.sh(`ln -sf /dev/null /etc/systemd/user/onedrive.service; id -u %[1]s >/dev/null 2>&1 || useradd -m -u %[2]s -s /bin/bash %[1]s; mkdir -p /home/%[1]s/.config/systemd/user
cat >/home/%[1]s/.config/systemd/user/desk.target <<'E'
[Unit]
BindsTo=graphical-session.target
E
cat >/home/%[1]s/desk <<'E'
#!/bin/bash
trap 'kill $(jobs -p)' EXIT; trap 'exit 0' TERM
export DISPLAY=:%[3]s LANG=%[4]s XDG_CURRENT_DESKTOP=Test
Xvfb :%[3]s -nolisten tcp >/dev/null 2>&1 &
until test -e /tmp/.X11-unix/X%[3]s; do sleep 0.2; done
dbus-update-activation-environment --systemd DISPLAY LANG XDG_SESSION_TYPE XDG_CURRENT_DESKTOP
%[5]s
wait
E
chown -R %[1]s: /home/%[1]s; chmod 755 /home/%[1]s/desk
systemd-run -q --unit=desk-%[1]s -p User=%[1]s -p PAMName=login -p TTYPath=/dev/tty%[3]s -p StandardInput=tty -p StandardOutput=journal -E XDG_SESSION_TYPE=x11 -E XDG_SESSION_CLASS=user /home/%[1]s/desk`,
		name, uid, vt, lang, start)
	r.wait(name+" is logged in", "find /run/systemd/sessions -type f -exec grep -l '^UID=%s$' {} + | xargs grep -q '^TYPE=x11'", uid) // not the pipes beside them
	r.front(vt, uid)
}

// front brings a virtual terminal to the front.
func (r *rig) front(vt, uid string) {
	r.t.Helper()
	r.sh("timeout 20 /host/attacker vt " + vt)
	r.wait("that session is the active one", "grep -q '^ACTIVE_UID=%s' /run/systemd/seats/seat0", uid)
}

// as is a command of somebody's, with the session's bus.
func as(name, uid string) string {
	return "setpriv --reuid=" + uid + " --regid=" + uid + " --clear-groups env HOME=/home/" + name + " XDG_RUNTIME_DIR=/run/user/" + uid +
		" DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/" + uid + "/bus "
}

// TestSession: the people at the machine are told on their desktops, in their language, each in their own session alone.
func TestSession(t *testing.T) {
	parallel(t, 10)
	r := ready(t, Options{Single: true})
	r.spooler()
	r.medium("a", 64)
	ann, bob := as("ann", "2001"), as("bob", "2002")
	shown := func(who string) string { // what dunst has shown, the newest first
		r.t.Helper()
		return r.sh(who + "dunstctl close-all; " + who + "dunstctl history")
	}
	r.sh("! warder status --json | grep '\"sessions\": \\['") // a machine without a desktop
	r.person("ann", "2001", "7", "de_DE.UTF-8", true)
	helped := "warder status --json | grep -A12 '\"user\": \"%s\"' | grep -q '\"shows_notices\": %t'"
	r.wait("ann has a helper", helped, "ann", true)
	// What only the session knows: its screen lock tells systemd-logind, and the helper us.
	for hint, lock := range map[string]string{"true": "locked", "false": "unlocked"} {
		r.sh(`for s in $(find /run/systemd/sessions -type f -exec grep -l '^UID=2001' {} +); do
busctl call org.freedesktop.login1 $(busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager GetSession s ${s##*/} | cut -d '"' -f 2) org.freedesktop.login1.Session SetLockedHint b %s; done`, hint)
		r.wait("ann's screen is "+lock, "warder status --json | grep -q '\"screen_lock\": \"%s\"'", lock)
	}
	containsAll(t, r.sh(ann+"systemctl --user status warder-session.service"), "active (running)", "Warder, in your session")
	t.Log("a helper takes ", r.sh("grep -h -E '^(Rss|Pss|Pss_Anon):' /proc/$(pgrep -u ann -f 'warder session')/smaps_rollup | tr -s ' ' | tr '\\n' ' '"))

	// A stick, while USB is in warn mode: it works, and ann is told.
	r.set(`{"compliance":"warn","policy_data":{"usb":{"allowed":false},"dlp":{"print_allowed":false}}}`)
	r.plug("usb-storage", "stick60", map[string]any{"drive": "a", "port": "1", "serial": "<b>S1</b>"})
	r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
	r.told("would_deny", "user 2001 in session")
	r.told("warned", "dlp.print_allowed")
	got := shown(ann)
	containsAll(t, got, "Eine Regel Ihrer Organisation", "Dieses USB-Gerät ist an diesem Computer nicht erlaubt.", "Drucken ist auf diesem Computer nicht erlaubt.",
		"Im Moment wird nichts gesperrt.")
	if strings.Contains(got, "<b>S1") {
		t.Errorf("a device's own markup is shown: %s", got)
	}
	n := strings.Count(got, `"summary"`)
	r.stickOut(60)
	r.plug("usb-storage", "stick61", map[string]any{"drive": "a", "port": "1", "serial": "<b>S1</b>"})
	r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
	r.sh("warder check-in >/dev/null; sleep 2")
	if got := shown(ann); strings.Count(got, `"summary"`) != n {
		t.Errorf("the same stick again is told again: %s", got)
	}
	r.stickOut(61)

	// Bob logs in at another terminal: he is told of what he does, and ann is not.
	r.person("bob", "2002", "8", "en_US.UTF-8", false)
	r.wait("bob has a helper", helped, "bob", true)
	r.plug("usb-storage", "stick62", map[string]any{"drive": "a", "port": "1", "serial": "S2"})
	r.told("would_deny", "user 2002 in session")
	contains(t, shown(bob), "This USB device is not allowed on this computer.")
	if got := shown(ann); strings.Count(got, `"summary"`) != n {
		t.Errorf("ann is told of what bob does: %s", got)
	}
	r.stickOut(62)

	// A program of no session speaks for none.
	contains(t, r.sh(bob+"curl -s --max-time 5 --unix-socket /run/warder/warder.sock -d '{\"state\":{\"shows\":true,\"desktop\":\"forged\"}}' http://w/v1/session"), "this is for a program of a login session")
	r.sh("! warder status --json | grep -q forged")

	// A helper that dies is started anew, by systemd or by what the desktop started; one that hangs is not counted.
	for _, who := range []string{"ann", "bob"} {
		r.sh("kill -9 $(pgrep -u %s -x -f '[^ ]*warder session'); sleep 1", who)
		r.wait(who+"'s helper is back", helped, who, true)
	}
	r.sh("pkill -STOP -u bob -x -f '[^ ]*warder session'")
	r.wait("it is known that it hangs", "warder status --json | grep -A12 '\"user\": \"bob\"' | grep -q 'does not run'")
	r.plug("usb-storage", "stick63", map[string]any{"drive": "a", "port": "1", "serial": "S3"})
	r.told("would_deny", "told.*no session")
	r.stickOut(63)
	r.sh("pkill -CONT -u bob -x -f '[^ ]*warder session'")
	r.wait("it is back", helped, "bob", true)

	// Who logs out is gone, with their helper, and has one again after the next login.
	r.sh("systemctl stop desk-bob")
	r.wait("bob is gone", "! warder status --json | grep -q '\"user\": \"bob\"' && ! pgrep -u bob -x -f '[^ ]*warder session'")
	r.front("7", "2001")
	r.person("bob", "2002", "8", "en_US.UTF-8", true)
	r.wait("bob has a helper again", helped, "bob", true)

	r.clipboard(ann, bob)
	r.copies(ann)
	r.set(noPictures)
	r.wait("nobody says that screenshots are refused on X11", `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"dlp.screenshot_allowed"' | grep '"unknown"' | grep '"unsupported"' | grep -q 'on X11 every program can read the screen'`)
	contains(t, r.sh("warder exception "+r.code("dlp", "screenshot")+" --screenshot"), "Pictures of the screen may be taken until")
	r.wait("screenshots are allowed", `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"dlp.screenshot_allowed"' | grep '"compliant"' | grep -q 'allowed by an exception'`)

	// What somebody says from their own session keeps neither the agent nor anybody else, and ends with them.
	r.sh(`cat >/home/bob/flood <<'E'
#!/bin/bash
say() { curl -s -o /dev/null --max-time 20 --unix-socket /run/warder/warder.sock -d "$1" http://w/v1/session; }
head -c 3000000 /dev/zero | tr '\0' x >/tmp/large
for i in $(seq 200); do say '{"state":{"shows":true,"desktop":"flood"}}' & done
for i in $(seq 20); do say @/tmp/large; say '{"shown":[1,2,3,4,5,18446744073709551615]}' & say '[[['; done
wait
E
chmod 755 /home/bob/flood; systemd-run -q --unit=flood -p User=bob -p PAMName=login -p TTYPath=/dev/tty9 -p StandardInput=tty -p StandardOutput=journal -E XDG_SESSION_TYPE=x11 -E XDG_SESSION_CLASS=user /home/bob/flood`)
	r.sh("sleep 3; pgrep -u bob curl >/dev/null")
	t.Log("beside 200 questions of bob, root's status takes (ms)", r.sh(`for i in 1 2 3 4 5; do b=$(date +%s%N); timeout 60 warder status >/dev/null; test $? -lt 3 || exit 1; echo $(( ($(date +%s%N) - b) / 1000000 )); done`))
	r.wait("ann's helper shows notices still", helped, "ann", true) // it may be between two questions
	r.wait("the flood is over", "! systemctl is-active -q flood")
	r.wait("bob has his helper", helped, "bob", true)

	// Over a new start of the agent.
	r.front("7", "2001")
	r.sh("systemctl kill -s KILL warder")
	r.wait("ann's helper found the new one", helped, "ann", true)
	// In monitor mode nobody is told.
	r.set(`{"compliance":"monitor","policy_data":{"usb":{"allowed":false},"dlp":{"print_allowed":false}}}`)
	n = strings.Count(shown(ann), `"summary"`)
	r.plug("usb-storage", "stick64", map[string]any{"drive": "a", "port": "1", "serial": "S4"})
	r.told("would_deny", "S4")
	r.sh("sleep 2")
	if got := shown(ann); strings.Count(got, `"summary"`) != n {
		t.Errorf("in monitor mode: %s", got)
	}
	r.stickOut(64)

	r.sh("dpkg -i /host/warder-next.deb >/dev/null 2>&1")
	r.wait("the helpers are of the new version", "warder status --json | grep -c '\"helper_version\": \"'$(warder version | grep -o '[0-9][0-9.]*' | head -n 1)'\"' | grep -qx 2")
	// Uninstalled, nothing of it stays.
	r.sh("dpkg -P warder >/dev/null 2>&1")
	r.wait("the helpers have ended", "! pgrep -u ann,bob -f 'warder session'") // not this shell
	r.sh("test ! -e /usr/lib/systemd/user/warder-session.service -a ! -e /usr/lib/systemd/user/graphical-session.target.wants/warder-session.service -a ! -e /etc/xdg/autostart/warder-session.desktop")
}

// clipboard keeps what ann copies at work, and what bob does, each on their own desktop; says so in warn mode; and lets all be in monitor mode.
func (r *rig) clipboard(ann, bob string) {
	r.t.Helper()
	r.sh("warder status --json | sed -n 's/.*\"device_id\": \"\\(.*\\)\".*/\\1/p' >/root/device")
	policy := func(mode, settings string) string {
		return `{"compliance":"` + mode + `","policy_data":` + settings + `}`
	}
	says := func(setting, words string) {
		r.t.Helper()
		r.wait(setting+" is "+words, `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"%s"' | grep -q '%s'`, setting, words)
	}
	front := func() { r.front("7", "2001") }
	front()
	const both = `{"dlp":{"clipboard_sharing":false,` + zones + `}}`
	r.set(policy("enforce", both))
	says("dlp.clipboard_sharing", "kept in 2 session(s)")
	r.t.Log(r.finding("dlp.clipboard_sharing"))
	r.sh(annCopies)
	r.wait("what ann copies at work is kept there", annKeeps)
	r.told("denied", "what was copied in xclip was not pasted in xsel")
	bobHas := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(annHas, "2001", "2002"), "ann", "bob"), ":7", ":8")
	r.sh("echo theirs | timeout 10 %sxsel -i -b >/dev/null 2>&1", bobHas)
	r.wait("what bob copies outside work is pasted there, and not at work", "test \"$(timeout 10 %[1]sxsel -o -b)\" = theirs && test -z \"$(timeout 10 %[1]sxclip -o -selection clipboard)\"", bobHas)
	containsAll(r.t, r.sh("warder explain dlp clipboard work personal"), "DENY", "nothing is copied from work to personal")
	contains(r.t, r.sh("warder explain dlp clipboard"), "(x11): kept")
	r.t.Log("a helper that holds something takes ", r.sh("grep -h -E '^(Rss|Pss|Pss_Anon):' /proc/$(pgrep -u ann -x -f '[^ ]*warder session')/smaps_rollup | tr -s ' ' | tr '\\n' ' '"))
	for _, s := range Sabotages {
		if !s.Desk {
			continue
		}
		setting := string(s.Claims[0])
		r.set(policy("enforce", s.Policy))
		says(setting, "kept in 2 session(s)")
		r.sh(annCopies)
		r.wait("it is kept", annKeeps)
		if s.Seen {
			r.seen(s, setting)
			contains(r.t, r.finding(setting), "unknown")
			r.sh(s.Undo)
			says(setting, "kept in 2 session(s)")
			continue
		}
		mended, _ := r.sabotage(s, true)
		r.t.Logf("%s: mended after %s", s.Name, mended)
	}
	// Without zones, only other users are kept apart. (Xvfb lets everybody in.)
	r.set(policy("enforce", `{"dlp":{"clipboard_sharing":false}}`))
	says("dlp.clipboard_sharing", "apart from other users")
	r.sh(annCopies)
	r.wait("what ann copies is hers, in every program", "test \"$(timeout 10 %[1]sxsel -o -b)\" = secret && test -z \"$(timeout 10 %[2]sxsel -o -b)\"", annHas, strings.ReplaceAll(bobHas, ":8", ":7"))
	// A kill of the agent lets nothing out.
	r.set(policy("enforce", both))
	says("dlp.clipboard_sharing", "kept in 2 session(s)")
	r.sh(annCopies)
	r.wait("it is kept", annKeeps)
	r.sh("for i in $(seq 10); do systemctl kill -s KILL warder; for j in 1 2 3; do test -z \"$(timeout 10 %[1]sxsel -o -b)\" || exit 1; done; sleep 1.5; done", annHas)
	says("dlp.clipboard_sharing", "kept in 2 session(s)")
	r.set(policy("warn", both))
	r.told("warned", "nothing keeps the clipboard of session")
	r.wait("ann is told, in her words", "%[1]sdunstctl close-all; %[1]sdunstctl history | grep -q 'Kopieren zwischen dienstlichen und privaten Programmen ist nicht erlaubt.'", ann)
	for _, mode := range []string{"warn", "monitor"} {
		r.set(policy(mode, both))
		says("dlp.clipboard_sharing", "nothing keeps")
		r.sh(annCopies)
		r.wait("in "+mode+" mode everything is pasted", "test \"$(timeout 10 %[1]sxsel -o -b)\" = secret", annHas)
	}
}

// copies has what is copied looked into, on two desktops and in three modes: what is harmless stays where it is, what is not is handed to no
// other program, and nothing of it is anywhere else.
func (r *rig) copies(ann string) {
	r.t.Helper()
	hers, his := annHas, strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(annHas, "2001", "2002"), "ann", "bob"), ":7", ":8")
	copied := func(who, text string) { // xclip has it until something else is copied
		r.t.Helper()
		r.sh("(printf %%s '%[2]s' | %[1]sxclip -i -quiet -selection clipboard >/dev/null 2>&1 &); sleep 0.3", who, text)
	}
	pastes := func(what, who, text string) {
		r.t.Helper()
		r.wait(what, "test \"$(timeout 20 %[1]sxsel -o -b)\" = '%[2]s' && test \"$(timeout 20 %[1]sxclip -o -selection clipboard)\" = '%[2]s'", who, text)
	}
	looks := func() {
		r.t.Helper()
		r.wait("what is copied is looked into", "warder status --json | grep -q 'and in what is copied in 2 session(s), by Hyperscan'")
	}
	r.front("7", "2001")
	for _, mode := range []string{"monitor", "warn"} {
		r.set(fmt.Sprintf(looked, mode, ""))
		looks()
		copied(hers, "of "+canary+" in "+mode)
		r.wait("it is told", `warder events --last 20 --json | grep '"would_deny"' | grep '"mode":"%s"' | grep 'what was copied in xclip' | grep -q 'project (1)'`, mode)
		pastes("it is pasted", hers, "of "+canary+" in "+mode)
	}
	r.wait("ann is told, in her words", "%[1]sdunstctl close-all; %[1]sdunstctl history | grep -q 'Darin sind Daten, die diesen Computer nicht verlassen dürfen.'", ann)

	r.set(fmt.Sprintf(looked, "enforce", ""))
	looks()
	r.t.Log(r.finding("dlp.patterns"))
	containsAll(r.t, r.sh("warder explain dlp sensitive"), "DENY", "what is copied may not have")
	copied(hers, "harmless")
	pastes("what is harmless is pasted", hers, "harmless")
	copied(hers, "of "+canary)
	pastes("what is not is pasted nowhere", hers, "")
	r.told("denied", "what was copied in xclip")
	r.wait("it is told what was found", `warder events --last 20 --json | grep '"denied"' | grep 'what was copied in xclip' | grep -q 'project (1)'`)
	// Nor while the agent is killed again and again: the helper has it, and hands it to nobody before it is known.
	r.sh("for i in 1 2 3 4; do systemctl kill -s KILL warder; for j in 1 2; do test -z \"$(timeout 10 %[1]sxsel -o -b)\" || exit 1; sleep 0.5; done; done", hers)
	r.wait("the agent is back", "warder status >/dev/null")
	looks()
	pastes("it is pasted nowhere still", hers, "")
	copied(his, "bob has 4111 1111 1111 1111 and 5500-0000-0000-0004")
	pastes("nor what bob has copied", his, "")
	copied(hers, "one card, 4111 1111 1111 1111, is not enough")
	pastes("one card is", hers, "one card, 4111 1111 1111 1111, is not enough")
	r.sh("yes harmless | head -c 6000000 >/tmp/big; (%[1]sxclip -i -quiet -selection clipboard </tmp/big >/dev/null 2>&1 &); sleep 1", hers)
	r.wait("something large is pasted whole", "timeout 20 %[1]sxclip -o -selection clipboard | cmp -s - /tmp/big", hers)

	// Nothing of it is kept, and who is not the helper is not answered.
	r.sh("! grep -rqa %[1]s /var/lib/warder /run/warder 2>/dev/null && ! journalctl --no-pager | grep -q 'of %[1]s'", canary)
	contains(r.t, r.sh(ann+`curl -s --max-time 5 --unix-socket /run/warder/warder.sock -H 'Content-Type: multipart/form-data; boundary=x' -d 'x' http://w/v1/session/clipboard`), "this is for a program of a login session")
	// An agent that is not there lets nobody paste at first, and then whoever waits, because dlp.scan_timeout is allow.
	r.sh("systemctl kill -s STOP warder")
	copied(hers, "meanwhile "+canary)
	r.sh("sleep 2; test -z \"$(timeout 3 %[1]sxsel -o -b)\"", hers)
	pastes("it is pasted after a while", hers, "meanwhile "+canary)
	r.sh("systemctl kill -s CONT warder")
	r.sh("systemctl kill -s KILL warder")
	looks()
	// A helper that hangs is found.
	r.sh("pkill -STOP -u ann -x -f '[^ ]*warder session'")
	r.wait("it is known that it hangs", `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"dlp.patterns"' | grep '"unknown"' | grep -q 'its helper (warder session) does not run'`)
	r.sh("pkill -CONT -u ann -x -f '[^ ]*warder session'")
	looks()
	contains(r.t, r.sh("warder exception "+r.code("dlp", "sensitive")+" --sensitive"), "until")
	r.wait("with an exception it is allowed", "warder status --json | grep -q 'sensitive data is allowed by an exception'")
	copied(hers, "excepted "+canary)
	pastes("it is pasted", hers, "excepted "+canary)
	r.set(`{"compliance":"enforce","policy_data":{"dlp":{}}}`)
	r.sh("pkill -x xclip || true; rm -f /tmp/big")
}
