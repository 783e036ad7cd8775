//go:build linux && (amd64 || arm64) && !nohyperscan

package match

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Library is Hyperscan, or Vectorscan with the same interface (https://intel.github.io/hyperscan/dev-reference/).
type Library struct {
	version                                                                uintptr
	compile, freeError, allocScratch, scan, serialize, deserialize, freeDB uintptr
}

// OpenLibrary opens the library that is installed, or says why it cannot.
func OpenLibrary() (*Library, error) {
	h, err := purego.Dlopen("libhs.so.5", purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, err
	}
	l := &Library{}
	var valid uintptr
	for name, to := range map[string]*uintptr{"hs_version": &l.version, "hs_compile_multi": &l.compile,
		"hs_free_compile_error": &l.freeError, "hs_alloc_scratch": &l.allocScratch, "hs_scan": &l.scan,
		"hs_serialize_database": &l.serialize, "hs_deserialize_database": &l.deserialize,
		"hs_free_database": &l.freeDB, "hs_valid_platform": &valid} {
		if *to, err = purego.Dlsym(h, name); err != nil {
			return nil, err
		}
	}
	if rc, _, _ := purego.SyscallN(valid); rc != hsSuccess {
		return nil, errors.New("the library needs a processor with SSSE3")
	}
	return l, nil
}

// Version is the library's own word for it.
func (l *Library) Version() string {
	p, _, _ := purego.SyscallN(l.version)
	return text(p)
}

// text copies a C string of the library's.
func text(p uintptr) string {
	if p == 0 {
		return ""
	}
	var b []byte
	for at := pointer(p); *(*byte)(at) != 0 && len(b) < 1000; at = unsafe.Add(at, 1) {
		b = append(b, *(*byte)(at))
	}
	return string(b)
}

// pointer is an address that C has returned: nothing that Go's collector knows.
func pointer(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// From hs_compile.h and hs_common.h.
const (
	hsSuccess    = 0
	hsTerminated = -3
	hsModeBlock  = 1
)

// hit is what the callback writes down: which pattern, and where a match ends.
type hit struct{ pattern, end uint32 }

// pad is what the callback is given. callback_*.s knows its fields by their offsets.
type pad struct {
	hits *hit
	n    uint64
	cap  uint64
}

// onMatch is the callback, in assembly: it is called by C, for each match, and must not enter Go. Go knows its address alone.
func onMatch() //lint:ignore U1000 callback_*.s has it

// onMatchAddress is where its code is.
var onMatchAddress uintptr

const (
	firstHits = 64 << 10
	mostHits  = 4 << 20
)

// hyperscan is the gate.
type hyperscan struct {
	l       *Library
	db      [2]uintptr // what is looked for everywhere, and in runs alone; 0: nothing is
	scratch uintptr
	exprs   []translated
	runs    runs
	pad     *pad
	hits    []hit
	pieces  []area
	beside  *alternation // what the library does not take
	besides []int
}

const everywhere, inRuns = 0, 1

// where is in which of the databases an expression is.
func (x *translated) where() int {
	if x.run != nil {
		return inRuns
	}
	return everywhere
}

// newHyperscan compiles the patterns, or takes what serialize has returned for them.
func newHyperscan(l *Library, patterns []pattern, cached []byte) (*hyperscan, error) {
	h := &hyperscan{l: l, pad: &pad{}}
	for i := range patterns {
		x := translate(&patterns[i].expr)
		if x.run != nil {
			x.run = h.runs.of(x.run)
		}
		h.exprs = append(h.exprs, x)
	}
	if !h.load(cached) {
		if err := errors.Join(h.build(everywhere), h.build(inRuns)); err != nil {
			h.close()
			return nil, err
		}
	}
	for _, db := range h.db {
		if db == 0 {
			continue
		}
		if rc, _, _ := purego.SyscallN(l.allocScratch, db, uintptr(unsafe.Pointer(&h.scratch))); int32(rc) != hsSuccess { //nolint:gosec // an int of C
			h.close()
			return nil, fmt.Errorf("the library has no memory (%d)", int32(rc)) //nolint:gosec // an int of C
		}
	}
	for i := range h.exprs {
		if h.exprs[i].text == "" {
			h.besides = append(h.besides, i)
		}
	}
	var err error
	h.beside, err = newAlternation(patterns, h.besides)
	return h, err
}

// build compiles what the library takes of one of the two. The rest is left to RE2.
func (h *hyperscan) build(which int) error {
	for {
		var texts [][]byte
		var flags, ids []uint32
		for i, x := range h.exprs {
			if x.text != "" && x.where() == which {
				texts, flags, ids = append(texts, append([]byte(x.text), 0)), append(flags, x.flags), append(ids, uint32(i)) //nolint:gosec // an index
			}
		}
		if len(texts) == 0 {
			return nil
		}
		at, why, err := h.compile(which, texts, flags, ids)
		if err != nil {
			return err
		}
		if why == "" {
			return nil
		}
		if at < 0 { // none by itself: all together are too large
			return errors.New(why)
		}
		h.exprs[ids[at]].text = ""
	}
}

// compile makes the database, or says which of the expressions was refused, and why.
func (h *hyperscan) compile(which int, texts [][]byte, flags, ids []uint32) (at int, why string, err error) {
	pins := runtime.Pinner{}
	defer pins.Unpin()
	addresses := make([]*byte, len(texts))
	for i := range texts {
		pins.Pin(&texts[i][0])
		addresses[i] = &texts[i][0]
	}
	var failed *struct {
		message    uintptr
		expression int32
	}
	rc, _, _ := purego.SyscallN(h.l.compile, uintptr(unsafe.Pointer(&addresses[0])), uintptr(unsafe.Pointer(&flags[0])), uintptr(unsafe.Pointer(&ids[0])),
		uintptr(len(texts)), hsModeBlock, 0, uintptr(unsafe.Pointer(&h.db[which])), uintptr(unsafe.Pointer(&failed)))
	runtime.KeepAlive(addresses)
	runtime.KeepAlive(flags)
	runtime.KeepAlive(ids)
	if int32(rc) == hsSuccess { //nolint:gosec // an int of C
		return 0, "", nil
	}
	h.db[which] = 0
	if failed == nil {
		return 0, "", fmt.Errorf("the library compiles nothing (%d)", int32(rc)) //nolint:gosec // an int of C
	}
	at, why = int(failed.expression), text(failed.message)
	purego.SyscallN(h.l.freeError, uintptr(unsafe.Pointer(failed)))
	if why == "" {
		why = "refused"
	}
	return at, why, nil
}

// The serialised form: for each pattern whether the library took it, and for what; the length of the first database, and both in
// the library's own form, which has a checksum.
const cacheMagic = "warder-scan 2\n"

func (h *hyperscan) serialize() []byte {
	out := []byte(cacheMagic + h.l.Version() + "\n")
	out = binary.LittleEndian.AppendUint32(out, uint32(len(h.exprs))) //nolint:gosec // at most some thousand
	for i := range h.exprs {
		out = append(out, h.exprs[i].taken())
	}
	var dbs [2][]byte
	for i, db := range h.db {
		if db == 0 {
			continue
		}
		var p, n uintptr
		if rc, _, _ := purego.SyscallN(h.l.serialize, db, uintptr(unsafe.Pointer(&p)), uintptr(unsafe.Pointer(&n))); int32(rc) != hsSuccess || n > math.MaxInt32 { //nolint:gosec // an int of C
			return nil
		}
		dbs[i] = unsafe.Slice((*byte)(pointer(p)), n) // the library's copy is not given back: it happens once
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(len(dbs[everywhere]))) //nolint:gosec // as above
	return append(append(out, dbs[everywhere]...), dbs[inRuns]...)
}

// taken is what is cached of an expression: 0 if the library does not take it, and otherwise which of the two it is in.
func (x *translated) taken() byte {
	if x.text == "" {
		return 0
	}
	return byte(1 + x.where()) //nolint:gosec // 1 or 2
}

// load takes a serialised form, if it is of this library and of these patterns.
func (h *hyperscan) load(b []byte) bool {
	b, ours := bytes.CutPrefix(b, []byte(cacheMagic+h.l.Version()+"\n"))
	if !ours || len(b) < 8+len(h.exprs) || binary.LittleEndian.Uint32(b) != uint32(len(h.exprs)) { //nolint:gosec // at most some thousand
		return false
	}
	exprs := slices.Clone(h.exprs)
	some := [2]bool{}
	for i := range exprs {
		x := &exprs[i]
		switch b[4+i] {
		case 0:
			x.text = ""
		case x.taken():
			some[x.where()] = true
		default:
			return false
		}
	}
	b = b[4+len(exprs):]
	first, b := uint64(binary.LittleEndian.Uint32(b)), b[4:]
	if first > uint64(len(b)) {
		return false
	}
	for i, db := range [2][]byte{b[:first], b[first:]} {
		if some[i] != (len(db) > 0) || some[i] && !h.deserialize(i, slices.Clone(db)) { // at an address that suits the library
			h.close()
			return false
		}
	}
	h.exprs = exprs
	return true
}

func (h *hyperscan) deserialize(which int, db []byte) bool {
	rc, _, _ := purego.SyscallN(h.l.deserialize, uintptr(unsafe.Pointer(&db[0])), uintptr(len(db)), uintptr(unsafe.Pointer(&h.db[which])))
	runtime.KeepAlive(db)
	if int32(rc) != hsSuccess { //nolint:gosec // an int of C
		h.db[which] = 0
	}
	return h.db[which] != 0
}

func (h *hyperscan) name() string {
	s := "Hyperscan " + strings.TrimSpace(h.l.Version())
	if len(h.besides) > 0 {
		s += fmt.Sprintf(", RE2 for %d of %d patterns", len(h.besides), len(h.exprs))
	}
	return s
}

func (h *hyperscan) close() {
	for i, db := range h.db {
		if db != 0 {
			purego.SyscallN(h.l.freeDB, db)
			h.db[i] = 0
		}
	}
}

func (h *hyperscan) look(b []byte, areas [][]area) error {
	if err := h.beside.look(b, areas); err != nil || len(b) == 0 {
		return err
	}
	if err := h.run(everywhere, b, area{0, len(b) - 1}, areas); err != nil || h.db[inRuns] == 0 {
		return err
	}
	h.pieces = h.runs.find(b, h.pieces)
	for _, piece := range h.pieces {
		if err := h.run(inRuns, b, piece, areas); err != nil {
			return err
		}
	}
	return nil
}

// run has the library look at a piece of a text with one of the two.
func (h *hyperscan) run(which int, b []byte, piece area, areas [][]area) error {
	if h.db[which] == 0 {
		return nil
	}
	whole, err := h.scan(h.db[which], b[piece.from:piece.to+1])
	if err != nil {
		return err
	}
	if !whole { // more than can be written down: then RE2 looks everywhere
		for i := range h.exprs {
			if h.exprs[i].text != "" && h.exprs[i].where() == which {
				areas[i] = append(areas[i][:0], area{0, len(b) - 1})
			}
		}
		return nil
	}
	for _, x := range h.hits[:h.pad.n] {
		if int(x.pattern) >= len(h.exprs) {
			continue
		}
		e, end := &h.exprs[x.pattern], piece.from+int(x.end)
		if from, to := e.from(b, end), end-e.least; to >= from {
			areas[x.pattern] = join(areas[x.pattern], area{from, to}, nearby)
		}
	}
	return nil
}

// scan has the library look at some bytes. It reports whether all hits could be written down.
func (h *hyperscan) scan(db uintptr, b []byte) (whole bool, err error) {
	if h.hits == nil {
		h.hits = make([]hit, firstHits)
	}
	for {
		h.pad.hits, h.pad.n, h.pad.cap = &h.hits[0], 0, uint64(len(h.hits))
		rc, _, _ := purego.SyscallN(h.l.scan, db, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, h.scratch, onMatchAddress,
			uintptr(unsafe.Pointer(h.pad)))
		runtime.KeepAlive(b)
		runtime.KeepAlive(h)
		switch int32(rc) { //nolint:gosec // an int of C
		case hsSuccess:
			return true, nil
		case hsTerminated:
			if len(h.hits) >= mostHits {
				h.hits = nil
				return false, nil
			}
			h.hits = make([]hit, 8*len(h.hits))
		default:
			return false, fmt.Errorf("the library has failed (%d)", int32(rc)) //nolint:gosec // an int of C
		}
	}
}
