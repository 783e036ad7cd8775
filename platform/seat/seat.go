// Package seat says who is at the machine: the users of the active session of each seat, as systemd-logind knows them.
// Only they may see what is plugged into a USB port. The package reads that and decides nothing.
package seat
