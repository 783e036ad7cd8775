// Package link tells when the machine gains a way to other networks. It owns the notice alone: the
// agent checks in then, instead of waiting for its back-off.
package link
