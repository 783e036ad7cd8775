#!/bin/bash
# Installs what is missing by apt, and says so. "build" is for building; "test" for the tests too; "bench" for what speed is
# compared with.
set -euo pipefail
need=(libusb-1.0-0-dev pkg-config)
[ "${1:-build}" = test ] && need+=(chromium firefox-esr qemu-system-x86 mmdebstrap busybox-static cpio e2fsprogs kmod dosfstools xfsprogs btrfs-progs nftables iptables openvpn wireguard-tools wireguard-go tcpdump iputils-ping postgresql qemu-utils fdisk clang-14 llvm-14 curl lintian rpm pacman-package-manager cups-daemon cups-client xvfb xclip xsel xdotool sway wl-clipboard weston kwin-wayland python3-gi gir1.2-gtk-3.0 dunst dbus dconf-cli libglib2.0-bin gsettings-desktop-schemas gnome-shell-common libhyperscan5)
[ "${1:-build}" = bench ] && need+=(nftables dnsperf unbound dnsmasq-base iperf3 libhyperscan-dev ripgrep gcc)
missing=()
for p in "${need[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "missing: ${missing[*]} (install them as root with: apt-get install ${missing[*]})" >&2; exit 1; }
  sudo=sudo
fi
echo "== installing what is missing: ${missing[*]}"
$sudo apt-get update -qq
if [ "${1:-build}" = bench ] && [ ! -e /usr/sbin/policy-rc.d ]; then
  # unbound is started by the benchmark alone, and not as this machine's own name server.
  printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null
  $sudo chmod 755 /usr/sbin/policy-rc.d
  trap '$sudo rm -f /usr/sbin/policy-rc.d' EXIT
fi
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
