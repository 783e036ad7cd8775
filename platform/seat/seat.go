// Package seat says who sits at the machine: the users of the active session of each seat, as
// systemd-logind knows them. What a USB port sees is theirs to see, and no other user's. It owns reading
// that and decides nothing.
package seat
