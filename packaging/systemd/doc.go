// Package systemd has what runs when the agent cannot: the last resort, a shell script and its unit. Its only Go code
// is the test of that script; the agent's own unit is in platform/service.
package systemd
