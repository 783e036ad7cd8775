// Package fanotify reads and writes what the kernel's fanotify groups speak (fanotify(7)): events, answers, and the list of what a
// group watches. What is watched, and why, belongs to those who watch.
package fanotify
