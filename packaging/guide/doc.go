// Package guide tests the administrator's guide: it types the guide's commands in order, against a real server and a
// real agent in monitor mode.
package guide
