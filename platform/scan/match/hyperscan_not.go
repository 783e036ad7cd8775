//go:build !linux || (!amd64 && !arm64) || nohyperscan

package match

import "errors"

// Library is Hyperscan, which this build does without.
type Library struct{}

// OpenLibrary says that there is none.
func OpenLibrary() (*Library, error) {
	return nil, errors.New("this build does without Hyperscan")
}

// Version is empty.
func (*Library) Version() string { return "" }

type hyperscan struct{ alternation }

func newHyperscan(*Library, []pattern, []byte) (*hyperscan, error) {
	return nil, errors.New("this build does without Hyperscan")
}

func (*hyperscan) serialize() []byte { return nil }
