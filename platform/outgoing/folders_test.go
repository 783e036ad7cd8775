package outgoing

import (
	"slices"
	"testing"

	"github.com/warderd/warder/enforce/fact"
)

func FuzzFolders(f *testing.F) {
	ini, js, x := fact.SyncFolder{Form: fact.FolderINI, Key: "localPath"}, fact.SyncFolder{Form: fact.FolderJSON, Key: "path"}, fact.SyncFolder{Form: fact.FolderXML, Key: "path", Usual: "Sync"}
	for _, c := range []struct {
		text string
		from fact.SyncFolder
		want []string
	}{
		{"[Accounts]\n0\\Folders\\1\\localPath=/home/a/Nextcloud/\n0\\Folders\\2\\localPath=\"/home/a/My files\"\nlocalPathX=/etc\n#localPath=/no\n", ini, []string{"/home/a/Nextcloud/", "/home/a/My files"}},
		{`{"personal":{"path":"/home/a/Dropbox","host":1},"business":{"path":"/home/a/Work"}}`, js, []string{"/home/a/Dropbox", "/home/a/Work"}},
		{`{"path":["x"]`, js, nil},
		{`<configuration version="37"><folder id="d" label="a" path="~/Sync&amp;more" type="sendreceive"><device/></folder><device path="/no"/></configuration>`, x, []string{"~/Sync&more"}},
		{"<configuration>", x, []string{"Sync"}},
	} {
		got := foldersIn([]byte(c.text), c.from)
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			f.Errorf("%s: %q", c.text, got)
		}
		f.Add([]byte(c.text))
	}
	for s, want := range map[string]string{"~/a": "/home/u/a", "$HOME/a": "/home/u/a", "/a": "/a", "OneDrive": "/home/u/OneDrive", "~": "/home/u/~"} {
		if got := absolute("/home/u", s); got != want {
			f.Errorf("%s: %s", s, got)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, from := range []fact.SyncFolder{ini, js, x} {
			if list := foldersIn(b, from); len(list) > maxFolders {
				t.Fatal(len(list))
			}
		}
	})
}
