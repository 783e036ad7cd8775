package text

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// files makes a zip archive of names and contents, in turn.
func files(list ...string) string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(list); i += 2 {
		f, _ := z.Create(list[i])
		_, _ = io.WriteString(f, list[i+1])
	}
	_ = z.Close()
	return b.String()
}

func zipped(s string) string {
	return packed(s, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
}

func packed(s string, by func(io.Writer) (io.WriteCloser, error)) string {
	var b bytes.Buffer
	z, err := by(&b)
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

func tarred(name, s string) string {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	_ = t.WriteHeader(&tar.Header{Name: name, Size: int64(len(s)), Mode: 0o600})
	_, _ = io.WriteString(t, s)
	_ = t.Close()
	return b.String()
}

func wide(s string, big bool) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		if big {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return string(b)
}

// smallPDF is a PDF with one page and these instructions on it.
func smallPDF(content string) string {
	var b strings.Builder
	b.WriteString("%PDF-1.4\n")
	var at []int
	for _, o := range []string{"<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
		"<</Type/Page/Parent 2 0 R/Resources<</XObject<</X 4 0 R>>/Font<</F1 5 0 R>>>>/Contents 4 0 R>>",
		fmt.Sprintf("<</Subtype/Form/Length %d>>stream\n%s\nendstream", len(content), content), "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"} {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(at), o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(at)+1)
	for _, n := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", n)
	}
	fmt.Fprintf(&b, "trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n", len(at)+1, xref)
	return b.String()
}

func extract(t testing.TB, s Source, name string) (string, Report) {
	t.Helper()
	var out bytes.Buffer
	r, err := Extract(s, name, &out, Usual)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), r
}

const card = "4111 1111 1111 1111"

