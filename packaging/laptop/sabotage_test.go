//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// drifts counts the server's drift events about a subject.
func (r *rig) drifts(subject string) string {
	return fmt.Sprintf(`D=$(cat /root/device); curl -sk -H "Authorization: Bearer $(cat /root/token)" `+
		`"%s/devices/$D/events?page_size=100" | tr '{' '\n' | grep '"kind":"drift"' | grep -c '%s'`, api, subject)
}

// sabotage breaks something and waits until it is repaired and reported, if it should be. It prints how long both took.
func (r *rig) sabotage(s Sabotage, mends bool) (mended, told time.Duration) {
	r.t.Helper()
	count := "echo 0"
	if s.Subject != "" {
		count = r.drifts(s.Subject)
	}
	look := "true"
	if s.Silent {
		look = "warder check-in >/dev/null 2>&1"
	}
	res := r.try(`n=$(%[1]s); t=$(date +%%s%%N)
( %[2]s ); %[5]s
for i in $(seq 1500); do if ( %[3]s ) >/dev/null 2>&1; then m=$(( $(date +%%s%%N) - t )); break; fi; [ %[4]v = false ] && { m=0; break; }; sleep 0.02; done
for i in $(seq 150); do [ "$(%[1]s)" -gt $n ] || [ "%[6]s" = "" ] && { s=$(( $(date +%%s%%N) - t )); break; }; sleep 0.05; done
echo "mended ${m:-never} told ${s:-never}"`, count, s.Breaks, s.Mended, mends, look, s.Subject)
	var m, d int64
	if n, _ := fmt.Sscanf(res.Out, "mended %d told %d", &m, &d); n != 2 {
		r.t.Errorf("%s%s\n%s", res.Out, res.Err,
			r.try("warder status; warder events --last 5; warder ledger; journalctl -u warder -n 20 --no-pager -o cat").Out)
	}
	return time.Duration(m).Round(time.Millisecond), time.Duration(d).Round(time.Millisecond)
}

// seen breaks something that is only detected, and waits until the finding says so. The status is read from the agent's last
// look: asking for one would prove nothing. It waits longer than the longest promise, which is 45 s, of a helper that hangs.
func (r *rig) seen(s Sabotage, setting string) {
	r.t.Helper()
	out := r.sh(`( %s ) >/tmp/breaks.log 2>&1 || { cat /tmp/breaks.log; exit 1; }; t=$(date +%%s%%N)
for i in $(seq 1500); do grep -q '%s' /run/warder/status.json && { echo $(( ($(date +%%s%%N) - t) / 1000000 )); exit 0; }; sleep 0.05; done; warder status; exit 1`,
		s.Breaks, s.Subject)
	r.t.Logf("seen after %s ms: %s", strings.TrimSpace(out), r.finding(setting))
}

// TestSabotage does every row of the table, and the first in three modes: on Debian 12's kernel, and in the soak on
// Debian 13's.
func TestSabotage(t *testing.T) {
	t.Parallel()
	t.Run("debian12", func(t *testing.T) { parallel(t, 5); sabotages(t, Options{Single: true}) })
	if !soak() {
		return // Debian 13 is the soak's
	}
	t.Run("debian13", func(t *testing.T) {
		parallel(t, 5)
		image, _ := need(t)
		sabotages(t, Options{Image: image + "-trixie", Single: true})
	})
}

