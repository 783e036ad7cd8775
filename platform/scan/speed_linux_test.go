//go:build bench

package scan

import (
	"archive/zip"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// letter is a document of a word processor, of about so many bytes: half of them are a picture, as it is with most.
func letter(t testing.TB, size int) string {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	var words []string
	for range 5000 {
		w := make([]byte, 2+r.IntN(9))
		for i := range w {
			w[i] = "etaoinshrdlucmfwypvbgkqjxz"[min(25, r.IntN(7)*r.IntN(5))]
		}
		words = append(words, string(w))
	}
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for name, s := range map[string]string{"[Content_Types].xml": "<Types/>", "word/styles.xml": strings.Repeat(`<w:style w:type="paragraph" w:styleId="a"><w:name w:val="heading"/></w:style>`, 400)} {
		f, _ := z.Create(name)
		_, _ = f.Write([]byte(s))
	}
	f, _ := z.CreateHeader(&zip.FileHeader{Name: "word/media/image1.png", Method: zip.Store})
	picture := make([]byte, size/2)
	for i := range picture {
		picture[i] = byte(r.Uint32())
	}
	_, _ = f.Write(picture)
	f, _ = z.Create("word/document.xml")
	_, _ = f.Write([]byte("<w:document><w:body>"))
	for out.Len() < size-20_000 {
		for range 40 {
			fmt.Fprint(f, `<w:p w:rsidR="00A77427" w:rsidRDefault="007F1D13"><w:pPr><w:jc w:val="both"/></w:pPr>`)
			for range 3 {
				fmt.Fprint(f, `<w:r w:rsidRPr="00A77427"><w:rPr><w:sz w:val="24"/></w:rPr><w:t xml:space="preserve">`)
				for range 8 {
					fmt.Fprint(f, words[r.IntN(len(words))], " ")
				}
				fmt.Fprint(f, `</w:t></w:r>`)
			}
			fmt.Fprint(f, `</w:p>`)
		}
		_ = z.Flush()
	}
	_, _ = f.Write([]byte("<w:p><w:r><w:t>4111 1111 1111 1111</w:t></w:r></w:p></w:body></w:document>"))
	_ = z.Close()
	return out.String()
}

// figures are the middle and the 99th of a hundred.
func figures(list []time.Duration) string {
	for i := range list {
		for j := i; j > 0 && list[j] < list[j-1]; j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", float64(list[len(list)/2].Microseconds())/1000, float64(list[len(list)*99/100].Microseconds())/1000)
}

// TestSpeed is what an opener waits for, with the eight patterns of the engine's own figures.
func TestSpeed(t *testing.T) {
	s := scanner(t)
	const typical = `[{"regex":"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\\.[A-Za-z]{2,}"},{"regex":"\\b(?:\\d[ -]?){12,18}\\d\\b","validator":"luhn"},` +
		`{"regex":"\\b[A-Z]{2}\\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\\b","validator":"iban"},{"regex":"\\b\\d{3}-\\d{2}-\\d{4}\\b","validator":"us_ssn"},` +
		`{"regex":"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"},{"regex":"\\b(?:AKIA|ASIA)[A-Z0-9]{16}\\b"},{"regex":"(?i)\\b(?:strictly confidential|internal use only)\\b"},{"regex":"\\bgh[pousr]_[A-Za-z0-9]{36}\\b"}]`
	if _, err := s.Set(Rules{Patterns: []byte(typical), Key: []byte("key")}, 8); err != nil {
		t.Fatal(err)
	}
	docx := letter(t, 1<<20)
	for _, x := range []struct {
		what, content string
		cold          bool
		found         int
	}{
		{"100 KiB of text, the child warm", strings.Repeat("nothing is in here, 42 times\n", 3531), false, 0},
		{"100 KiB of text, the child gone", strings.Repeat("nothing is in here, 42 times\n", 3531), true, 0},
		{fmt.Sprintf("a docx of %d KiB, the child warm", len(docx)>>10), docx, false, 1},
	} {
		f := document(t, x.content)
		var took []time.Duration
		for range 100 {
			if x.cold {
				s.Close()
			}
			began := time.Now()
			v, err := s.Scan(within(t), f, "")
			if err != nil || len(v.Found) != x.found {
				t.Fatalf("%+v, %v", v, err)
			}
			took = append(took, time.Since(began))
		}
		t.Logf("%s: %s", x.what, figures(took))
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.pid())); err == nil {
		_, after, _ := strings.Cut(string(b), "Pss:")
		line, _, _ := strings.Cut(after, "\n")
		t.Logf("%s; the child has %s (Pss)", s.Engine(), strings.TrimSpace(line))
	}
}
