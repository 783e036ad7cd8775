// Package resume tells when the machine's clock was set or the machine woke from sleep, without
// waking the processor to look. It owns the notice alone: what to do then is the agent's.
package resume
