package reconcile

import (
	"bytes"
	"os"
	"testing"
)

func noise(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Repeat([]byte("noise "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path + "-wal")
}
