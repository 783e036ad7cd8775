// Package enforce has the vocabulary of every decision: modes, keys, wants, verdicts, events and findings. It owns no
// state, does no I/O, reads no clock, and imports nothing of Warder. So a decision can be tested on any system,
// replayed on old events, and asked about a future policy. Policies come in through enforce/policy, observations
// through enforce/fact. Wants go out to agent/reconcile, verdicts to a guard, findings and events to the server.
package enforce
