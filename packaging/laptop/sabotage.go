//go:build linux

package laptop

import "github.com/warderd/warder/enforce"

// Sabotage is one way to break, without the agent, what a capability claims to enforce. The house test requires one for
// each claim, and the laptop's test does all of them: in enforce it has to be repaired and reported; in warn and
// monitor reported and left.
type Sabotage struct {
	Name   string
	Claims []enforce.Setting
	Policy string // policy_data
	Plug   string // a QEMU device on port 1; "" for none
	// Left: what is only watched is reported and not repaired. Seen: for what is only detected; the finding changes,
	// and changes back when it is undone.
	Left, Seen bool
	Undo       string
	Breaks     string // a script; it runs as root
	Mended     string // succeeds while the machine is as the policy asks
	Subject    string // the event, as a pattern of grep; "" if nothing has to be reported: it changes nothing
	// Network rows need the network outside (TestNames).
	Network bool
	// VPN rows need the tunnel of TestVPN, which is up.
	VPN bool
	// Desk rows need ann at a desktop (TestSession).
	Desk bool
	// Screen rows need ann at a desktop on Wayland (TestScreenshots).
	Screen bool
	// Unnamed: the signal does not say which program it was.
	Unnamed bool
	// Silent changes give no signal: the regular look finds them, and a check-in looks, too.
	Silent bool
}

const (
	stickIsOff  = `test "$(cat /sys/bus/usb/devices/2-1/authorized)" = 0 && ! ls -d /sys/bus/usb/devices/2-1:*/driver 2>/dev/null`
	device      = `usb.device/2-1@`
	queueClosed = `lpstat -a office | grep -q 'not accepting' && lpstat -p office | grep -q disabled`
	// chromePolicies is our file for Chrome, which is a file of its name alone on the laptop.
	chromePolicies = "/etc/opt/chrome/policies/managed/warder.json"
	// zones are zones by programs, which a test tells apart by their names.
	zones = `"zones":{"work":{"executables":["/usr/bin/xclip"]}}`
	// secrets are patterns, and syncFolder is a folder that a client copies.
	secrets    = `"sensitive_data_patterns":["SECRET"],"patterns":[{"name":"secret","regex":"a SECRET"}]`
	syncFolder = "/home/clara/Nextcloud"
	// annHas runs a command on ann's desktop.
	annHas = "setpriv --reuid=2001 --regid=2001 --clear-groups env HOME=/home/ann DISPLAY=:7 "
	// annCopies has xclip copy something there, which it serves until something else is copied.
	annCopies = "(" + annHas + "xclip -i -quiet -selection clipboard <<<secret >/dev/null 2>&1 &)"
	// annKeeps succeeds if what xclip has copied on ann's desktop is pasted by it and by nothing else.
	annKeeps = "test \"$(timeout 10 " + annHas + "xclip -o -selection clipboard)\" = secret && test -z \"$(timeout 10 " + annHas + "xsel -o -b)\""
	// elsewhere runs a command with the sysfs of a network namespace of its own.
	elsewhere = `unshare -n -m sh -c 'mount -t sysfs none /sys && `
)

