package cli

import (
	"strings"
	"unicode/utf8"
)

// Table prints rows below headings, each column as wide as its longest cell. It makes the cells safe.
func (s Screen) Table(headings []string, rows [][]string) {
	widths := make([]int, len(headings))
	table := append([][]string{headings}, rows...)
	for y, row := range table {
		safe := make([]string, len(headings))
		for x := range headings {
			if x < len(row) {
				safe[x] = string(Plain(row[x]))
			}
			widths[x] = max(widths[x], utf8.RuneCountInString(safe[x]))
		}
		table[y] = safe
	}
	for y, row := range table {
		var line strings.Builder
		for x, cell := range row {
			line.WriteString(cell)
			if x < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[x]-utf8.RuneCountInString(cell)+2))
			}
		}
		text := Painted(strings.TrimRight(line.String(), " "))
		if y == 0 {
			text = s.Dim(text)
		}
		s.Printf("%s\n", text)
	}
}
