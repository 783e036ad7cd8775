// Package warder is the root of the module. It holds no code: the tests here pin the rules of the
// house (ARCHITECTURE.md) and hold the README against the code.
package warder
