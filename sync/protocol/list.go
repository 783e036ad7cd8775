package protocol

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/zstd"
)

// ListWindow is how far back a packed list refers, in bytes: a device needs little more memory to read it.
const ListWindow = 1 << 20

// ListPath is where a device fetches the version of a list with a digest. The answer is the list's text (enforce/policy/list.go),
// packed with zstd. Its ETag is the packed text's own digest, and a part of it can be asked for with Range and If-Range.
func ListPath(device, sha256 string) string { return Base + "/devices/" + device + "/lists/" + sha256 }

// UnpackList reads a packed list.
func UnpackList(in io.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(bufio.NewReaderSize(in, 64<<10), zstd.WithDecoderMaxWindow(ListWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}
