// Package upgrade has what earlier versions stored, and tests that the present version accepts it: nothing opens on the
// way, what was changed can be given back exactly, and versions talk to each other in both directions. It only contains
// tests.
//
// testdata/VERSION.tar.gz is made by the test in testdata/VERSION.go.txt, copied into that version's package agent
// (testdata/README.md says how). Every version in use gets one, and it is never made again.
package upgrade
