//go:build linux

package laptop

import (
	"fmt"
	"strings"
	"testing"
)

const (
	sizes    = "storage.max_file_size_mb"
	oneMiB   = `{"policy_data":{"storage":{"max_file_size_mb":1}}}`
	limited  = "warder status --json | grep -q 'external disk(s) are limited to 1048576 bytes'"
	sizeless = "test ! -e /sys/fs/bpf/warder/filesize"
	newCard  = "wipefs -q -a /dev/mmcblk0p1 && mkfs.vfat /dev/mmcblk0p1 >/dev/null" // what comes after this expects it so
	// programs copies a file of 3 MiB to a disk with what people use; it prints those that do not stop at the limit.
	programs = `cd /run/card/open
try() { name=$1; shift; rm -rf /run/card/open/*; "$@" >/srv/out 2>&1 && echo "$name says that it succeeded"; n=$(find /run/card/open -type f -size +1048576c | wc -l); [ $n = 0 ] || echo "$name made a larger file"
grep -Eqi "too large|echo: I/O error" /srv/out || { echo "$name says:"; cat /srv/out; }; (cd /srv/from && sha256sum -c --quiet /srv/sums) || echo "$name harmed the source"; }
try cp cp /srv/from/large .
try mv mv /srv/from/large .
try dd dd if=/srv/from/large of=d bs=64k
try "dd, direct" dd if=/srv/from/large of=d bs=64k oflag=direct
try cat sh -c 'cat /srv/from/large >c'
try append sh -c 'cat /srv/from/fits >a && echo x >>a'
try tar tar -xf /srv/from.tar
try "tar to a file" tar -cf t.tar -C /srv from
try rsync rsync -a /srv/from/ r/
try gio gio copy /srv/from/large g
try python python3 -c 'import shutil; shutil.copyfile("/srv/from/large", "p")'
rm -rf /run/card/open/*; cp /srv/from/fits . && cmp fits /srv/from/fits || echo "what fits is refused"
cp /srv/from/fits sent && python3 -c 'import shutil; shutil.copyfile("/srv/from/fits", "p")' && cmp p /srv/from/fits || echo "what fits is refused to sendfile"
mv fits renamed && cp renamed second && cmp second /srv/from/fits || echo "what fits is refused within the disk"
rm -rf /run/card/open/*`
	// kept: what was too large before keeps its size, can be renamed, overwritten and cut, and does not grow.
	kept = `cd /run/card/open; echo() { command echo "$@"; }
mv /run/card/before b && dd if=/dev/zero of=b bs=1M count=3 conv=notrunc status=none && truncate -s 2M b || echo "it cannot be changed"
(echo x >>b) 2>/dev/null && echo "it can be appended to"; truncate -s 2200K b 2>/dev/null && echo "it can be made larger"
test $(stat -c %s b) = 2097152 || stat b; rm b`
)

// made makes a file system on a disk and mounts it, so that everybody may write to the directory "open" of it.
func (r *rig) made(fs, disk, at string) {
	r.t.Helper()
	mkfs, with := "mkfs."+fs+" "+disk, "mount "+disk+" "+at
	switch fs {
	case "ext4":
		mkfs = "mkfs.ext4 -q -F -b 4096 " + disk // blocks of 1 KiB, as on small disks, end below 4 TiB
	case "btrfs":
		mkfs = "mkfs.btrfs -q -f -M " + disk
	case "ntfs":
		mkfs, with = "mkfs.ntfs -q -F -f "+disk, "ntfs-3g -o umask=0 "+disk+" "+at // FUSE, which has the device itself open
	default:
		with = "mount -o umask=0 " + disk + " " + at
	}
	r.sh("set -e; mkdir -p %s; %s >/dev/null 2>&1; %s; mkdir -p -m 777 %s/open; head -c 3M /dev/urandom >%s/before", at, mkfs, with, at, at)
}

