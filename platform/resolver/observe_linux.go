package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// observer listens to the questions that leave this machine over UDP, for the modes below enforce: its own, and those that it
// forwards for containers. It changes nothing.
type observer struct {
	rules atomic.Pointer[standing]
	file  *os.File
	done  sync.WaitGroup
}

// questions is the socket's filter, on packets that begin with their IP header: UDP to port 53, over IPv4 without options
// that are not there and unfragmented, or over IPv6 without extension headers.
var questions = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 14}, // what others send is not ours
	bpf.LoadAbsolute{Off: 0, Size: 1},                                           // 0 of what follows
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 7}, // 2: to 10
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 9}, // 4: to 14
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 7}, // 6: to 14
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.Jump{Skip: 3}, // 9: to 13
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 2}, // 11: to 14
	bpf.LoadAbsolute{Off: 42, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 53, SkipTrue: 1}, // 13: to 15
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: packet},
}

// eavesdrop starts listening.
func (r *Resolver) eavesdrop(s *standing) (*observer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(questions)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, x := range raw {
		filter[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	// The filter first: an open socket without one would take every packet.
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil { //nolint:gosec // sixteen lines
		_ = unix.Close(fd)
		return nil, fmt.Errorf("the filter was refused: %w", err)
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	w := &observer{file: os.NewFile(uintptr(fd), "questions")}
	w.rules.Store(s)
	w.done.Go(func() { r.hear(w) })
	return w, nil
}

func (w *observer) close() {
	_ = w.file.Close()
	w.done.Wait()
}

// hear judges the questions that it sees.
func (r *Resolver) hear(w *observer) {
	buf := make([]byte, packet)
	var scratch [256]byte
	var q question
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		p := payload(buf[:n])
		if p == nil {
			continue
		}
		if rcode, answer := q.parse(p, &scratch); !answer || rcode != rcodeOK {
			continue
		}
		s := w.rules.Load()
		d := fact.Destination{Name: string(q.name)}
		if v := r.verdict(s, &d); v.WouldDeny && !r.told.enough(d.Name, true, time.Now()) {
			r.refused(s, d, v, d.Name)
		}
	}
}

// payload is what an IP packet with UDP carries.
func payload(p []byte) []byte {
	at := 40
	if len(p) > 0 && p[0]>>4 == 4 {
		at = 4 * int(p[0]&0xf)
	}
	if at += 8; at < 28 || at > len(p) {
		return nil
	}
	return p[at:]
}

// forgetCached tells the system's own resolver to forget its cache: what it has was not judged by the rules now in force.
func forgetCached() {
	ctx, cancel := context.WithTimeout(context.Background(), busWait)
	defer cancel()
	flushResolved(ctx)
}
