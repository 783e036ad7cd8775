package all

import (
	"os"
	"testing"

	"github.com/warderd/warder/sync/dialect"
)

// BenchmarkFleet translates 10,000 profiles, of all vendors in turn: those that the translators' own tests have, with many features.
func BenchmarkFleet(b *testing.B) {
	var docs [][]byte
	var translate []func([]byte, dialect.Options) (dialect.Translation, error)
	for id, name := range map[string]string{"apperian": "applied.json", "manageengine": "many.json", "mocana": "browser.json", "wso2": "many.json"} {
		v, _ := Find(id)
		doc, err := os.ReadFile("../" + id + "/testdata/" + name)
		if err != nil {
			b.Fatal(err)
		}
		docs, translate = append(docs, doc), append(translate, v.Translate)
	}
	for b.Loop() {
		for i := range 10_000 {
			if _, err := translate[i%len(docs)](docs[i%len(docs)], dialect.Options{}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