// unlimited waits until nothing is limited any more.
func (r *rig) unlimited() {
	r.t.Helper()
	r.set(`{"policy_data":{}}`)
	// The kernel takes programs off some milliseconds after they are given back.
	r.wait("nothing is limited", sizeless+" && sh -c 'exec 3<>/dev/mmcblk0p2'")
}

const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups "

// fileExcepted: a file with an exception may have any size, and no other one, whatever is called like it.
func (r *rig) fileExcepted(dir string, code bool) {
	r.t.Helper()
	file := dir + "/sub/talk.mp4"
	var end func()
	if code {
		contains(r.t, r.sh("warder exception "+r.code("storage", "file:"+file)+" --file "+file), file+" may have any size until ")
	} else {
		end = r.except("storage", "file:"+file)
	}
	r.sh("mkdir -p -m 777 %s/sub/deep", dir)
	r.wait("it may be large", "cp /srv/from/large %s && cmp /srv/from/large %s", file, file)
	r.try("chmod 666 " + file)                                                             // where a file has an owner
	r.wait("the new rules answer", "warder explain storage %s 3MiB | grep -q ALLOW", file) // every guard is given them, then they answer
	containsAll(r.t, r.sh("warder explain storage "+file+" 3MiB"), "ALLOW", "an exception for this file is in force")
	containsAll(r.t, r.sh("warder explain storage "+file+".old 3MiB"), "DENY", "file:"+file+".old")
	for _, as := range []string{"", nobody} {
		out := r.sh(as + `sh -c 'cd ` + dir + `/sub; rm -f big; echo x >>talk.mp4 && truncate -s 4M talk.mp4 && head -c 5M /dev/zero >talk.mp4 || echo "it may not be large"
for f in ../talk.mp4 deep/talk.mp4 talk.mp4.part talk; do cp /srv/from/large $f 2>/dev/null && echo "$f may be large"; done
unshare -Urm sh -c "mount --bind deep ../sub && cp /srv/from/large ` + file + `" 2>/dev/null && echo "another directory under its name"
mv talk.mp4 big; (echo x >>big) 2>/dev/null && echo "it grows under another name"; mv big talk.mp4; (echo x >>talk.mp4) || echo "it does not grow under its own"
test ! -O . || { mv ../sub ../other; (echo x >>../other/talk.mp4) 2>/dev/null && echo "it grows in another directory"; mv ../other ../sub; }; true'`)
		if strings.TrimSpace(out) != "" {
			r.t.Errorf("%s%s: %s", as, dir, out)
		}
	}
	if code {
		r.sh("systemctl kill -s KILL warder; for i in 1 2 3 4 5 6 7 8 9; do echo x >>" + file + " || exit 1; sleep 0.3; done")
		r.wait("the agent is back", "systemctl is-active -q warder")
		return // until it is another disk, or the exception is over
	}
	end()
	r.wait("it may not grow any more", "! sh -c 'echo x >>%s' 2>/dev/null", file)
}