func sabotages(t *testing.T, o Options) {
	whole := ready(t, o)
	t.Log(whole.sh("uname -r"))
	whole.medium("a", 48)
	whole.spooler()
	whole.sh("mkdir -p /opt/google/chrome; touch /opt/google/chrome/chrome")
	whole.sh(`useradd -m -u 2003 clara; mkdir -p %[1]s /home/clara/.config/Nextcloud; echo 'localPath=%[1]s' >/home/clara/.config/Nextcloud/nextcloud.cfg; chown -R clara: /home/clara`, syncFolder)
	whole.sh(`warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p' >/root/device`)
	for i, s := range Sabotages {
		if s.Seen || s.Network || s.Desk || s.Screen {
			continue // TestEncryption, TestNames and TestSession do these
		}
		t.Run(strings.ReplaceAll(s.Name, " ", "_"), func(t *testing.T) {
			r := &rig{whole.Laptop, t, whole.dir, whole.policy}
			policy := func(mode string) string { return fmt.Sprintf(`{"compliance":%q,"policy_data":%s}`, mode, s.Policy) }
			r.set(policy("enforce"))
			r.wait("it is compliant", `test "$(warder status --json | grep -c '"compliance": "compliant"')" -ge 2`)
			if s.Plug != "" {
				r.plug(s.Plug, "s1", map[string]any{"drive": "a", "port": "1"})
				r.authorized("2-1", map[bool]string{false: "0", true: "1"}[s.Left])
				r.wait("it is seen", "warder events --last 3 --json | grep -q 'usb 2-1'")
				defer func() { r.unplug("s1"); r.gone("2-1") }()
			}
			r.sh("sleep 1")
			mended, told := r.sabotage(s, !s.Left)
			if s.Left {
				r.authorized("2-1", "0")
				contains(t, r.sh("warder events --last 20 --json | grep '\"kind\":\"drift\"' | tail -n 1"), "mode leaves it")
				return
			}
			t.Logf("mended after %s, told on the server after %s", mended, told)
			if s.Subject != "" {
				last := r.sh("warder events --last 20 --json | grep '\"kind\":\"drift\"' | tail -n 1")
				// What it reads is what is wanted of that resource.
				said := false
				for _, want := range []string{"set back and reads 0", "set back and reads external disks are refused", "set back and reads files on external disks are limited",
					"set back and reads cannot start: ", "set back and reads takes no jobs, stopped", "set back and reads closed to 515 631 9100", "set back and reads no printing",
					"it is gone by now"} {
					said = said || strings.Contains(last, want)
				}
				if !said {
					t.Errorf("it says %s", last)
				}
				if !strings.Contains(s.Breaks, "unshare -n") && !s.Unnamed {
					contains(t, last, "(pid ") // which program it was
				}
			}
			if i > 0 { // one row is enough for what is the same in all
				return
			}
			for _, mode := range []string{"warn", "monitor"} {
				r.set(policy(mode))
				r.authorized("2-1", "1")
				r.sh("echo 0 >/sys/bus/usb/devices/2-1/authorized; sleep 2") // reported, too, and left
				r.authorized("2-1", "0")
				_, told := r.sabotage(s, false)
				t.Logf("%s: told on the server after %s", mode, told)
				r.authorized("2-1", "1")
				contains(t, r.sh("warder events --last 20 --json | grep '\"kind\":\"drift\"' | tail -n 1"), mode+" mode leaves it")
			}
		})
	}
	t.Run("contended", func(t *testing.T) {
		r := &rig{whole.Laptop, t, whole.dir, whole.policy}
		r.set(`{"policy_data":{"usb":{"allowed":false}}}`)
		// A program that does not give up.
		r.sh(`systemd-run -q --unit=fighter sh -c 'while sleep 0.3; do echo 1 >/sys/bus/usb/devices/usb1/authorized_default; done'`)
		r.wait("the status says so", `warder status --json | grep -q '"enforcement": "contended"'`)
		r.wait("the server says so",
			`curl -sk -H "Authorization: Bearer $(cat /root/token)" "%s/devices/$(cat /root/device)" | grep -q '"enforcement":"contended"'`,
			api)
		contains(t, r.sh("warder events --last 20 --json | grep '\"kind\":\"drift\"' | tail -n 1"), "keeps being changed")
		before := r.sh("warder status --json | grep -A2 '\"writes\"' | tr -d ' \\n'")
		r.sh("sleep 10")
		if after := r.sh("warder status --json | grep -A2 '\"writes\"' | tr -d ' \\n'"); after != before {
			t.Errorf("it goes on writing: %s, then %s", before, after)
		}
		r.sh("systemctl stop fighter")
	})
}
