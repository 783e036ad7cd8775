//go:build linux

package laptop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	shots      = "dlp.screenshot_allowed"
	noPictures = `{"policy_data":{"dlp":{"screenshot_allowed":false}}}`
	// portals lists what ann's portal does for programs: of pictures it is films of the screen here, because the other needs somebody to ask.
	portals = "busctl --user introspect org.freedesktop.portal.Desktop /org/freedesktop/portal/desktop | grep -oE '^org.freedesktop.portal.(Trash|Screenshot|ScreenCast) ' | tr -d '\\n'"
	// shotSettings are the files of ours that desktops read.
	shotSettings = "test -e /etc/dconf/db/warder -a -e /etc/dconf/profile/user -a -e /etc/xdg/xdg-desktop-portal/sway-portals.conf"
	// shoots tries to take a picture of ann's screen in every way, and prints those that succeed.
	shoots = `cd ~; ld=$(ls /lib64/ld-linux-x86-64.so.2)
try() { name=$1; shift; rm -f p.png; "$@" >out 2>&1 </dev/null; if test "$(head -c 4 p.png 2>/dev/null | tail -c 3)" = PNG; then echo "taken: $name"; elif ! grep -Eiq 'not permitted|failed to map segment' out; then echo "failed otherwise: $name: $(head -c 200 out)"; fi; }
try grim grim p.png
try "its path" /usr/bin/grim p.png
try "a copy" sh -c 'cp /usr/bin/grim c; ./c p.png'
try "a copy of its name" sh -c 'mkdir -p n; cp /usr/bin/grim n/grim; n/grim p.png'
try "the loader" $ld /usr/bin/grim p.png
try "a script" sh -c 'printf "#!/bin/sh\nprintf xPNG >p.png\n" >grimshot; chmod 755 grimshot; ./grimshot'
printf '#!/bin/sh\necho fine\n' >grimmer; chmod 755 grimmer; ./grimmer | grep -q fine || echo "a harmless program is refused"
true`
	waysToShoot = 6
)

// onWayland logs somebody in at a virtual terminal with a real desktop (sway), which shows its screen to nobody.
func (r *rig) onWayland(name, uid, vt string) {
	r.t.Helper()
	r.sh(`ln -sf /dev/null /etc/systemd/user/onedrive.service; id -u %[1]s >/dev/null 2>&1 || useradd -m -u %[2]s -s /bin/bash %[1]s; mkdir -p /home/%[1]s/.config/systemd/user
cat >/home/%[1]s/.config/systemd/user/desk.target <<'E'
[Unit]
BindsTo=graphical-session.target
E
cat >/home/%[1]s/desk <<'E'
#!/bin/bash
trap 'kill $(jobs -p)' EXIT; trap 'exit 0' TERM
export XDG_CURRENT_DESKTOP=sway WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1
sway -c /dev/null >/tmp/sway.log 2>&1 &
until test -S $XDG_RUNTIME_DIR/wayland-1; do sleep 0.2; done
export WAYLAND_DISPLAY=wayland-1
dbus-update-activation-environment --systemd WAYLAND_DISPLAY XDG_SESSION_TYPE XDG_CURRENT_DESKTOP
systemctl --user start desk.target
wait
E
chown -R %[1]s: /home/%[1]s; chmod 755 /home/%[1]s/desk
systemd-run -q --unit=desk-%[1]s -p User=%[1]s -p PAMName=login -p TTYPath=/dev/tty%[3]s -p StandardInput=tty -p StandardOutput=journal -E XDG_SESSION_TYPE=wayland -E XDG_SESSION_CLASS=user /home/%[1]s/desk`,
		name, uid, vt)
	r.wait(name+" is logged in", "find /run/systemd/sessions -type f -exec grep -l '^UID=%s$' {} + | xargs grep -q '^TYPE=wayland'", uid)
	r.front(vt, uid)
	r.wait("there is a desktop", "test -S /run/user/%s/wayland-1", uid)
}

