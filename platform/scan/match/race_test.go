//go:build race

package match

// raced: RE2, which is translated to Go, is thirty times as slow under the race detector. make test runs these tests without it as well.
const raced = true
