//go:build linux && (amd64 || arm64) && !nohyperscan

package match

import (
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"
)

// The callback does what a function of C would: it writes down what it is told, and ends the scan when there is no room.
func TestCallback(t *testing.T) {
	hits := make([]hit, 5)
	p := &pad{hits: &hits[0], cap: 3}
	call := func(id, to uintptr) uintptr {
		rc, _, _ := purego.SyscallN(onMatchAddress, id, 0xffff, to, 0xff, uintptr(unsafe.Pointer(p)))
		return rc & 0xffffffff
	}
	for i := range uintptr(3) {
		if rc := call(i+7, 1<<31+i); rc != 0 {
			t.Fatalf("%d: %d", i, rc)
		}
	}
	for range 2 {
		if rc := call(1, 1); rc != 1 {
			t.Fatalf("with no room: %d", rc)
		}
	}
	for i, h := range hits {
		want := hit{uint32(i + 7), uint32(1<<31 + i)} //nolint:gosec // small
		if i >= 3 {
			want = hit{}
		}
		if h != want {
			t.Errorf("%d: %+v, want %+v", i, h, want)
		}
	}
	if p.n != 3 {
		t.Errorf("%d hits", p.n)
	}
}
