package resolver

import "testing"

// FuzzSeen: no packet panics, and what is read of one lies within it.
func FuzzSeen(f *testing.F) {
	for _, p := range [][]byte{nil, {0x45}, append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 4, 1, 0, 20, 0, 0},
		packed(f, "a.example", 1, true)...), append(append([]byte{0x60}, make([]byte, 39)...), 1, 187, 0, 53, 0, 0, 0, 0, 0)} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, ok := parseIP(p)
		if ok && (!h.from.IsValid() || !h.to.IsValid() || len(h.data) > len(p)-28) {
			t.Fatalf("%+v of %d bytes", h, len(p))
		}
	})
}
