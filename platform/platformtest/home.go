package platformtest

import (
	"os"
	"testing"
	"time"
)

// Home is a directory for a program that may still write there for a moment after it was ended, as browsers do by their children: it is
// removed as soon as that can be done.
func Home(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "home")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var err error
		for range 300 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error(err)
	})
	return dir
}
