// Package killpoint names the places at which the agent must survive a SIGKILL. In a normal build its calls do nothing.
// A build with the tag "killpoints" kills itself at the place that a test names, so that each place is really tested.
package killpoint

// Points lists all places that a test must hit.
var Points = []string{
	"identity.written", "identity.renamed",
	"store.policy", "store.event", "store.acked",
	"ledger.intend.before", "ledger.intend.after",
	"apply.close.before", "apply.close.after", "apply.guard.after", "apply.open.after",
	"settle.before", "settle.after", "guard.noted",
}