func TestKinds(t *testing.T) {
	docx := files("[Content_Types].xml", "<Types/>", "word/document.xml",
		`<?xml version="1.0"?><w:document><w:body><w:p><w:r><w:t>Card: 4111 11</w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t xml:space="preserve">11 1111 1111</w:t></w:r></w:p><w:p><w:r><w:t>A&amp;B &#x41;&#66;</w:t><w:tab/><w:t>next</w:t></w:r></w:p></w:body></w:document>`,
		"word/_rels/document.xml.rels", `<Relationships><Relationship Id="1" Target="mailto:jane@example.org"/></Relationships>`)
	latin := "Gr\xfc\xdfe: Stra\xdfe"
	letter := "From: Jane <jane@example.org>\r\nTo: x@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nDate: Mon, 2 Jan 2006 15:04:05 -0700\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=xx\r\n\r\n" +
		"--xx\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nStra=DFe 4111 1111=\r\n 1111 1111\r\n" +
		"--xx\r\nContent-Type: application/octet-stream; name=a.docx\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString([]byte(docx)) + "\r\n--xx--\r\n"
	for _, x := range []struct {
		what, name, in, kind string
		want                 []string // in the text
		unread               string
	}{
		{"plain", "a.txt", card, "text", []string{card}, ""},
		{"nothing", "", "", "text", nil, ""},
		{"UTF-8 with a mark", "", "\xef\xbb\xbf" + card, "text", []string{card}, ""},
		{"UTF-16", "", "\xff\xfe" + wide("Größe "+card, false), "utf-16", []string{"Größe " + card}, ""},
		{"UTF-16, big", "", "\xfe\xff" + wide("Größe "+card, true), "utf-16", []string{"Größe " + card}, ""},
		{"UTF-16 without a mark", "", wide("card "+card, false), "utf-16", []string{card}, ""},
		{"Latin-1", "", latin, "text", []string{"Grüße: Straße"}, ""},
		{"docx", "a.docx", docx, "docx", []string{"Card: " + card + "\n", "A&B AB\tnext", "mailto:jane@example.org"}, ""},
		{"docx by another name", "holiday.jpg", docx, "docx", []string{card}, ""},
		{"xlsx", "", files("xl/workbook.xml", "<x/>", "xl/sharedStrings.xml", "<sst><si><t>name</t></si><si><r><t>4111 1111</t></r><r><t> 1111 1111</t></r></si></sst>",
			"xl/worksheets/sheet1.xml", `<row r="1"><c r="A1"><v>4111111111111111</v></c><c r="B1"><v>42</v></c></row>`), "xlsx", []string{card, "4111111111111111\t42"}, ""},
		{"pptx", "", files("ppt/presentation.xml", "<x/>", "ppt/slides/slide1.xml", "<a:p><a:r><a:t>"+card+"</a:t></a:r></a:p>"), "pptx", []string{card}, ""},
		{"odt", "", files("mimetype", "application/vnd.oasis.opendocument.text", "content.xml", "<text:p>4111 <text:span>1111</text:span> 1111 1111</text:p>"), "odt", []string{card}, ""},
		{"ods", "", files("mimetype", "application/vnd.oasis.opendocument.spreadsheet", "content.xml", `<table:table-cell office:value="4111111111111111"/>`), "ods", []string{"4111111111111111"}, ""},
		{"zip", "", files("a/b.txt", card, "c.docx", docx), "zip", []string{card, "mailto:"}, ""},
		{"gz", "a.txt.gz", zipped(card), "gz", []string{card}, ""},
		{"zst", "", packed(card, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }), "zst", []string{card}, ""},
		{"xz", "", packed(tarred("a", card), func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }), "xz", []string{card}, ""},
		{"tar.gz", "a.tgz", zipped(tarred("a.txt", card)), "gz", []string{card}, ""},
		{"three deep", "", files("1.zip", files("2.zip", files("3.txt", card))), "zip", []string{card}, ""},
		{"four deep", "", files("1.zip", files("2.zip", files("3.zip", files("4.txt", card)))), "zip", nil, TooDeep},
		{"PDF", "", smallPDF("BT /F1 12 Tf (Card: 4111) Tj 62 0 Td [(11) 10 (11 1111)-300(1111)] TJ ET"), "pdf", []string{"Card: 4111 1111 1111 1111"}, ""},
		{"PDF, newer", "", strings.Replace(smallPDF("BT (4111 1111 1111 1111) Tj ET"), "%PDF-1.4", "%PDF-2.0", 1), "pdf", []string{card}, ""},
		{"PDF, lines", "", smallPDF("BT /F1 9 Tf (one 12) Tj 0 -12 Td (34 two) Tj ET"), "pdf", []string{"one 12\n34 two"}, ""},
		{"PDF without its tables", "", strings.Replace(smallPDF("BT (4111 1111) Tj ( 1111 1111) Tj ET"), "xref\n", "nothing\n", 2), "pdf", []string{card}, Broken},
		{"e-mail", "a.eml", letter, "mail", []string{"Subject: Grüße", "Straße " + card, "mailto:jane@example.org"}, ""},
		{"e-mail by its fields", "", letter, "mail", []string{"Straße " + card}, ""},
		{"a box of them", "a.mbox", "From a\n" + letter + "\n\nFrom b\nSubject: second\n\nbody 42\n", "mail", []string{"Straße " + card, "Subject: second", "body 42"}, ""},
		{"a program", "", "\x7fELF\x02\x01\x00\x00\x00\x01\x02" + card + "\x00\x00" + wide("wide text", false) + "\x00\x00\x00", "binary", []string{card + "\n", "wide text\n"}, ""},
		{"RTF", "", `{\rtf1\ansi{\fonttbl{\f0 Times 1234;}}{\*\generator x;}Card: 4111 {\b 1111} 1111\tab\par Gr\'fc\u223?e {\i 4111 1111} 1111 1111\par{\pict\bin4 }}}}}`, "rtf", []string{"Card: 4111 1111 1111\t\n", "Grüße " + card + "\n"}, ""},
		{"HTML", "", "<!DOCTYPE html><title>x</title><p>4111 <b>1111</b> 1111&nbsp;1111<p>next<td>cell</td><a href='mailto:a@b.example'>", "html", []string{card, "mailto:a@b.example"}, ""},
		{"flat OpenDocument", "", `<?xml version="1.0"?><office:document><text:p>4111 <text:span>1111</text:span> 1111 1111</text:p>`, "office", []string{card}, ""},
		{"UTF-32", "", "\xff\xfe\x00\x00" + strings.ReplaceAll(wide(card, false), "\x00", "\x00\x00\x00"), "utf-32", []string{card}, ""},
		{"7z", "", "7z\xbc\xaf\x27\x1c\x00\x04 text in it", "7z", []string{"text in it"}, Foreign},
		{"PGP", "", "-----BEGIN PGP MESSAGE-----\n\nhQEMA", "pgp", nil, Encrypted},
		{"an encrypted docx", "", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + strings.Repeat("\x01", 5000) + wide("EncryptedPackage", false), "ole", nil, Encrypted},
		{"a Word file of old", "", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x01" + wide(card, false) + "\x00\x00", "ole", []string{card}, ""},
		{"characters of word processors", "", "4111\u00a01111\u20111111\u2013\u20091\u200b11\u00ad1; \uff11\uff12 \u0663", "text", []string{"4111 1111-1111- 1111; 12 3"}, ""},
		{"a mark inside a number", "", files("word/document.xml", `<w:p><w:r><w:t>4111 11</w:t></w:r><w:bookmarkStart w:id="0" w:name="_GoBack"/><w:r><w:t>11 1111 1111</w:t></w:r><w:r><w:delText>99</w:delText></w:r></w:p><w:p/>`), "docx", []string{card + "\n", "_GoBack", "99"}, ""},
		{"a hyphen that does not break", "", files("word/document2.xml", `<w:p><w:r><w:t>123</w:t><w:noBreakHyphen/><w:t>45</w:t></w:r></w:p>`), "docx", []string{"123-45"}, ""},
		{"XML in UTF-16", "", files("word/document.xml", "\xff\xfe"+wide("<w:p><w:t>"+card+"</w:t></w:p>", false)), "docx", []string{card}, ""},
		{"a tag with a bracket in it", "", files("word/document.xml", `<w:p><w:r w:x="a>b"><w:t>4111 1111</w:t></w:r><!-- > --><w:r><w:t> 1111 1111</w:t></w:r><![CDATA[<raw>]]></w:p>`), "docx", []string{card, "<raw>"}, ""},
		{"a large number in a cell", "", files("xl/workbook.xml", "<x/>", "xl/worksheets/sheet1.xml", `<c><f>B2*1</f><v>4.111111111111111E15</v></c>`), "xlsx", []string{"\n4111111111111111\t"}, ""},
		{"XML", "", `<?xml version="1.0"?><!-- 5500 0000 0000 0004 > and --><!--><a card="4111 1111 1111 1111"><b>12</b><b>34</b></a>`, "xml", []string{"5500 0000 0000 0004", card + "\n", "12\n", "34\n"}, ""},
		{"an archive behind a program", "", "MZ\x90\x00" + strings.Repeat("x", 5000) + files("a.txt", card), "zip", []string{card}, ""},
		{"a name in an archive", "", files(card+".txt", "x"), "zip", []string{card}, ""},
		{"text, and then something else", "", strings.Repeat("text\n", 2000) + "\x00\x01" + wide(card, false) + "\x00\x00", "text", []string{card}, ""},
		{"a turned page", "", smallPDF("BT /F1 12 Tf 0 1 -1 0 100 100 Tm [(41)-5(11)] TJ ( 1111) Tj ( 1111) Tj ( 1111) Tj ET"), "pdf", []string{card}, ""},
		{"a picture in a page", "", smallPDF("BI /W 1 /H 1 ID ((( EI BT (4111 1111 1111 1111) Tj ET"), "pdf", []string{card}, ""},
		{"a title of a PDF", "", strings.Replace(smallPDF("BT (x) Tj ET"), "/Root 1 0 R", "/Root 1 0 R/Info<</Title(4111 1111 1111 1111)>>", 1), "pdf", []string{card}, ""},
		{"a paragraph that begins with From", "a.eml", "Subject: x\n\nText\n\nFrom 4111 1111 1111 1111 it is", "mail", []string{card}, ""},
		{"an e-mail that is encrypted", "a.eml", "Subject: x\nTo: y\nContent-Type: application/pkcs7-mime; name=smime.p7m\n\nx", "mail", nil, Encrypted},
		{"not an e-mail, whatever its name", "a.eml", card, "text", []string{card}, ""},
		{"a packing that is not known", "", strings.ReplaceAll(files("a", strings.Repeat(card, 9)), "\x08\x00\x00\x00\x00\x00", "\x61\x00\x00\x00\x00\x00"), "zip", nil, Foreign},
		{"HTML as people write it", "", "<HTML><BODY><TR><TD>12</TD><TD>4111 1111 1111 1111</TD></TR><li>Room 12<li>5500 0000 0000 0004<P>if 4 < 5 then</P><img alt='15\" disk'><input disabled value=378282246310005><!-- beside --><script>x='s3cret'</script>4111&ensp;1111", "html", []string{"\t" + card + "\t", "\n5500 0000 0000 0004\n", "15\" disk", "378282246310005", "beside", "s3cret", "4111 1111", "4 < 5"}, ""},
		{"a quote inside a quote", "", files("word/document.xml", `<w:p><wp:docPr descr='15" screen'/><w:t>4111 1111 1111 1111</w:t></w:p><w:p><w:t>4 < 5</w:t></w:p><w:r x="`+card), "docx", []string{card + "\n", "4 < 5", `x="` + card}, ""},
		{"a PDF with an archive behind it", "", smallPDF("BT (4111 1111 1111 1111) Tj ET") + files("a", "b"), "zip", []string{card}, "?"},
		{"what was deleted", "", files("word/document.xml", `<w:p><w:delText>4111 1111 </w:delText></w:r><w:r><w:delText>1111 1111</w:delText></w:p>`), "docx", []string{card}, ""},
		{"RTF, hyphens and characters", "", `{\rtf1 \uc0 536\_22\_1234 x\u8364 4111 1111{\field{\*\fldinst MERGEFIELD Card}{\fldrslt 12}}}`, "rtf", []string{"536-22-1234", "x€4111 1111", "\n12"}, ""},
		{"encrypted", "", encrypted(files("a.txt", card)), "zip", nil, Encrypted},
		{"cut off", "", zipped(strings.Repeat(card+"\n", 5000))[:200], "gz", []string{card}, Broken},
		{"no zip", "", "PK\x03\x04" + card, "binary", []string{card}, Broken},
		{"no PDF", "", "%PDF-1.4\n(" + card + ")", "pdf", []string{card}, Broken},
	} {
		t.Run(x.what, func(t *testing.T) {
			text, r := extract(t, strings.NewReader(x.in), x.name)
			if r.Kind != x.kind {
				t.Errorf("it is %q, want %q", r.Kind, x.kind)
			}
			for _, w := range x.want {
				if !strings.Contains(text, w) {
					t.Errorf("there is no %q in %.300q", w, text)
				}
			}
			if got := strings.Join(r.Unread, "; "); got != x.unread && x.unread != "?" {
				t.Errorf("unread: %q, want %q", got, x.unread)
			}
		})
	}
}

