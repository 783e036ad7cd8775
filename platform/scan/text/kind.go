package text

import (
	"bytes"
	"path"
	"strings"

	xunicode "golang.org/x/text/encoding/unicode"
)

// opaque are kinds of files whose text cannot be had, by how they begin. What is said of them is why.
var opaque = []struct{ begins, kind, why string }{
	{"7z\xbc\xaf\x27\x1c", "7z", Foreign},
	{"Rar!\x1a\x07", "rar", Foreign},
	{"MSCF\x00\x00\x00\x00", "cab", Foreign},
	{"-----BEGIN PGP MESSAGE-----", "pgp", Encrypted},
	{"age-encryption.org/v1", "age", Encrypted},
	{"-----BEGIN AGE ENCRYPTED FILE-----", "age", Encrypted},
	{"Salted__", "openssl", Encrypted},
	{"\x1f\x9d", "Z", Foreign},
	{"\x04\x22\x4d\x18", "lz4", Foreign},
	{"\x5d\x00\x00", "lzma", Foreign},
	{"LUKS\xba\xbe", "luks", Encrypted},
}

// opaqueKind tells one of them.
func opaqueKind(head []byte) (kind, why string) {
	for _, o := range opaque {
		if bytes.HasPrefix(head, []byte(o.begins)) {
			return o.kind, o.why
		}
	}
	return "", ""
}

// ole is how files of Microsoft's older programs begin, and what a document is in that they have encrypted.
var (
	ole          = []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
	oleEncrypted = []byte("E\x00n\x00c\x00r\x00y\x00p\x00t\x00e\x00d\x00P\x00a\x00c\x00k\x00a\x00g\x00e\x00")
)

// isZip tells an archive by how it begins: with a file, with the end of an empty one, or with the mark of several parts.
func isZip(head []byte) bool {
	for _, s := range []string{"PK\x03\x04", "PK\x05\x06", "PK\x07\x08"} {
		if bytes.HasPrefix(head, []byte(s)) {
			return true
		}
	}
	return false
}

// zipEnd tells one by how it ends: anything may be before it.
func zipEnd(s Source) bool {
	const most = 22 + 1024
	b := make([]byte, min(most, s.Size()))
	n, _ := s.ReadAt(b, s.Size()-int64(len(b)))
	at := bytes.LastIndex(b[:n], []byte("PK\x05\x06"))
	return at >= 0 && n-at >= 22
}

// isPDF tells a PDF, before which there may be a little.
func isPDF(head []byte) bool {
	at := bytes.Index(head[:min(len(head), 1024)], []byte("%PDF-"))
	return at == 0 || at > 0 && at+8 < len(head) && head[at+5] >= '1' && head[at+5] <= '2' && head[at+6] == '.'
}

// isXML tells XML by its declaration.
func isXML(head []byte) bool {
	if order, is := isUTF16(head); is {
		head, _ = xunicode.UTF16(order, xunicode.UseBOM).NewDecoder().Bytes(head[:len(head)&^1])
	}
	return bytes.HasPrefix(bytes.TrimLeft(head, "\xef\xbb\xbf \t\r\n"), []byte("<?xml"))
}

// isHTML tells a page by its name, or by how it begins.
func isHTML(head []byte, name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".html", ".htm", ".xhtml":
		return true
	}
	start := bytes.ToLower(bytes.TrimLeft(head[:min(len(head), 512)], "\xef\xbb\xbf \t\r\n"))
	return bytes.HasPrefix(start, []byte("<!doctype html")) || bytes.HasPrefix(start, []byte("<html"))
}

// isFlat tells documents that are one file of XML: OpenDocument's, Word's, and drawings.
func isFlat(head []byte) bool {
	if start := bytes.TrimLeft(head, "\xef\xbb\xbf \t\r\n"); len(start) < 5 || start[0] != '<' || start[1] != '?' && start[1] != '!' && start[1] != 's' {
		return false
	}
	for _, s := range []string{"<office:document", "<w:wordDocument", "<pkg:package", "<?mso-application", "<svg"} {
		if bytes.Contains(head[:min(len(head), 1024)], []byte(s)) {
			return true
		}
	}
	return false
}
