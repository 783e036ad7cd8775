//go:build !simulate

package main

import "github.com/warderd/warder/agent"

// simulated changes nothing: only a build for demonstrations knows simulated hardware.
func simulated(o agent.Options) agent.Options { return o }
