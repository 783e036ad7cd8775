// Package systemd holds what runs when the agent cannot: the last resort, a shell script and its
// unit. It owns no Go code beside the test of that script; the agent's own unit is in
// platform/service.
package systemd
