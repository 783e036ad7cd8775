// Package link reports when the machine gets a route to other networks, so that the agent can check in at once instead
// of waiting for its back-off. It owns only that notice.
package link
