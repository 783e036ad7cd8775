#!/bin/bash
# Builds the test laptop: a Debian root file system, its kernel and a busybox initramfs, into DIR. SUITE is
# bookworm (Debian 12, kernel 6.1) or trixie (Debian 13, kernel 6.12).
# Nothing of Warder is in the image: packages and tests reach it over a 9p share at boot, so the
# image is built once and kept until this file changes (its checksum is the stamp).
set -euo pipefail
dir=${1:?usage: build.sh DIR [SUITE]}
suite=${2:-bookworm}
here=$(cd "$(dirname "$0")" && pwd)
stamp=$suite-$(sha256sum "$here/build.sh" | cut -c1-16)
if [ -f "$dir/stamp" ] && [ "$(cat "$dir/stamp")" = "$stamp" ]; then exit 0; fi

if [ "$(id -u)" != 0 ]; then echo "the test laptop is made by mmdebstrap, which needs root" >&2; exit 1; fi
need=()
for p in qemu-system-x86 mmdebstrap busybox-static cpio e2fsprogs kmod; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || need+=("$p")
done
if [ ${#need[@]} -gt 0 ]; then
  echo "== installing ${need[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

echo "== making the test laptop ($suite) in $dir"
mkdir -p "$dir"
root=$(mktemp -d "$dir/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
include=systemd,systemd-sysv,libpam-systemd,udev,dbus,kmod,procps,iproute2,linux-image-amd64,usbguard,dosfstools,e2fsprogs,ca-certificates,libusb-1.0-0,curl,strace,cryptsetup-bin,lvm2,mdadm,btrfs-progs,nftables,systemd-resolved,network-manager,wireguard-tools,openvpn,ppp,tcpdump,exfatprogs,ntfs-3g,udisks2,fdisk,rsync,python3,libglib2.0-bin,rclone,onedrive,cups-daemon,cups-client,libhyperscan5
[ "$suite" = bookworm ] && include+=,dbus-user-session,xvfb,dunst,xclip,xsel # a desktop on X11
[ "$suite" = trixie ] && include+=,dbus-user-session,sway,wl-clipboard,grim,xdg-desktop-portal,xdg-desktop-portal-wlr,dconf-cli # and one on Wayland
# mmdebstrap takes two thirds of the time of debootstrap. What no test reads is not unpacked, and the laptop has an initramfs of its own.
mmdebstrap --quiet --variant=minbase --include="$include" --dpkgopt=force-unsafe-io --dpkgopt=force-confold \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=*/drivers/gpu/*' --dpkgopt='path-exclude=*/drivers/infiniband/*' --dpkgopt='path-exclude=*/drivers/net/wireless/*' \
  --dpkgopt='path-exclude=*/drivers/net/ethernet/*' --dpkgopt='path-exclude=*/drivers/staging/*' --dpkgopt='path-exclude=*/drivers/iio/*' \
  --essential-hook='mkdir -p "$1/etc/initramfs-tools" && echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
  "$suite" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$dir/mmdebstrap.log" 2>&1 ||
  { tail -n 20 "$dir/mmdebstrap.log" >&2; exit 1; }

echo laptop >"$root/etc/hostname"
printf '127.0.0.1 localhost laptop\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 rw,noatime 0 0\n' >"$root/etc/fstab"
chroot "$root" passwd -d root >/dev/null
mkdir -p "$root/host" "$root/mnt/stick"
cat >"$root/etc/systemd/system/laptop-guest.service" <<'UNIT'
[Unit]
Description=Channel between the test and the laptop
DefaultDependencies=no
After=local-fs.target systemd-modules-load.service dbus.socket
[Service]
ExecStartPre=/bin/mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /host
# Not run from there: nothing of a 9p share can be read after a suspend.
ExecStartPre=/bin/cp /host/guest /run/guest
ExecStart=/run/guest
Restart=no
KillMode=process
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /etc/systemd/system/laptop-guest.service "$root/etc/systemd/system/multi-user.target.wants/"
printf '9p\n9pnet_virtio\nvirtio_console\n' >"$root/etc/modules-load.d/laptop.conf"
# USBGuard is measured beside Warder, when a test asks for it, and must not guard the laptop before.
for u in usbguard.service usbguard-dbus.service systemd-networkd.service systemd-timesyncd.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  udisks2.service NetworkManager.service NetworkManager-wait-online.service NetworkManager-dispatcher.service wpa_supplicant.service \
  ModemManager.service systemd-resolved.service nftables.service getty@tty1.service lvm2-monitor.service lvm2-lvmpolld.socket mdmonitor.service mdcheck_start.timer mdcheck_continue.timer mdmonitor-oneshot.timer systemd-update-utmp.service man-db.timer systemd-tmpfiles-clean.timer openvpn.service cups.service cups.socket cups.path; do
  ln -sf /dev/null "$root/etc/systemd/system/$u"
done
# A test of names starts the resolver or the network manager that it is about.
rm -f "$root/etc/resolv.conf"; : >"$root/etc/resolv.conf"
rm -f "$root/etc/systemd/system/usbguard.service"; chroot "$root" systemctl disable usbguard.service >/dev/null 2>&1 || true
ln -sf multi-user.target "$root/etc/systemd/system/default.target" 2>/dev/null || true
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*

kver=$(basename "$(ls -d "$root"/lib/modules/*)")
cp "$root/boot/vmlinuz-$kver" "$dir/vmlinuz"
ird=$(mktemp -d "$dir/initrd.XXXXXX")
trap 'rm -rf "$root" "$ird"' EXIT
mkdir -p "$ird"/{bin,dev,proc,sys,mnt,modules}
cp /bin/busybox "$ird/bin/busybox"
cat >"$ird/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r m; do /bin/busybox insmod /modules/$m; done </modules/order
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do /bin/busybox sleep 0.1; n=$((n+1)); done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /mnt
/bin/busybox umount /proc /sys
exec /bin/busybox switch_root /mnt /sbin/init
INIT
chmod +x "$ird/init"
# initrd NAME MODULE… makes one with the modules in their order.
initrd() {
  local name=$1 m k modules
  shift
  rm -f "$ird"/modules/*
  : >"$ird/modules/order"
  for m in "$@"; do
    # ext4 checks its metadata with crc32c, which it asks for by name and not as a dependency.
    [ "$m" = ext4 ] && modules="crc32c_generic ext4" || modules=$m
    for k in $modules; do
      modprobe -S "$kver" -d "$root" --show-depends "$k" 2>/dev/null | awk '$1=="insmod"{print $2}'
    done
  done | awk '!seen[$0]++' | while read -r ko; do
    cp "$ko" "$ird/modules/"; basename "$ko" >>"$ird/modules/order"
  done
  (cd "$ird" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/$name"
}
initrd initrd.gz virtio_pci virtio_blk ext4
# One as distributions make it, in which USB disks and keyboards work before the root file system is there.
initrd initrd-usb.gz usbhid hid_generic sd_mod usb_storage xhci_pci virtio_pci virtio_blk ext4

rm -f "$dir/root.img"
mke2fs -q -t ext4 -O ^has_journal -d "$root" -L laptop "$dir/root.img" 2600M
echo "$stamp" >"$dir/stamp"
echo "== test laptop ready: kernel $kver"
