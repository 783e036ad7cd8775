// Package datacontrol reads and replaces what is copied on a Wayland desktop, by the protocols that compositors have for clipboard managers:
// ext-data-control-v1, and wlr-data-control-unstable-v1 before it (the same messages under other names). wlroots and KDE have them, GNOME
// has none. It owns no policy.
package datacontrol