// encrypted sets the bit that says so, for each file of an archive.
func encrypted(s string) string {
	b := []byte(s)
	for i := range len(b) - 4 {
		switch string(b[i : i+4]) {
		case "PK\x03\x04":
			b[i+6] |= 1
		case "PK\x01\x02":
			b[i+8] |= 1
		}
	}
	return string(b)
}

// What makes more of itself than is looked at ends where the limit is, and says so.
func TestBombs(t *testing.T) {
	zeros := strings.Repeat("\x00", 64<<20)
	var nested string
	{
		one := zipped(zeros)
		var list []string
		for i := range 40 {
			list = append(list, fmt.Sprintf("%d.gz", i), one)
		}
		nested = files(list...)
	}
	many := func() string {
		var list []string
		for i := range Usual.Members + 10 {
			list = append(list, fmt.Sprint(i), card)
		}
		return files(list...)
	}
	deep := strings.Repeat("<a>", 1<<20) + card + strings.Repeat("</a>", 1<<20)
	for _, x := range []struct {
		what, in, unread string
		text             bool
	}{
		{"2.5 GB in an archive", nested, TooLarge, false},
		{"many files", many(), TooMany, true},
		{"a million tags", files("word/document.xml", deep), "", true},
		{"a tag of 8 MB", files("word/document.xml", "<a "+strings.Repeat("x", 8<<20)+">"+card), "", true},
		{"a comment that does not end", files("word/document.xml", card+"<!-- "+strings.Repeat("-- >", 1<<20)), "", true},
		{"much that was deleted", files("word/document.xml", "<w:delText>"+strings.Repeat("x", 96<<20)+card), "", true},
		{"an archive of itself", quine(20), TooDeep, false},
		{"a PDF whose pages are each other", strings.Replace(smallPDF("BT (x) Tj ET"), "/Kids[3 0 R]", "/Kids[2 0 R]", 1), TooMany + "; " + Broken, false},
		{"a PDF that is drawn with itself", smallPDF("/X Do /X Do (4111 1111 1111 1111) Tj"), "", true},
		{"brackets in brackets", smallPDF(strings.Repeat("[", 1<<20)), "?", false},
	} {
		t.Run(x.what, func(t *testing.T) {
			began := time.Now()
			var out counter
			r, err := Extract(strings.NewReader(x.in), "", &out, Usual)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.Unread, "; "); got != x.unread && x.unread != "?" {
				t.Errorf("unread: %q, want %q", got, x.unread)
			}
			if out.n > Usual.Text {
				t.Errorf("%d bytes", out.n)
			}
			if x.text && !out.card {
				t.Error("the text is not there")
			}
			t.Logf("%d bytes made %d bytes of text in %v", len(x.in), out.n, time.Since(began).Round(time.Millisecond))
		})
	}
}

