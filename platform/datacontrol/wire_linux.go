package datacontrol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The wire format of Wayland (wayland.freedesktop.org/docs/html/ch04.html): an object, an opcode with the length of all, and arguments of
// 32 bits each in the machine's order; a text has its length, with a zero at its end, and fills up to 32 bits.

const (
	headSize   = 8
	maxMessage = 64 << 10 // libwayland's own buffers are 4 KiB, and grow in newer versions
	maxFDs     = 32       // descriptors that nobody has asked for yet
)

var errWire = errors.New("the compositor sends what is not Wayland")

// message is one message; err says that it has less than it should.
type message struct {
	object uint32
	opcode uint16
	args   []byte
	err    error
}

func (m *message) uint() uint32 {
	if len(m.args) < 4 {
		m.err, m.args = errWire, nil
		return 0
	}
	v := binary.NativeEndian.Uint32(m.args)
	m.args = m.args[4:]
	return v
}

func (m *message) string() string {
	size := m.uint()
	if size == 0 {
		return ""
	}
	n := int(min(size, maxMessage+1)) //nolint:gosec // bounded
	padded := (n + 3) &^ 3
	if padded > len(m.args) || m.args[n-1] != 0 {
		m.err, m.args = errWire, nil
		return ""
	}
	s := string(m.args[:n-1])
	m.args = m.args[padded:]
	return s
}

// cut takes the first message out of what has come; is says whether there is a whole one.
func cut(b []byte) (m message, rest []byte, is bool, err error) {
	if len(b) < headSize {
		return m, b, false, nil
	}
	v := binary.NativeEndian.Uint32(b[4:])
	size := int(v >> 16)
	if size < headSize || size%4 != 0 {
		return m, nil, false, fmt.Errorf("%w: a message of %d bytes", errWire, size)
	}
	if len(b) < size {
		return m, b, false, nil
	}
	return message{object: binary.NativeEndian.Uint32(b), opcode: uint16(v), args: b[headSize:size]}, b[size:], true, nil //nolint:gosec // its lower half
}

// pack makes a message of 32-bit numbers and texts.
func pack(object uint32, opcode uint16, args ...any) []byte {
	b := make([]byte, headSize, 64)
	for _, a := range args {
		switch v := a.(type) {
		case uint32:
			b = binary.NativeEndian.AppendUint32(b, v)
		case string:
			b = binary.NativeEndian.AppendUint32(b, uint32(len(v)+1)) //nolint:gosec // of a name
			b = append(b, v...)
			b = append(b, make([]byte, 4-len(v)%4)...)
		}
	}
	binary.NativeEndian.PutUint32(b, object)
	binary.NativeEndian.PutUint32(b[4:], uint32(len(b))<<16|uint32(opcode)) //nolint:gosec // bounded by its names
	return b
}

// wire sends and reads messages.
type wire struct {
	conn *net.UnixConn
	buf  []byte // what has come and was not read
	fds  []int

	mu sync.Mutex // one sends at a time
}

func newWire(c *net.UnixConn) *wire { return &wire{conn: c} }

// send sends a message, with a descriptor if it is not -1. An error ends the connection: nobody knows how much of it has been sent.
func (w *wire) send(object uint32, opcode uint16, fd int, args ...any) error {
	for i, a := range args {
		if n, ok := a.(int); ok {
			args[i] = uint32(n) //nolint:gosec // a constant
		}
	}
	b := pack(object, opcode, args...)
	if len(b) > 4096 { // libwayland's bound
		return fmt.Errorf("a message of %d bytes is too long for a compositor", len(b))
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.conn.SetWriteDeadline(time.Now().Add(writeWait))
	n, _, err := w.conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = w.conn.Write(b[n:])
	}
	if err != nil {
		_ = w.conn.Close()
	}
	return err
}

// read waits for a message.
func (w *wire) read() (message, error) {
	for {
		m, rest, is, err := cut(w.buf)
		if err != nil {
			w.closeAll()
		}
		if err != nil || is {
			w.buf = rest
			return m, err
		}
		if len(w.buf) > maxMessage {
			return m, errWire
		}
		b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*maxFDs))
		n, on, _, _, err := w.conn.ReadMsgUnix(b, oob)
		if err == nil && n == 0 {
			err = net.ErrClosed
		}
		if err != nil {
			w.closeAll()
			return m, err
		}
		if err := w.keep(oob[:on]); err != nil {
			return m, err
		}
		w.buf = append(append(make([]byte, 0, len(w.buf)+n), w.buf...), b[:n]...)
	}
}

// keep keeps the descriptors that have come.
func (w *wire) keep(oob []byte) error {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
		w.fds = append(w.fds, fds...)
	}
	if len(w.fds) > maxFDs {
		w.closeAll()
		return fmt.Errorf("%w: more than %d descriptors that belong to nothing", errWire, maxFDs)
	}
	return nil
}

func (w *wire) closeAll() {
	for _, fd := range w.fds {
		_ = unix.Close(fd)
	}
	w.fds = nil
}

// fd is the descriptor of the message that was read last.
func (w *wire) fd() (int, error) {
	if len(w.fds) == 0 {
		return -1, fmt.Errorf("%w: a message without its descriptor", errWire)
	}
	fd := w.fds[0]
	w.fds = w.fds[1:]
	return fd, nil
}
