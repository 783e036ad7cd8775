package library

import (
	"bufio"
	"io"
)

// lineOf is the line of a text that is exactly a name; 0 if none is.
func lineOf(text io.Reader, name string) (line int) {
	lines := bufio.NewScanner(text)
	for n := 1; lines.Scan(); n++ {
		if string(lines.Bytes()) == name {
			return n
		}
	}
	return 0
}