// TestScreenshots: on a real Wayland desktop nobody takes pictures of the screen by what is known, and a machine that may is as before.
func TestScreenshots(t *testing.T) {
	parallel(t, 7)
	image, _ := need(t)
	o := Options{Image: image + "-trixie", Single: true}
	if _, err := os.Stat(filepath.Join(o.Image, "stamp")); err != nil {
		t.Fatalf("the laptop's image is not built: %v", err)
	}
	r := ready(t, o)
	// GNOME is known by this program; of it the laptop has only what reads its settings.
	r.sh(`printf '#!/bin/sh\n' >/usr/bin/gnome-shell; chmod 755 /usr/bin/gnome-shell
cat >/root/etc <<'E'
cd /etc; find . -path ./warder -prune -o -print | grep -vE '/sub[gu]id-$|onedrive|/xdg/autostart$' | sort; ls -d /nonexistent /usr/local/share/dconf 2>/dev/null; true
E
sh /root/etc >/root/before`)
	says := func(words string) {
		r.t.Helper()
		r.wait("the finding is "+words, `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"`+shots+`"' | grep -q '%s'`, words)
	}
	ann := as("ann", "2001") + "WAYLAND_DISPLAY=wayland-1 XDG_CURRENT_DESKTOP=sway "
	ways := func(ann string) string {
		r.t.Helper()
		return strings.TrimSpace(r.sh(ann + "bash /root/shoots"))
	}
	r.sh("chmod 755 /root; cat >/root/shoots <<'E'\n%s\nE", strings.ReplaceAll(shoots, "%", "%%"))
	r.sh(`warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p' >/root/device`)
	r.set(noPictures)
	says("no desktop session")
	r.set(`{"policy_data":{}}`)
	r.onWayland("ann", "2001", "7")
	if out := ways(ann); strings.Count(out, "taken: ") != waysToShoot {
		t.Fatalf("without a policy they are taken by: %s; %s", out, r.sh("cat /tmp/sway.log"))
	}
	portal := func(want string) {
		r.t.Helper()
		r.sh("cat >/root/portals <<'E'\n%s\nE", portals)
		r.wait("the portal does "+want, "test \"$(%s sh /root/portals)\" = '%s'", ann, want)
	}
	const films, none = "org.freedesktop.portal.ScreenCast org.freedesktop.portal.Trash ", "org.freedesktop.portal.Trash "
	portal(films)

	// A recorder runs when the policy comes.
	r.sh("cp /bin/sleep /home/ann/wf-recorder; (%s /home/ann/wf-recorder 600 >/dev/null 2>&1 &); sleep 0.5; pgrep -u ann wf-recorder", ann)
	r.set(noPictures)
	r.wait("it is ended", "! pgrep -u ann wf-recorder")
	r.told("denied", "it ran .* and was asked to stop")
	r.wait("the settings are there", shotSettings)
	says("pending_relogin")
	says("portals: xdg-desktop-portal of user 2001 was started before")
	if out := ways(ann); out != "" {
		t.Errorf("they are taken by: %s", out)
	}
	r.told("denied", "tried to start grim")
	r.sh("%s systemctl --user restart xdg-desktop-portal", ann)
	says("refused in 1 session(s); partial: ")
	t.Log(r.finding(shots))
	portal(none)
	for key, want := range map[string]string{"/org/gnome/shell/keybindings/show-screenshot-ui": "@as []", "/org/gnome/desktop/interface/clock-show-date": ""} {
		if got := strings.TrimSpace(r.sh(ann + "dconf read " + key)); got != want {
			t.Errorf("%s is %q", key, got)
		}
	}
	if out := r.try(ann + `dconf write /org/gnome/shell/keybindings/show-screenshot-ui "['Print']"`); out.Code == 0 {
		t.Errorf("ann can set it: %+v", out)
	}
	containsAll(t, r.sh("warder explain dlp screenshot"), "DENY", "dlp.screenshot_allowed is false", `"screenshot"`)
	containsAll(t, r.sh("warder explain dlp screenshot grim"), "DENY", "grim takes pictures of the screen", "it does not run")

	// Killed, nothing is taken; and what another program changes is mended.
	r.sh("for i in 1 2 3 4 5; do systemctl kill -s KILL warder; %s grim /home/ann/p.png 2>/dev/null && exit 1; sleep 0.7; done; true", ann)
	r.wait("the agent is back", "systemctl is-active -q warder")
	says("refused in 1 session(s)")
	for _, s := range Sabotages {
		if !s.Screen {
			continue
		}
		mended, told := r.sabotage(s, true)
		t.Logf("%s: mended after %s, told on the server after %s", s.Name, mended, told)
		r.sh("%s systemctl --user restart xdg-desktop-portal", ann) // which reads once what has changed
		says("refused in 1 session(s)")
	}

	// For a time, by the server; by a code it is in TestSession.
	end := r.except("dlp", "screenshot")
	r.wait("a picture is taken", "%s grim /home/ann/p.png && ! ( %s )", ann, shotSettings)
	says("allowed by an exception")
	end()
	r.wait("no more", "! %s grim /home/ann/p.png && %s", ann, shotSettings)
	r.set(`{"policy_data":{}}`)

	// Below enforce nothing is written, and pictures are taken.
	for _, mode := range []string{"warn", "monitor"} {
		r.set(strings.Replace(noPictures, "{", `{"compliance":"`+mode+`",`, 1))
		says("pictures of the screen can be taken in session")
		if out := ways(ann); strings.Count(out, "taken: ") != waysToShoot {
			t.Errorf("in %s mode they are taken by: %s", mode, out)
		}
		r.sh("test ! -e /sys/fs/bpf/warder/screenshots && sh /root/etc | diff /root/before -")
	}

	// The clipboard, on the same desktop: without zones only other users are kept apart, which the compositor does; with zones nothing is.
	sharing := func(words string) {
		r.t.Helper()
		r.wait("the clipboard is "+words, `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"dlp.clipboard_sharing"' | grep -q '%s'`, words)
	}
	r.set(`{"policy_data":{"dlp":{"clipboard_sharing":false}}}`)
	sharing(`"compliant".*"enforced".*kept in 1 session(s), apart from other users`)
	r.sh("chmod 755 /run/user/2001")
	sharing("other users can reach the directory of its desktop")
	r.sh("chmod 700 /run/user/2001")
	sharing("kept in 1 session(s), apart from other users")
	r.sh("%s systemctl --user stop warder-session", ann)
	sharing(`"unknown".*does not run`)
	r.sh("%s systemctl --user start warder-session", ann)
	r.set(`{"policy_data":{"dlp":{"clipboard_sharing":false,` + zones + `}}}`)
	sharing(`"unknown".*"unsupported".*Wayland does not tell which program copies or pastes`)

	r.waylandCopies(ann)

	// Uninstalled in force, nothing of it stays: not in files, and not in what runs.
	r.set(noPictures)
	r.wait("the settings are there", shotSettings+" && ! %s grim /home/ann/p.png", ann)
	r.sh("dpkg -P warder >/dev/null 2>&1; sh /root/etc >/root/after; grep -v warder /root/before | diff - /root/after && test ! -e /sys/fs/bpf/warder")
	if out := ways(ann); strings.Count(out, "taken: ") != waysToShoot {
		t.Errorf("afterwards they are taken by: %s", out)
	}
}