// testFileSize: no file on an external disk grows past the limit, by whatever means.
func testFileSize(t *testing.T, r *rig, list []string, first bool) {
	limitedNow := func() {
		r.t.Helper()
		r.set(oneMiB)
		r.wait("files are limited", limited)
	}
	grow := func(as, dir string) {
		r.t.Helper()
		if out := r.try(as + "/host/attacker grow " + dir + " 1048576"); out.Code != 0 || !strings.Contains(out.Out, ", 0 bad") {
			t.Errorf("%s%s: %s %s", as, dir, out.Out, out.Err)
		}
	}
	defer func() { // what comes after this has a card as it expects it
		if t.Failed() {
			r.change(`{"policy_data":{}}`)
			r.try("sleep 10; umount /home /run/in /run/card; cryptsetup close vault; " + newCard)
		}
	}()
	r.sh("cat >/root/programs <<'E'\n%s\nE\ncat >/root/kept <<'E'\n%s\nE", programs, kept)
	r.sh("mkdir -p /srv/from /run/card; head -c 3M /dev/urandom >/srv/from/large; head -c 1M /srv/from/large >/srv/from/fits; cd /srv/from; sha256sum large fits >/srv/sums; tar -C /srv -cf /srv/from.tar from")
	r.unlimited()
	r.sh("wipefs -q -a $(sh /root/nv outside-1); printf 'label: gpt\n%s' | sfdisk -q $(sh /root/nv outside-1); udevadm settle", strings.Repeat(`,50M\n`, len(list)))
	for i, fs := range list {
		r.made(fs, fmt.Sprintf("$(sh /root/nv outside-1)p%d", i+1), "/run/fs/"+fs)
	}
	if out := r.try("/host/attacker grow /run/fs/" + list[0] + "/open 1048576").Out; !strings.Contains(out, "write: has grown to 1048577 bytes") || strings.Contains(out, ", 0 bad") {
		t.Fatalf("without a policy: %s", out)
	}
	limitedNow()
	for i, fs := range list {
		r.sh("umount /run/card 2>/dev/null; mount --bind /run/fs/" + fs + " /run/card")
		grow("", "/run/card/open")
		if i == 0 {
			grow(nobody+"unshare -Urm ", "/run/card/open")
		}
		if out := r.sh("sh /root/programs; sh /root/kept"); strings.TrimSpace(out) != "" {
			t.Errorf("%s: %s", fs, out)
		}
		r.sh("cd /; unmount /run/card")
		if i == 0 || fs == "ntfs" || soak() {
			r.fileExcepted("/run/fs/"+fs+"/open", i == 0)
		}
		r.sh("unmount /run/fs/" + fs)
	}
	r.told("denied", "tried to make file #")
	if out := r.sh("warder events --json --last 500 | grep " + sizes); strings.Contains(out, "/run/card") || !strings.Contains(out, "1048577 bytes large") {
		t.Errorf("the events: %.2000s", out)
	}

	// The disk itself, and what rests on it: an image file, LUKS, a layer of another file system.
	r.unlimited()
	r.sh("wipefs -q -a $(sh /root/nv outside-1); sfdisk -q --delete $(sh /root/nv outside-1) 2>/dev/null; udevadm settle")
	r.made("ext4", "$(sh /root/nv outside-1)", "/run/card")
	r.sh(`set -e; umount /home 2>/dev/null || true; truncate -s 40M /run/card/image; mkfs.ext4 -q -F /run/card/image; mkdir -p /run/in
printf secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file=- /dev/mmcblk0p1; printf secret | cryptsetup open --key-file=- /dev/mmcblk0p1 vault; mkfs.ext4 -q /dev/mapper/vault; cryptsetup close vault`)
	limitedNow()
	for _, raw := range []string{"dd if=/dev/zero of=$(sh /root/nv outside-1) bs=4096 count=1 seek=1000 conv=notrunc", "mkfs.vfat /dev/mmcblk0p2", "dd if=/dev/zero of=/dev/mmcblk0 bs=512 count=1 seek=67590 oflag=direct",
		"sh -c 'exec 3<>/dev/mmcblk0p2'"} {
		if out := r.try(raw); out.Code == 0 || !strings.Contains(out.Out+out.Err, "not permitted") {
			t.Errorf("%s: %d %s %s", raw, out.Code, out.Out, out.Err)
		}
	}
	r.sh("blkid -p /dev/mmcblk0p2; dd if=/dev/mmcblk0p2 of=/dev/null count=1 status=none; l=$(losetup -r --find --show /dev/mmcblk0p2) && losetup -d $l")
	r.told("denied", "tried to open the disk itself for writing")
	r.sh("systemctl kill -s STOP warder; mount -o loop /run/card/image /run/in && mkdir -m 777 /run/in/open && ! truncate -s 1100K /run/in/open/x; code=$?; systemctl kill -s CONT warder; exit $code") // from the first moment
	grow("", "/run/in/open")
	r.sh("unmount /run/in; printf secret | cryptsetup open --key-file=- /dev/mmcblk0p1 vault && mount /dev/mapper/vault /run/in && ! truncate -s 1100K /run/in/x && mkdir -m 777 /run/in/open")
	grow("", "/run/in/open")
	r.sh("! dd if=/dev/zero of=/dev/mapper/vault bs=4096 count=1 seek=1000 && unmount /run/in && cryptsetup close vault")
	for _, as := range []string{"unshare -m ", nobody + "unshare -Urm "} {
		out := r.try(as + `sh -c 'rm -rf /run/card/open/*; mkdir /run/card/open/up /run/card/open/work && mount -t overlay -o lowerdir=/srv/from,upperdir=/run/card/open/up,workdir=/run/card/open/work none /run/in && echo mounted && echo x >>/run/in/large && echo grown; /host/attacker grow /run/in 1048576'; find /run/card/open -size +1024k`)
		if strings.Contains(out.Out, "grown") || strings.Contains(out.Out, "/run/card") || !strings.Contains(out.Out, "mounted") || !strings.Contains(out.Out, ", 0 bad") {
			t.Errorf("%s, overlay: %s %s", as, out.Out, out.Err)
		}
		r.sh("rm -rf /run/card/open/*; chmod 777 /run/card/open")
	}
	core := `rm -f /run/card/open/*; echo core >/proc/sys/kernel/core_pattern; cd /run/card/open; ulimit -c unlimited; ` + nobody + `python3 -c 'import os; x = b"x" * 5000000; os.abort()'; find . -size +1k; cd /; rm -f /run/card/open/*`
	if out := r.try(core).Out; strings.Contains(out, "core") {
		t.Errorf("a core was dumped: %s", out)
	}
	// Inside, all of it is free.
	r.sh("unmount /run/card; mount $(sh /root/nv inside-1) /run/card; mkdir -p -m 777 /run/card/open")
	contains(t, r.try(core).Out, "core")
	r.sh("truncate -s 3M /run/card/open/own; unmount /run/card")
	r.told("denied", "its memory would have been dumped there")

	if !first {
		r.sh("unmount /run/card; true")
		r.unlimited()
		r.sh(newCard)
		return // the rest does not depend on the kernel
	}

	// Words for people.
	r.sh("mount $(sh /root/nv outside-1) /run/card")
	containsAll(t, r.sh("warder explain storage /run/card/x 1025KiB"), "DENY", "a file of 1049600 bytes on disk nvme", "storage.max_file_size_mb is 1 (1048576 bytes), and it is behind a port that leads outside", "disk:outside-1")
	containsAll(t, r.sh("warder explain storage /run/card/x 1MiB"), "ALLOW", "it is within the limit", "the kernel limits the size of files there")
	containsAll(t, r.sh("warder explain storage /root/x 1TiB"), "ALLOW", "one of this machine's own")
	if out := r.try("warder explain storage /run/card/x many"); out.Code != 64 || !strings.Contains(out.Err+out.Out, `size "many" must be a number of bytes`) {
		t.Errorf("%d %s %s", out.Code, out.Out, out.Err)
	}
	t.Log(r.finding(sizes))

	// The largest limit.
	r.set(strings.Replace(oneMiB, ":1}", ":4194304}", 1))
	r.wait("the limit is 4 TiB", "warder status --json | grep -q 'are limited to 4398046511104 bytes'")
	r.sh("truncate -s 4T /run/card/open/huge && ! truncate -s 4398046511105 /run/card/open/huge && rm /run/card/open/huge")
	limitedNow()

	// Changed at run time, by the policy and by others, and killed: there is no moment in which a file grows.
	const pause, copying = "0.05", "0.05" // more often, a laptop's worth of copies takes longer than all that is tried meanwhile
	r.sh(`rm -f /run/never; (while :; do truncate -s 1100K /run/card/open/never 2>/dev/null && echo grown >>/run/never; sleep ` + pause + `; done) >/dev/null 2>&1 & echo $! >/run/tries
(cd /run/card/open; while :; do
	cp /srv/from/fits copied 2>/dev/null && ! cmp -s /srv/from/fits copied && echo "a copy is not whole" >>/run/never
	cp /srv/from/large copied 2>/dev/null && echo "a copy is too large" >>/run/never; test "$(stat -c %s copied || echo 0)" -gt 1048576 && echo "a copy has grown" >>/run/never
	rm -f copied; sleep ` + copying + `; done) >/dev/null 2>&1 & echo $! >>/run/tries`)
	r.set(strings.Replace(oneMiB, ":1}", ":0}", 1))
	r.wait("nothing may be written", "! sh -c 'echo x >/run/card/open/x'")
	r.set(oneMiB)
	r.wait("little may", "echo x >/run/card/open/x")
	r.sh("rm /sys/fs/bpf/warder/filesize/link_size_cut")
	r.wait("mended", "test -e /sys/fs/bpf/warder/filesize/link_size_cut")
	r.told("drift", "filesize/external")
	r.sh("rm -r /sys/fs/bpf/warder")
	r.wait("mended", "test -e /sys/fs/bpf/warder/filesize/link_size_cut && "+limited)
	for i := range kills(2) { // TestMedia kills the agent elsewhere, too
		r.change([]string{oneMiB, strings.Replace(oneMiB, ":1}", ":0}", 1)}[i%2])
		r.sh("sleep 0.%d; systemctl kill -s KILL warder", i%10)
		r.wait("the agent is back", "systemctl is-active -q warder")
	}
	limitedNow()
	r.sh(`kill $(sed -n 2p /run/tries); cd /; sleep 0.2`)
	r.sh("systemctl kill -s STOP warder; unmount /run/card; " + reinsert)
	r.wait("the card is back", "test -b /dev/mmcblk0p2")
	r.sh(`mount $(sh /root/nv outside-1) /run/card && ! dd if=/dev/zero of=/dev/mmcblk0p2 count=1 && printf secret | cryptsetup open --key-file=- /dev/mmcblk0p1 vault && mount /dev/mapper/vault /run/in && ! truncate -s 1100K /run/in/x
code=$?; unmount /run/in; cryptsetup close vault; systemctl kill -s CONT warder; exit $code`)
	r.sh(`kill $(sed -n 1p /run/tries); if test -s /run/never; then wc -l /run/never; exit 1; fi`)
	// A copy that is pinned elsewhere is ended with the policy.
	r.sh("mkdir /sys/fs/bpf/other && mv /sys/fs/bpf/warder/filesize /sys/fs/bpf/other/filesize")
	r.wait("mended", "test -e /sys/fs/bpf/warder/filesize/link_size_cut && "+limited)
	r.unlimited()
	r.sh("truncate -s 1100K /run/card/open/never && rm -r /run/card/open/never /sys/fs/bpf/other")

	// Exceptions, the system's own disk, and the other modes.
	limitedNow()
	end := r.except("storage", "disk:outside-1")
	r.wait("files may have any size", "truncate -s 3M /run/card/open/x")
	r.sh("! dd if=/dev/zero of=/dev/mmcblk0p2 count=1")
	end()
	r.wait("files are limited again", "rm -f /run/card/open/x; ! truncate -s 4M /run/card/open/x")
	r.sh("unmount /run/card; mount $(sh /root/nv outside-1) /home; ")
	r.unlimited()
	r.set(oneMiB)
	r.wait("it is kept", "warder status --json | grep -q 'is external and kept by guard system_disk: it carries /home'")
	r.sh("truncate -s 4M /home/x && unmount /home")
	r.told("guarded", "it carries /home of the running system")
	for _, mode := range []string{"monitor", "warn"} {
		r.set(strings.Replace(oneMiB, "{", `{"compliance":"`+mode+`",`, 1))
		r.wait("nothing is limited", sizeless)
		if got := r.finding(sizes); !strings.HasPrefix(got, "noncompliant/observed: files on disk ") {
			t.Errorf("%s: %s", mode, got)
		}
	}
	r.unlimited()
	r.sh(newCard)
}
