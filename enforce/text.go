package enforce

import (
	"strings"
	"unicode"
)

// Plain makes text from outside (a device's strings, a server's words, a person's reason) safe to
// print: what is no printing character becomes a dot, so that it cannot be a command to a terminal.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s)
}
