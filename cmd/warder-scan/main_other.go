//go:build !linux

// On other systems there is nothing to look for yet.

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "warder-scan: documents are looked into on Linux alone")
	os.Exit(1)
}
