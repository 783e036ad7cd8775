package platformtest

import (
	"errors"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

func TestFake(t *testing.T) {
	Conformance(t, func(*testing.T) Subject {
		g := &Gate{}
		f := NewFake(g.Pass, platform.Kind{Name: "k"})
		f.Set("k", "a", "1")
		f.Refuse[enforce.Key{Kind: "k", ID: "../../etc/passwd"}] = errors.New("no such thing")
		return Subject{Backend: f, Key: enforce.Key{Kind: "k", ID: "a"}, Other: "0", Gate: g,
			Elsewhere: func(_ *testing.T, v enforce.Value) { f.Changed("k", "a", v, enforce.Program{PID: 1}) }}
	})
}