// counter counts, and sees whether the card comes by.
type counter struct {
	n    int64
	card bool
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.card = c.card || bytes.Contains(b, []byte(card))
	return len(b), nil
}

// quine is an archive in an archive, so many times.
func quine(n int) string {
	s := card
	for range n {
		s = files("a.zip", s)
	}
	return s
}

// A file of 10 GiB that has nearly nothing in it takes no longer than what is in it.
func TestSparse(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 10 << 30
	if _, err := f.WriteAt([]byte("first "+card), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("last 5500 0000 0000 0004"), size-100); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s, err := OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	text, r := extract(t, s, "a")
	if !strings.Contains(text, "first "+card) || !strings.Contains(text, "last 5500 0000 0000 0004") || r.Kind != "binary" || len(r.Unread) > 0 {
		t.Errorf("%+v, %.200q", r, text)
	}
	t.Logf("%v", time.Since(began))
}

// A PDF as a browser makes it, with fonts of its own.
func TestRealPDF(t *testing.T) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("chromium is not installed")
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	if err := os.WriteFile(page, []byte("<meta charset=utf-8><h1>Größe</h1><p>Card: <b>4111</b> 1111 <i>1111</i> 1111<p style='page-break-before: always'>IBAN DE89 3704 0044 0532 0130 00"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "page.pdf")
	c := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir="+dir, "--print-to-pdf="+out, page)
	c.Env = append(os.Environ(), "HOME="+dir)
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	text, r := extract(t, bytes.NewReader(b), "page.pdf")
	for _, want := range []string{"Größe", card, "DE89 3704 0044 0532 0130 00"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in %q", want, text)
		}
	}
	if r.Kind != "pdf" || len(r.Unread) > 0 {
		t.Errorf("%+v", r)
	}
}

