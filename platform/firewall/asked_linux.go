package firewall

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/link"
)

// The attributes of a connection that are needed here (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctTupleOrig  = 1 // CTA_TUPLE_ORIG
	ctTupleReply = 2 // CTA_TUPLE_REPLY
	ctIP         = 1 // CTA_TUPLE_IP
	ctProto      = 2 // CTA_TUPLE_PROTO
	ctV4Src      = 1 // CTA_IP_V4_SRC; then V4_DST, V6_SRC, V6_DST
	ctV6Src      = 3
	ctProtoNum   = 1 // CTA_PROTO_NUM; then SRC_PORT, DST_PORT
	ctGet        = 1 // IPCTNL_MSG_CT_GET
	ctDelete     = 2 // IPCTNL_MSG_CT_DELETE
)

// Asked tells which server a question was sent to before it was redirected to us; from is its sender, and its address is
// where we received it. false if it was not redirected. It is asked for every question, so it is one small message each way.
func (f *Firewall) Asked(proto uint8, from netip.AddrPort) (netip.AddrPort, bool) {
	none := netip.AddrPort{}
	at := netip.AddrPortFrom(from.Addr(), link.ResolverPort)
	// The reply's tuple is the one that we see: it goes from us to the sender.
	list, err := f.tracked(ctGet, 0, ctTupleReply, proto, at, from)
	if err != nil || len(list) < 4 {
		return none, false
	}
	to := origin(list[4:])
	return to, to.IsValid() && to != at
}

// Forget makes the kernel forget a connection that we have begun.
func (f *Firewall) Forget(proto uint8, own, far netip.AddrPort) {
	plain := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(a.Addr().WithZone("").Unmap(), a.Port())
	}
	_, _ = f.tracked(ctDelete, netlink.Acknowledge, ctTupleOrig, proto, plain(own), plain(far)) // it may be forgotten already
}

// tracked asks the kernel's connection tracking about the connection with one of its tuples.
func (f *Firewall) tracked(message uint16, flags netlink.HeaderFlags, tuple uint16, proto uint8, src, dst netip.AddrPort) ([]byte, error) {
	family, first := byte(unix.AF_INET), uint16(ctV4Src)
	if src.Addr().Is6() {
		family, first = unix.AF_INET6, ctV6Src
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = bigEndian
	e.Nested(tuple, func(t *netlink.AttributeEncoder) error {
		t.Nested(ctIP, func(n *netlink.AttributeEncoder) error {
			n.Bytes(first, src.Addr().AsSlice())
			n.Bytes(first+1, dst.Addr().AsSlice())
			return nil
		})
		t.Nested(ctProto, func(n *netlink.AttributeEncoder) error {
			n.ByteOrder = bigEndian
			n.Uint8(ctProtoNum, proto)
			n.Uint16(ctProtoNum+1, src.Port())
			n.Uint16(ctProtoNum+2, dst.Port())
			return nil
		})
		return nil
	})
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	f.track.Lock()
	defer f.track.Unlock()
	if f.tracker == 0 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err != nil {
			return nil, err
		}
		f.tracker = fd
	}
	list, err := f.exchange(message, flags, append([]byte{family, 0, 0, 0}, b...))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		_ = unix.Close(f.tracker)
		f.tracker = 0
	}
	return list, err
}

// exchange sends one request, and reads its answer, which is there when the request has been sent: the kernel answers in
// the sender's own call. The library waits for the end of a list that never comes, because the kernel marks this one
// answer as a part of many.
func (f *Firewall) exchange(message uint16, flags netlink.HeaderFlags, data []byte) ([]byte, error) {
	f.sequence++
	length := uint32(16 + len(data)) //nolint:gosec // some 100 bytes
	m := netlink.Message{Header: netlink.Header{Length: length, Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | message),
		Flags: netlink.Request | flags, Sequence: f.sequence}, Data: data}
	b, err := m.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if err := unix.Sendto(f.tracker, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var buf [4096]byte
	n, err := unix.Read(f.tracker, buf[:])
	if err != nil {
		return nil, err
	}
	var got netlink.Message
	if err := got.UnmarshalBinary(buf[:n]); err != nil {
		return nil, err
	}
	if got.Header.Sequence != f.sequence {
		return nil, errors.New("out of step")
	}
	if got.Header.Type == netlink.Error {
		if len(got.Data) < 4 {
			return nil, errors.New("the error is short")
		}
		if code := int32(binary.NativeEndian.Uint32(got.Data)); code != 0 { //nolint:gosec // the kernel's negative errno
			return nil, unix.Errno(-code)
		}
	}
	return slices.Clone(got.Data), nil
}

// origin is where a connection's first packet was sent to.
func origin(attrs []byte) netip.AddrPort {
	var addr netip.Addr
	var port uint16
	ad, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return netip.AddrPort{}
	}
	for ad.Next() {
		if ad.Type() != ctTupleOrig {
			continue
		}
		ad.Nested(func(t *netlink.AttributeDecoder) error {
			for t.Next() {
				switch t.Type() {
				case ctIP:
					t.Nested(func(n *netlink.AttributeDecoder) error {
						for n.Next() {
							if n.Type() == ctV4Src+1 || n.Type() == ctV6Src+1 {
								addr, _ = netip.AddrFromSlice(n.Bytes())
							}
						}
						return nil
					})
				case ctProto:
					t.Nested(func(n *netlink.AttributeDecoder) error {
						n.ByteOrder = bigEndian
						for n.Next() {
							if n.Type() == ctProtoNum+2 {
								port = n.Uint16()
							}
						}
						return nil
					})
				}
			}
			return nil
		})
	}
	if ad.Err() != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, port)
}