// waylandCopies has what is copied on a Wayland desktop looked into: what is harmless stays, what is not cannot be pasted.
func (r *rig) waylandCopies(ann string) {
	r.t.Helper()
	copied := func(args, text string) {
		r.t.Helper()
		r.sh("printf %%s '%[3]s' | timeout 20 %[1]swl-copy %[2]s >/dev/null 2>&1", ann, args, text)
	}
	pastes := func(what, args, text string) {
		r.t.Helper()
		r.wait(what, `test "$(timeout 20 %[1]swl-paste -n %[2]s 2>/dev/null)" = '%[3]s'`, ann, args, text)
	}
	looks := func() {
		r.t.Helper()
		r.wait("what is copied is looked into", "warder status --json | grep -q 'in what is copied in 1 session(s)'")
	}
	for _, mode := range []string{"monitor", "warn"} {
		r.set(fmt.Sprintf(looked, mode, ""))
		looks()
		copied("", "of "+canary+" in "+mode)
		r.wait("it is told", `warder events --last 20 --json | grep '"would_deny"' | grep '"mode":"%s"' | grep 'what was copied in a program that is not known' | grep -q 'project (1)'`, mode)
		pastes("it is pasted", "", "of "+canary+" in "+mode)
	}
	r.set(fmt.Sprintf(looked, "enforce", ""))
	looks()
	r.t.Log(r.finding("dlp.patterns"))
	for _, args := range []string{"", "-p"} {
		copied(args, "harmless")
		r.sh("sleep 1")
		pastes("what is harmless is pasted", args, "harmless")
		copied(args, "of "+canary)
		pastes("what is not is pasted nowhere", args, "")
	}
	r.told("denied", "what was copied in a program that is not known")
	r.sh("! grep -rqa %[1]s /var/lib/warder /run/warder 2>/dev/null && ! journalctl --no-pager | grep -q 'of %[1]s'", canary)
	// An agent that is not there lets all be pasted, because dlp.scan_timeout is allow; once it is back, what comes is looked into.
	r.sh("systemctl kill -s STOP warder")
	copied("", "meanwhile "+canary)
	pastes("it is pasted", "", "meanwhile "+canary)
	r.sh("systemctl show -p MainPID --value warder >/root/killed; systemctl kill -s CONT warder; systemctl kill -s KILL warder")
	r.wait("another agent runs", `systemctl is-active -q warder && test "$(systemctl show -p MainPID --value warder)" != "$(cat /root/killed)"`)
	looks()
	copied("", "again "+canary)
	pastes("it is pasted nowhere", "", "")
	// A helper that hangs, or is not there, is found.
	r.sh("pkill -STOP -u ann -x -f '[^ ]*warder session'")
	r.wait("it is known that it hangs", `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"dlp.patterns"' | grep '"unknown"' | grep -q 'its helper (warder session) does not run'`)
	r.sh("pkill -CONT -u ann -x -f '[^ ]*warder session'")
	looks()
	r.set(`{"compliance":"enforce","policy_data":{"dlp":{}}}`)
	copied("", "afterwards "+canary)
	r.sh("sleep 1")
	pastes("without the policy it is pasted", "", "afterwards "+canary)
	r.sh("pkill -x wl-copy || true")
}
