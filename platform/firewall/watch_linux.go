package firewall

import (
	"bytes"
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Attributes and messages that golang.org/x/sys does not name (linux/netfilter/nf_tables.h).
const (
	genProcPID  = 2 // NFTA_GEN_PROC_PID
	genProcName = 3 // NFTA_GEN_PROC_NAME
)

// Watch reports transactions of other programs that concern our table.
func (f *Firewall) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if f.off {
		<-ctx.Done()
		return nil
	}
	return watchTable(ctx, Table, names, f.port, changed)
}

// watchTable reports transactions of other programs that concern a table. Each transaction's messages end with one that names
// the program. own is our own address at netlink.
func watchTable(ctx context.Context, table string, key enforce.Key, own func() uint32, changed func(platform.Touch)) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("cannot watch nftables: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_ = c.SetReadBuffer(socketBuffer) // one transaction may be some thousand messages; without it some are lost
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot watch nftables: %w", err)
	}
	concerned := false
	for {
		list, err := c.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			changed(platform.Touch{}) // messages were lost
			continue
		}
		for _, m := range list {
			if m.Header.PID != 0 && m.Header.PID == own() || uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES ||
				len(m.Data) < 4 {
				continue
			}
			if uint16(m.Header.Type)&0xff != unix.NFT_MSG_NEWGEN {
				concerned = concerned || isAbout(m.Data[4:], table)
				continue
			}
			if concerned {
				changed(platform.Touch{Key: key, By: program(m.Data[4:])})
			}
			concerned = false
		}
	}
}

// port is our own address at netlink.
func (f *Firewall) port() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.own
}

// isAbout reports whether a message is about a table: its name is the first attribute of each kind of message.
func isAbout(attrs []byte, table string) bool {
	list, err := netlink.UnmarshalAttributes(attrs)
	if err != nil {
		return false
	}
	for _, a := range list {
		if a.Type&^unix.NLA_F_NESTED == unix.NFTA_TABLE_NAME {
			return string(bytes.TrimRight(a.Data, "\x00")) == table
		}
	}
	return false
}

// program is who made a transaction.
func program(attrs []byte) (p enforce.Program) {
	ad, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return p
	}
	ad.ByteOrder = bigEndian
	for ad.Next() {
		switch ad.Type() {
		case genProcName:
			p.Name = ad.String()
		case genProcPID:
			p.PID = int(ad.Uint32())
		}
	}
	return p
}
