// Package resume reports when the machine's clock was set or the machine woke from sleep, without waking the processor
// to look. It owns only that notice; the agent decides what to do.
package resume
