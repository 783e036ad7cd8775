// Package warder is the root of the module. It has no code: the tests here pin the rules of the
// house (ARCHITECTURE.md) and compare the README with the code.
package warder
