// Package upgrade holds what earlier versions stored, and the tests that the present version takes it:
// nothing opens on the way, what was changed can be given back exactly, and versions talk to each other
// in both directions. It owns no code beside tests.
//
// testdata/VERSION.tar.gz is made by the test in testdata/VERSION.go.txt, put into that version's package
// agent (testdata/README.md says how). A version that others use gets one, and it is never made anew.
package upgrade
