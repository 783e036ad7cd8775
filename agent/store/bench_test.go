package store

import (
	"path/filepath"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// BenchmarkPutFindings measures the write of a look's findings, which delays a nudged policy.
func BenchmarkPutFindings(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "store.db"), filepath.Join(b.TempDir(), "standby.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var list []enforce.Finding
	for _, n := range policy.Names() {
		list = append(list, enforce.Finding{Setting: n, Mode: enforce.Enforce, Compliance: enforce.Compliant, Enforcement: enforce.Enforced,
			Reason: "a reason of some words"})
	}
	for b.Loop() {
		if err := s.PutFindings(list); err != nil {
			b.Fatal(err)
		}
	}
}
