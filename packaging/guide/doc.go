// Package guide tries the administrator's guide: its test types the guide's commands in their order, against a real
// server and a real agent in monitor mode.
package guide