// failing is a writer that takes so much.
type failing struct{ left int }

var errTaken = errors.New("no more")

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errTaken
	}
	return len(b), nil
}

// A writer's error ends the work, and comes back.
func TestWriterFails(t *testing.T) {
	for name, in := range map[string]string{"text": strings.Repeat(card, 1<<16), "docx": files("word/document.xml", strings.Repeat("<p>"+card, 1<<16)),
		"pdf": smallPDF(strings.Repeat("("+card+") Tj ", 1<<16)), "gz": zipped(strings.Repeat(card, 1<<16)), "mail": "Subject: x\n\n" + strings.Repeat(card, 1<<16)} {
		if _, err := Extract(strings.NewReader(in), "a.eml"[:5*b2i(name == "mail")], &failing{100_000}, Usual); !errors.Is(err, errTaken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func FuzzExtract(f *testing.F) {
	for _, s := range []string{card, smallPDF("BT (x) Tj ET"), files("word/document.xml", "<p>&#65;<!-- x --><![CDATA[y]]>"), zipped("x"), tarred("a", "b"),
		"From x\nSubject: y\n\nz", wide("wide", false), "\x7fELF\x00", files("a.zip", files("b", "c"))} {
		f.Add([]byte(s), "a.eml")
		f.Add([]byte(s), "")
	}
	small := Limits{Text: 1 << 20, Packed: 1 << 20, Whole: 256 << 10, Depth: 3, Members: 100}
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		var out counter
		r, err := Extract(bytes.NewReader(b), name, &out, small)
		if err != nil {
			t.Fatal(err)
		}
		if out.n > small.Text || r.Kind == "" {
			t.Errorf("%d bytes of text of a %q", out.n, r.Kind)
		}
		for _, s := range r.Unread {
			if !slices.Contains([]string{Encrypted, TooDeep, TooLarge, TooMany, Broken, Foreign, Unlettered}, s) {
				t.Errorf("unread: %q", s)
			}
		}
	})
}
