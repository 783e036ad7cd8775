// Package enforce is the vocabulary of every decision: modes, keys, wants, verdicts, events and
// findings. It owns no state, does no I/O, reads no clock and imports nothing of Warder, so a
// decision can be tested on any system, replayed on yesterday's events and asked about tomorrow's
// policy. Policies come in through enforce/policy, observations through enforce/fact; what comes
// out goes to agent/reconcile (wants), to a guard (verdicts) and to the server (findings, events).
package enforce
