package outgoing

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce/fact"
)

// The bounds of what a client's configuration may say. It is a user's own file.
const (
	maxConfig  = 1 << 20
	maxFolders = 32 // of one client of one user
	maxPath    = 4096
)

// foldersIn reads the folders that a client's configuration names, as they are written there.
func foldersIn(b []byte, from fact.SyncFolder) (out []string) {
	switch from.Form {
	case fact.FolderINI:
		for line := range strings.SplitSeq(string(b), "\n") {
			key, value, ok := strings.Cut(line, "=")
			key = strings.TrimSpace(key)
			if i := strings.LastIndexByte(key, '\\'); i >= 0 { // Qt's arrays: 0\Folders\1\localPath
				key = key[i+1:]
			}
			if ok && key == from.Key {
				out = append(out, strings.Trim(strings.TrimSpace(value), `"`))
			}
		}
	case fact.FolderJSON:
		var v any
		if json.Unmarshal(b, &v) == nil {
			out = inJSON(v, from.Key, out)
			slices.Sort(out) // in whatever order Go has it
		}
	case fact.FolderXML:
		in := xml.NewDecoder(bytes.NewReader(b))
		in.Strict = false
		for {
			t, err := in.Token()
			if err != nil {
				break
			}
			if e, ok := t.(xml.StartElement); ok && e.Name.Local == "folder" {
				for _, a := range e.Attr {
					if a.Name.Local == from.Key {
						out = append(out, a.Value)
					}
				}
			}
		}
	}
	if out = valid(out); len(out) == 0 && from.Usual != "" {
		out = []string{from.Usual}
	}
	return out
}

func inJSON(v any, key string, out []string) []string {
	switch x := v.(type) {
	case map[string]any:
		for k, y := range x {
			if s, ok := y.(string); ok && k == key {
				out = append(out, s)
			}
			out = inJSON(y, key, out)
		}
	case []any:
		for _, y := range x {
			out = inJSON(y, key, out)
		}
	}
	return out
}

// valid leaves out what names nothing.
func valid(list []string) (out []string) {
	for _, s := range list {
		if s != "" && len(s) <= maxPath && !strings.ContainsRune(s, 0) && len(out) < maxFolders {
			out = append(out, s)
		}
	}
	return out
}

// absolute is the path of a folder of a user with that home directory.
func absolute(home, s string) string {
	for _, p := range []string{"~/", "$HOME/", "${HOME}/"} {
		if rest, ok := strings.CutPrefix(s, p); ok {
			return home + "/" + rest
		}
	}
	if !strings.HasPrefix(s, "/") {
		return home + "/" + s
	}
	return s
}