// Sabotages is the table.
var Sabotages = []Sabotage{
	{Name: "a refused stick is authorised", Claims: []enforce.Setting{"usb.allowed"}, Policy: `{"usb":{"allowed":false}}`,
		Plug:   "usb-storage",
		Breaks: "echo 1 >/sys/bus/usb/devices/2-1/authorized", Mended: stickIsOff, Subject: device},
	{Name: "a stick that is not listed is authorised from another network namespace", Claims: []enforce.Setting{"usb.whitelist"},
		Policy: `{"usb":{"whitelist":["0627:0001"]}}`, Plug: "usb-storage",
		Breaks: elsewhere + "echo 1 >/sys/bus/usb/devices/2-1/authorized'",
		Mended: stickIsOff, Subject: device},
	{Name: "a root hub's default", Claims: []enforce.Setting{"usb.allowed_classes"}, Policy: `{"usb":{"allowed_classes":["hid"]}}`,
		Plug:   "usb-storage",
		Breaks: "echo 1 >/sys/bus/usb/devices/usb2/authorized_default",
		Mended: `test "$(cat /sys/bus/usb/devices/usb2/authorized_default)" = 0`, Subject: "usb.default/usb2"},
	{Name: "the module's parameter", Claims: []enforce.Setting{"storage.external_storage_allowed"},
		Policy: `{"storage":{"external_storage_allowed":false}}`, Plug: "usb-storage",
		Breaks: "echo 1 >/sys/module/usbcore/parameters/authorized_default",
		Mended: `test "$(cat /sys/module/usbcore/parameters/authorized_default)" = 0`, Subject: "usb.param/authorized_default"},
	{Name: "the programs that refuse external disks are removed", Claims: []enforce.Setting{"storage.external_storage_allowed"},
		Policy: `{"storage":{"external_storage_allowed":false}}`,
		Breaks: "rm -r /sys/fs/bpf/warder", Mended: "test -e /sys/fs/bpf/warder/media/link_media_open", Subject: "media/external", Unnamed: true},
	{Name: "the programs that limit the size of files are removed", Claims: []enforce.Setting{"storage.max_file_size_mb"},
		Policy: `{"storage":{"max_file_size_mb":1}}`,
		Breaks: "rm -r /sys/fs/bpf/warder", Mended: "test -e /sys/fs/bpf/warder/filesize/link_size_ask", Subject: "filesize/external", Unnamed: true},
	{Name: "the programs that refuse sync clients are removed", Claims: []enforce.Setting{"storage.cloud_sync_allowed"},
		Policy: `{"storage":{"cloud_sync_allowed":false}}`,
		Breaks: "rm -r /sys/fs/bpf/warder", Mended: "test -e /sys/fs/bpf/warder/cloudsync/link_cloud_exec && ! rclone version", Subject: "cloudsync/clients", Unnamed: true},
	{Name: "a print queue is opened", Claims: []enforce.Setting{"dlp.print_allowed"}, Policy: `{"dlp":{"print_allowed":false}}`,
		Breaks: "cupsaccept office; cupsenable office", Mended: queueClosed, Subject: "printing.queue/office", Unnamed: true},
	{Name: "the ports of printers are opened", Claims: []enforce.Setting{"dlp.print_allowed"}, Policy: `{"dlp":{"print_allowed":false}}`,
		Breaks: "nft delete table inet warder_ports", Mended: "nft list table inet warder_ports", Subject: "ports/printers"},
	{Name: "a browser's policies are removed", Claims: []enforce.Setting{"dlp.print_allowed"}, Policy: `{"dlp":{"print_allowed":false}}`,
		Breaks: "rm " + chromePolicies, Mended: "grep -q PrintingEnabled " + chromePolicies, Subject: "browser.policy/chrome", Unnamed: true},
	{Name: "a browser's policies are changed", Claims: []enforce.Setting{"dlp.print_allowed"}, Policy: `{"dlp":{"print_allowed":false}}`,
		Breaks: `echo '{"PrintingEnabled":true}' >` + chromePolicies, Mended: `grep -q '"PrintingEnabled": false' ` + chromePolicies, Subject: "browser.policy/chrome", Unnamed: true},
	{Name: "the programs that refuse screenshots are removed", Claims: []enforce.Setting{"dlp.screenshot_allowed"}, Screen: true, Policy: `{"dlp":{"screenshot_allowed":false}}`,
		Breaks: "rm -r /sys/fs/bpf/warder", Mended: "test -e /sys/fs/bpf/warder/screenshots/link_shot_exec && ! grim -h", Subject: "screenshots/tools", Unnamed: true},
	{Name: "GNOME's keys are unlocked", Claims: []enforce.Setting{"dlp.screenshot_allowed"}, Screen: true, Policy: `{"dlp":{"screenshot_allowed":false}}`,
		Breaks: "rm -r /etc/dconf/db/warder.d; sleep 1; dconf update", Mended: "dconf list-locks / | grep -qx /org/gnome/shell/keybindings/screenshot", Subject: "desktop.settings/gnome", Unnamed: true},
	{Name: "a desktop's portals come anew", Claims: []enforce.Setting{"dlp.screenshot_allowed"}, Screen: true, Policy: `{"dlp":{"screenshot_allowed":false}}`,
		Breaks: "printf '[preferred]\ndefault=x\n' >/usr/share/xdg-desktop-portal/new-portals.conf", Mended: "grep -q 'Screenshot=none' /etc/xdg/xdg-desktop-portal/new-portals.conf", Subject: "desktop.settings/portal", Unnamed: true},
	{Name: "the helper that keeps the clipboard is killed", Claims: []enforce.Setting{"dlp.clipboard_sharing", "dlp.zones"}, Desk: true,
		Policy: `{"dlp":{"clipboard_sharing":false,` + zones + `}}`, Breaks: "pkill -KILL -u ann -x -f '[^ ]*warder session'; " + annCopies, Mended: annKeeps},
	{Name: "the helper that keeps the clipboard hangs", Claims: []enforce.Setting{"dlp.clipboard_direction"}, Desk: true, Seen: true,
		Policy: `{"dlp":{"clipboard_direction":"personal_to_work",` + zones + `}}`, Breaks: "pkill -STOP -u ann -x -f '[^ ]*warder session'",
		Undo: "pkill -CONT -u ann -x -f '[^ ]*warder session'", Subject: "its helper (warder session) does not run"},
	{Name: "the program that looks for sensitive data is stopped", Claims: []enforce.Setting{"dlp.patterns", "dlp.sensitive_data_patterns"}, Policy: `{"dlp":{` + secrets + `}}`,
		Breaks: "pkill -STOP -f '^warder-scan child'; echo a SECRET >" + syncFolder + "/new", Mended: "test ! -s " + syncFolder + "/new && warder quarantine list | grep -q " + syncFolder + "/new"},
	{Name: "the program that looks for sensitive data cannot be started", Claims: []enforce.Setting{"dlp.scan_timeout"}, Policy: `{"dlp":{` + secrets + `,"scan_timeout":"deny"}}`,
		Breaks: "chmod 0 /usr/lib/warder/warder-scan; pkill -KILL -f '^warder-scan child'; echo fine >" + syncFolder + "/held",
		Mended: "test -s " + syncFolder + "/held && ! cat " + syncFolder + "/held && chmod 755 /usr/lib/warder/warder-scan"},
	{Name: "the quarantine's count of days is damaged", Claims: []enforce.Setting{"dlp.quarantine_days"}, Policy: `{"dlp":{` + secrets + `,"quarantine_days":1}}`,
		Breaks: "echo a SECRET >" + syncFolder + "/kept; sleep 2; echo '{\"count\":9' >/var/lib/warder/quarantine/.days; systemctl restart warder; sleep 2; warder check-in >/dev/null",
		Mended: "warder quarantine list | grep -q " + syncFolder + "/kept"},
	{Name: "a root hub's default, from another network namespace", Claims: []enforce.Setting{"usb.allowed"},
		Policy: `{"usb":{"allowed":false}}`, Silent: true,
		Breaks: elsewhere + "echo 1 >/sys/bus/usb/devices/usb1/authorized_default'",
		Mended: `test "$(cat /sys/bus/usb/devices/usb1/authorized_default)" = 0`, Subject: "usb.default/usb1"},
	{Name: "a configuration, an interface and a driver are forced upon a refused stick", Claims: []enforce.Setting{"usb.allowed_classes"},
		Policy: `{"usb":{"allowed_classes":["hid"]}}`, Plug: "usb-storage",
		Breaks: `cd /sys/bus/usb; echo 1 >devices/2-1/bConfigurationValue; echo 2-1:1.0 >drivers_probe; echo 2-1 >drivers/usb/bind; ` +
			`echo 2-1:1.0 >drivers/usb-storage/bind; echo 1 >devices/usb2/interface_authorized_default; true`,
		Mended: stickIsOff},
	{Name: "a refused stick is authorised and comes back as another device", Claims: []enforce.Setting{"storage.external_storage_allowed"},
		Policy: `{"storage":{"external_storage_allowed":false}}`, Plug: "usb-storage",
		Breaks: `cd /sys/bus/usb/devices; echo 1 >2-1/authorized; echo 1 >usb2/2-0:1.0/usb2-port1/disable 2>/dev/null; sleep 0.2; echo ` +
			`0 >usb2/2-0:1.0/usb2-port1/disable 2>/dev/null; true`,
		Mended: stickIsOff},
	{Name: "a root hub's default, by a bind mount in another mount namespace", Claims: []enforce.Setting{"usb.allowed"},
		Policy: `{"usb":{"allowed":false}}`,
		Breaks: `unshare -m sh -c 'mount --bind /sys/bus/usb/devices/usb1/authorized_default /sys/kernel/uevent_seqnum && echo 1 ` +
			`>/sys/kernel/uevent_seqnum'`,
		Mended: `test "$(cat /sys/bus/usb/devices/usb1/authorized_default)" = 0`, Subject: "usb.default/usb1"},
	{Name: "what audit_only watches", Claims: []enforce.Setting{"usb.audit_only"},
		Policy: `{"usb":{"allowed_classes":["hid"],"audit_only":true}}`, Plug: "usb-storage",
		Left: true, Breaks: "echo 0 >/sys/bus/usb/devices/2-1/authorized", Mended: "false", Subject: device},

	{Name: "a route past the tunnel", Claims: []enforce.Setting{"network.vpn_required", "network.split_tunnel"}, Policy: tunneled, Network: true,
		Seen: true, Breaks: "ip route add 203.0.113.0/25 via 10.77.0.1", Undo: "ip route del 203.0.113.0/25",
		Subject: `1 IPv4 network(s) by eth0`},
	{Name: "IPv6 past the tunnel", Claims: []enforce.Setting{"network.vpn_required"}, Policy: tunneled, Network: true, Seen: true,
		Breaks:  "ip -6 addr add fd77::2/64 dev eth0 nodad && ip -6 route add default via fd77::1 dev eth0 && ip -6 rule del table 51820",
		Undo:    "ip -6 route del default; ip -6 addr del fd77::2/64 dev eth0; ip -6 rule add not fwmark 51820 table 51820",
		Subject: `most of IPv6 by eth0`},
	{Name: "the tunnel is taken down", Claims: []enforce.Setting{"network.vpn_required"}, Policy: tunneled, Network: true, Seen: true,
		Breaks: "wg-quick down wg0", Undo: "wg-quick up wg0 && " + shake, Subject: `no VPN is up`},
	{Name: "a decoy of the tunnel's name", Claims: []enforce.Setting{"network.vpn"}, Policy: tunneled, Network: true, Seen: true,
		Breaks: "wg-quick down wg0; ip tuntap add dev wg0 mode tun && ip addr add 10.8.0.2/32 dev wg0 && ip link set wg0 up && " +
			"ip route add 0.0.0.0/1 dev wg0 && ip route add 128.0.0.0/1 dev wg0",
		Undo: "ip link del wg0; wg-quick up wg0 && " + shake, Subject: `its only peer is not that of network.vpn`},
	{Name: "the kill switch is deleted", Claims: []enforce.Setting{"network.vpn_always_on"}, Policy: alwaysOn, Network: true, VPN: true,
		Breaks: "nft delete table inet warder_switch", Mended: pastVPN, Subject: "switch/vpn"},
	{Name: "an interface is added to the kill switch's tunnels", Claims: []enforce.Setting{"network.vpn_always_on"}, Policy: alwaysOn, Network: true,
		VPN: true, Breaks: "nft add element inet warder_switch tunnels '{ eth0 }'", Mended: pastVPN, Subject: "switch/vpn"},
	{Name: "an address is added to the kill switch", Claims: []enforce.Setting{"network.vpn_required"}, Policy: requiredVPN, Network: true, VPN: true,
		Breaks: "nft add element inet warder_switch ways4 '{ 203.0.113.20 }'", Mended: pastVPN, Subject: "switch/vpn"},
	{Name: "a rule is put before the kill switch's", Claims: []enforce.Setting{"network.split_tunnel"},
		Policy: `{"network":{"split_tunnel":false,"vpn":{"peer":"PEER"}}}`, Network: true, VPN: true,
		Breaks: "nft insert rule inet warder_switch out accept", Mended: pastVPN, Subject: "switch/vpn"},
	{Name: "the kill switch's sets are flushed", Claims: []enforce.Setting{"network.vpn"}, Policy: alwaysOn, Network: true, VPN: true,
		Breaks: "nft flush set inet warder_switch closed", Mended: pastVPN, Subject: "switch/vpn"},

	{Name: "the table is deleted", Claims: []enforce.Setting{"network.blocked_domains"}, Network: true,
		Policy: `{"network":{"blocked_domains":["blocked.example"]}}`,
		Breaks: "nft delete table inet warder", Mended: `test -z "$(getent ahostsv4 www.blocked.example)"`, Subject: "firewall/names"},
	{Name: "a rule is put before the others", Claims: []enforce.Setting{"network.allowed_domains"}, Network: true,
		Policy: `{"network":{"allowed_domains":["example.com"]}}`,
		Breaks: "nft insert rule inet warder out accept",
		Mended: `! timeout 3 bash -c 'exec 3<>/dev/tcp/203.0.113.20/443'`, Subject: "firewall/names"},
	{Name: "the table of a long list is flushed", Claims: []enforce.Setting{"network.blocked_lists"}, Network: true,
		Policy: `{"network":{"blocked_lists":["@blocked.example"]}}`,
		Breaks: "nft flush chain inet warder names", Mended: `test -z "$(getent ahostsv4 www.blocked.example)"`, Subject: "firewall/names"},
	{Name: "an address is added to a long list's own", Claims: []enforce.Setting{"network.allowed_lists"}, Network: true,
		Policy: `{"network":{"allowed_lists":["@example.com"]}}`,
		Breaks: "nft add element inet warder named4 '{ 203.0.113.20 timeout 1h }'",
		Mended: `! timeout 3 bash -c 'exec 3<>/dev/tcp/203.0.113.20/443'`, Subject: "firewall/names"},

	// On a machine on which everything else is encrypted (TestEncryption): vdb is a LUKS volume that is open as enc1,
	// the others are empty.
	{Name: "a plain file system is mounted", Claims: []enforce.Setting{"storage.encryption_required"}, Policy: encrypted, Seen: true,
		Breaks: "mkfs.ext4 -q -F /dev/vdc && mount /dev/vdc /run/a", Undo: "umount /run/a",
		Subject: `/run/a (ext4) is not encrypted: vdc is plain (path: vdc`},
	{Name: "a plain swap", Claims: []enforce.Setting{"storage.encryption_required"}, Policy: encrypted, Seen: true,
		Breaks: "mkswap -q /dev/vdc && swapon /dev/vdc", Undo: "swapoff /dev/vdc",
		Subject: `the swap on /dev/vdc is not encrypted: vdc is plain (path: vdc`},
	{Name: "a cipher that does nothing", Claims: []enforce.Setting{"storage.encryption_required"}, Policy: encrypted, Seen: true,
		Breaks: `dmsetup create null --table "0 $(blockdev --getsz /dev/vdc) crypt cipher_null-ecb - 0 /dev/vdc 0" && mkfs.ext4 -q -F ` +
			`/dev/mapper/null && mount /dev/mapper/null /run/a`,
		Undo:    "umount /run/a; dmsetup remove null",
		Subject: `/run/a (ext4) is not encrypted: vdc is plain (path: dm-[0-9]* (crypt cipher_null-ecb, which does not encrypt all of it)`},
	{Name: "a logical volume that grew onto a plain disk", Claims: []enforce.Setting{"storage.encryption_required"}, Policy: encrypted,
		Seen: true,
		Breaks: luks("vdc", "enc2") +
			` && pvcreate -q -y /dev/mapper/enc2 /dev/vdd && vgcreate -q vg /dev/mapper/enc2 /dev/vdd && lvcreate -y -Wn -Zn -l 100%FREE -n lv vg &&
			mkfs.ext4 -q -F /dev/vg/lv && mount /dev/vg/lv /run/a`,
		Undo:    "umount /run/a; vgremove -q -f vg; pvremove -q /dev/vdd; cryptsetup close enc2",
		Subject: `/run/a (ext4) is not encrypted: vdd is plain (path: dm-[0-9]* .*(crypt aes-xts-plain64) .*vdc, vdd}`},
	{Name: "a mirror with a plain leg", Claims: []enforce.Setting{"storage.encryption_required"}, Policy: encrypted, Seen: true,
		Breaks: luks("vdc", "enc2") +
			` && mdadm --create /dev/md0 --run --level=1 --metadata=1.0 --raid-devices=2 /dev/mapper/enc2 /dev/vdd 2>/dev/null && ` +
			`mkfs.ext4 -q -F /dev/md0 && mount /dev/md0 /run/a`,
		Undo:    "umount /run/a; mdadm --stop /dev/md0; mdadm --zero-superblock /dev/vdd; cryptsetup close enc2",
		Subject: `/run/a (ext4) is not encrypted: vdd is plain (path: md0 .*(crypt aes-xts-plain64) .*vdc, vdd}`},
	{Name: "a second disk of btrfs that is plain", Claims: []enforce.Setting{"storage.encryption_required"}, Policy: encrypted, Seen: true,
		Breaks:  luks("vde", "enc2") + ` && mkfs.btrfs -q -f /dev/mapper/enc2 /dev/vdf && mount /dev/mapper/enc2 /run/a`,
		Undo:    "umount /run/a; wipefs -q -a /dev/vdf; cryptsetup close enc2",
		Subject: `/run/a (btrfs) is not encrypted: vdf is plain (path:`},
	{Name: "a loop file whose name is one on the encrypted disk", Claims: []enforce.Setting{"storage.encryption_required"},
		Policy: encrypted, Seen: true,
		Breaks: "mkfs.ext4 -q -F /dev/vdc && mount /dev/vdc /run/a && mkdir -p /run/a/srv/enc && truncate -s 32M /run/a/srv/enc/img && " +
			"mkfs.ext4 -q -F /run/a/srv/enc/img && mount -o loop /run/a/srv/enc/img /run/b && umount -l /run/a",
		Undo: "umount /run/b", Subject: `/run/b (ext4) is not encrypted: vdc is plain (path: loop`},
}

const (
	// tunneled is a policy about the VPN that TestVPN makes; PEER is its peer's key.
	tunneled    = `{"network":{"vpn_required":true,"split_tunnel":false,"vpn":{"peer":"PEER"}}}`
	requiredVPN = `{"network":{"vpn_required":true,"vpn":{"peer":"PEER"}}}`
	alwaysOn    = `{"network":{"vpn_always_on":true,"vpn":{"peer":"PEER","endpoints":["10.77.0.1:51820"]}}}`
	// pastVPN tries to get past the tunnel, and succeeds if that is refused at once.
	pastVPN = `timeout 2 curl -s -o /dev/null --interface eth0 http://203.0.113.20:443; test $? = 7`
	// shake waits for a handshake.
	shake = `for i in $(seq 300); do echo x >/dev/udp/10.99.0.1/9; test "$(wg show wg0 latest-handshakes | cut -f2)" != 0 && break; sleep 0.1; done`
)

const encrypted = `{"storage":{"encryption_required":true}}`

// luks makes a disk a LUKS volume and opens it. Nobody keeps the key.
func luks(disk, name string) string {
	return `echo -n key | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/` + disk +
		` - && echo -n key | cryptsetup open /dev/` + disk + ` ` + name + ` -d -`
}
