package enforce

import (
	"strings"
	"unicode"
)

// Plain makes text from outside (a device's strings, a server's answer, a person's reason) safe to print: unprintable
// characters become dots, so that they cannot control a terminal.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s)
}
