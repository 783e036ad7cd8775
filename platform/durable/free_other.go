//go:build !unix

package durable

// Free is how many bytes can still be written to the disk that a file is on; false if that is not known.
func Free(string) (int64, bool) { return 0, false }

// Size is how many bytes the disk has that a file is on; false if that is not known.
func Size(string) (int64, bool) { return 0, false }
