// Package killpoint names the places at which the agent must survive a SIGKILL. In a normal build
// the calls do nothing; a build with the tag "killpoints" kills itself at the place that a test
// names, so that each of them is really hit.
package killpoint

// Points are all places that a test must hit.
var Points = []string{
	"identity.written", "identity.renamed",
	"store.policy", "store.event", "store.acked",
	"ledger.intend.before", "ledger.intend.after",
	"apply.close.before", "apply.close.after", "apply.guard.after", "apply.open.after",
	"settle.before", "settle.after", "guard.noted",
}
